package cluster

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// Roles of masters in Status.
const (
	StatusLeader   = "leader"
	StatusVoter    = "voter"
	StatusNonvoter = "nonvoter"
)

// Health of masters in Status.
const (
	HealthOK          = "ok"
	HealthNoLeader    = "no-leader"   // it answers, and knows of no leader
	HealthUnreachable = "unreachable" // it did not answer within a second
)

// Status is the cluster as one master sees it, gathered by asking every other one.
type Status struct {
	ClusterID   string         `json:"clusterID"`
	Leader      string         `json:"leader"`
	Term        uint64         `json:"term"`
	CommitIndex uint64         `json:"commitIndex"`
	Revision    uint64         `json:"revision"`
	Members     []MemberStatus `json:"members"`
}

// MemberStatus is one master in Status. What an unreachable one did not tell is zero.
type MemberStatus struct {
	Name         string `json:"name"`
	Role         string `json:"role"`
	Address      string `json:"address"`
	APIAddress   string `json:"apiAddress,omitempty"`
	Version      string `json:"version"`
	Health       string `json:"health"`
	LastContact  string `json:"lastContact"` // how long ago it heard from the leader; "0s" for the leader, "never"
	AppliedIndex uint64 `json:"appliedIndex"`
	Revision     uint64 `json:"revision"`
}

// Status asks every master and answers within two seconds; masters that do not answer are shown as such.
func (c *Cluster) Status(ctx context.Context) (*Status, error) {
	ctx, cancel := context.WithTimeout(ctx, aliveBound)
	defer cancel()
	lead := c.leaders.current()
	s := &Status{
		ClusterID:   c.identity.ClusterID,
		Leader:      lead.name,
		Term:        c.replica.raft.CurrentTerm(),
		CommitIndex: c.replica.raft.CommitIndex(),
		Revision:    c.store.View().Revision(),
		Members:     []MemberStatus{},
	}
	api := map[string]string{c.cfg.Name: c.cfg.APIAddress}
	for _, m := range c.gossip.Members() {
		if m.Role == RoleMaster && m.APIAddress != "" {
			api[m.Name] = m.APIAddress
		}
	}
	servers := c.replica.servers()
	members := make([]MemberStatus, len(servers))
	var wg sync.WaitGroup
	for i, server := range servers {
		m := &members[i]
		*m = MemberStatus{Name: string(server.ID), Address: string(server.Address), Role: StatusVoter, Health: HealthUnreachable, LastContact: "never"}
		m.APIAddress = api[m.Name]
		switch {
		case m.Name == lead.name:
			m.Role = StatusLeader
		case server.Suffrage != raft.Voter:
			m.Role = StatusNonvoter
		}
		wg.Go(func() {
			answer := c.nodeStatus()
			if m.Name != c.cfg.Name {
				var err error
				if answer, err = c.ask(ctx, m.Address); err != nil || answer.Name != m.Name {
					return
				}
			}
			m.Version, m.AppliedIndex, m.Revision = answer.Version, answer.AppliedIndex, answer.Revision
			m.Health = HealthOK
			if answer.Leader == "" {
				m.Health = HealthNoLeader
			}
			if len(answer.Conditions) > 0 {
				m.Health = strings.Join(answer.Conditions, ",")
			}
			if answer.LastContactMs >= 0 {
				m.LastContact = (time.Duration(answer.LastContactMs) * time.Millisecond).String()
			}
		})
	}
	wg.Wait()
	s.Members = append(s.Members, members...)
	slices.SortFunc(s.Members, func(a, b MemberStatus) int { return strings.Compare(a.Name, b.Name) })
	return s, nil
}

// nodeStatus is what this master knows of itself.
func (c *Cluster) nodeStatus() *clusterv1.NodeStatusResponse {
	node := c.replica.raft
	response := &clusterv1.NodeStatusResponse{
		Name:          c.cfg.Name,
		Address:       c.address,
		Version:       c.cfg.Version,
		State:         node.State().String(),
		Term:          node.CurrentTerm(),
		AppliedIndex:  c.store.AppliedIndex(),
		LastIndex:     node.LastIndex(),
		CommitIndex:   node.CommitIndex(),
		Revision:      c.store.View().Revision(),
		Leader:        c.leaders.current().name,
		LastContactMs: -1,
		FeatureLevel:  int32(c.cfg.FeatureLevel),
		Recoveries:    c.memberNow().Recoveries,
	}
	response.Conditions = c.disk.conditions()
	for _, server := range c.replica.servers() {
		response.Masters = append(response.Masters, string(server.ID))
	}
	if node.State() == raft.Leader {
		response.LastContactMs = 0
	} else if last := node.LastContact(); !last.IsZero() {
		response.LastContactMs = time.Since(last).Milliseconds()
	}
	return response
}
