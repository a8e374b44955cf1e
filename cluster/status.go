package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/pki"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// Roles of masters in Status.
const (
	StatusLeader   = "leader"
	StatusVoter    = "voter"
	StatusNonvoter = "nonvoter"
)

// Health of masters in Status. A master that responds with a condition (consensus.ConditionDiskFull, ...) shows that instead.
const (
	HealthOK          = "ok"
	HealthNoLeader    = "no-leader"   // it responds, and knows of no leader
	HealthBehind      = "behind"      // it responds, and lacks more than the last behindEntries committed entries
	HealthUnreachable = "unreachable" // it did not respond within a second
)

const (
	// lowDisk is the share of a disk that should be free. certificateSoon is how long before its expiry a certificate is a problem: it
	// should have been renewed long before.
	lowDisk         = 0.05
	certificateSoon = 14 * 24 * time.Hour
	// behindEntries is how much the log may grow between the responses of two masters; a master that lacks more is catching up.
	behindEntries = 1000
)

// Status is the status of the cluster, as one master collects it from all others.
type Status struct {
	certificateSoon time.Duration // how much of a certificate's lifetime must be left; less than the constant if lifetimes are short

	ClusterID    string `json:"clusterID"`
	Leader       string `json:"leader"`
	Term         uint64 `json:"term"`
	CommitIndex  uint64 `json:"commitIndex"`
	Revision     uint64 `json:"revision"`
	Epoch        uint64 `json:"epoch"`
	FeatureLevel int    `json:"featureLevel"`
	// Behind are the masters that keep the feature level below the newest program's, because of their version or because they do not
	// respond. An upgrade in progress is no problem: all versions in the cluster work together.
	Behind []string `json:"behind,omitempty"`
	// FailuresTolerated is how many more masters may fail before writes stop; -1 if they have stopped.
	FailuresTolerated int            `json:"failuresTolerated"`
	Members           []MemberStatus `json:"members"`
	// Problems describe what is wrong. The cluster is degraded if there are any.
	Problems []string `json:"problems"`
}

// MemberStatus is one master in Status. Fields that an unreachable master did not report are zero.
type MemberStatus struct {
	Name        string `json:"name"`
	Role        string `json:"role"`
	Address     string `json:"address"`
	APIAddress  string `json:"apiAddress,omitempty"`
	Version     string `json:"version"`
	Health      string `json:"health"`
	LastContact string `json:"lastContact"` // time since it heard from the leader; "0s" for the leader itself, or "never"
	// RoundTrip is how long its response to the master that collected the status took; "0s" for that master itself.
	RoundTrip    string `json:"roundTrip,omitempty"`
	Gossip       string `json:"gossip"` // its state in gossip: alive, suspect, dead, left, unknown
	AppliedIndex uint64 `json:"appliedIndex"`
	LastIndex    uint64 `json:"lastIndex"`
	Revision     uint64 `json:"revision"`
	FeatureLevel int    `json:"featureLevel,omitempty"`
	// DiskWrite is the duration of the slowest recent write to its raft log; DiskFree and DiskTotal are sizes in bytes of the file system
	// of its data.
	DiskWrite          string    `json:"diskWrite,omitempty"`
	DiskFree           uint64    `json:"diskFree,omitempty"`
	DiskTotal          uint64    `json:"diskTotal,omitempty"`
	CertificateExpires time.Time `json:"certificateExpires,omitzero"`
	// Settings are the flags that must be the same on all masters (Settings.Shared).
	Settings map[string]string `json:"settings,omitempty"`
}

// Status asks every master, and returns within two seconds; masters that do not respond are shown as unreachable.
func (c *Cluster) Status(ctx context.Context) (*Status, error) {
	lead := c.consensus.Leadership()
	view := c.store.View()
	level, _ := consensus.LevelOf(view)
	epoch, _, err := backup.EpochOf(view)
	if err != nil {
		return nil, fmt.Errorf("cluster status: %w", err)
	}
	s := &Status{
		ClusterID: c.identity.ClusterID, Leader: lead.Name, Term: c.consensus.Term(), CommitIndex: c.consensus.CommitIndex(),
		Revision: view.Revision(), Epoch: epoch.Number, FeatureLevel: level,
	}
	answers := c.askAll(ctx)
	for _, server := range c.consensus.Servers() {
		if server.ID == raft.ServerID(c.cfg.Name) {
			answers = append(answers, answer{server: server, status: c.nodeStatus()})
		}
	}
	gossip := map[string]gossip.Member{}
	for _, m := range c.gossip.Members() {
		if m.Role == pki.RoleMaster {
			gossip[m.Name] = m
		}
	}
	committed := s.CommitIndex
	for _, a := range answers {
		committed = max(committed, a.status.GetCommitIndex())
	}
	s.Members = make([]MemberStatus, 0, len(answers))
	for _, a := range answers {
		s.Members = append(s.Members, memberStatus(a, lead.Name, committed, gossip[string(a.server.ID)]))
	}
	slices.SortFunc(s.Members, func(a, b MemberStatus) int { return strings.Compare(a.Name, b.Name) })
	s.FailuresTolerated = tolerated(s.Members)
	s.Behind = behind(s.Members, level)
	s.certificateSoon = min(certificateSoon, c.identity.Lifetime()/4)
	s.Problems = s.problems(time.Now())
	return s, nil
}

func memberStatus(a answer, leader string, committed uint64, seen gossip.Member) MemberStatus {
	m := MemberStatus{
		Name: string(a.server.ID), Address: string(a.server.Address), Role: StatusVoter, Health: HealthUnreachable, LastContact: "never",
		APIAddress: seen.APIAddress, Gossip: string(seen.State),
	}
	if m.Gossip == "" {
		m.Gossip = "unknown"
	}
	switch {
	case m.Name == leader:
		m.Role = StatusLeader
	case a.server.Suffrage != raft.Voter:
		m.Role = StatusNonvoter
	}
	said := a.status
	if said == nil {
		return m
	}
	m.Settings = said.Settings
	m.Version, m.AppliedIndex, m.LastIndex, m.Revision = said.Version, said.AppliedIndex, said.LastIndex, said.Revision
	m.FeatureLevel = max(int(said.FeatureLevel), 1)
	m.RoundTrip = a.took.Round(10 * time.Microsecond).String()
	m.DiskFree, m.DiskTotal = said.DiskFreeBytes, said.DiskTotalBytes
	if said.DiskWriteUs > 0 {
		m.DiskWrite = (time.Duration(said.DiskWriteUs) * time.Microsecond).String()
	}
	if said.CertificateExpires > 0 {
		m.CertificateExpires = time.Unix(said.CertificateExpires, 0).UTC()
	}
	if said.LastContactMs >= 0 {
		m.LastContact = (time.Duration(said.LastContactMs) * time.Millisecond).String()
	}
	switch {
	case said.Leader == "":
		m.Health = HealthNoLeader
	case said.LastIndex+behindEntries < committed:
		m.Health = HealthBehind
	default:
		m.Health = HealthOK
	}
	if len(said.Conditions) > 0 {
		m.Health = strings.Join(said.Conditions, ",")
	}
	return m
}

// tolerated returns how many of the healthy voting masters may fail while a majority remains; -1 if there is none.
func tolerated(members []MemberStatus) int {
	voters, well := 0, 0
	for _, m := range members {
		if m.Role == StatusNonvoter {
			continue
		}
		voters++
		if m.Health == HealthOK {
			well++
		}
	}
	return max(well-(voters/2+1), -1)
}

// behind returns the masters that support less than the newest one, if the cluster's level is below that.
func behind(members []MemberStatus, level int) (names []string) {
	newest := level
	for _, m := range members {
		newest = max(newest, m.FeatureLevel)
	}
	for _, m := range members {
		if newest > level && m.FeatureLevel < newest {
			names = append(names, m.Name)
		}
	}
	return names
}

// problems describes what is wrong with the cluster.
func (s *Status) problems(now time.Time) []string {
	problems := []string{}
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if s.Leader == "" {
		add("no master leads: writes wait")
	}
	for _, m := range s.Members {
		switch m.Health {
		case HealthOK:
		case HealthUnreachable:
			add("master %s at %s does not answer (gossip: %s); if it is gone for good: kontiki cluster remove %s", m.Name, m.Address, m.Gossip, m.Name)
		case HealthNoLeader:
			add("master %s knows of no leader", m.Name)
		case HealthBehind:
			add("master %s catches up: its log ends at %d", m.Name, m.LastIndex)
		default:
			add("master %s: %s", m.Name, m.Health)
		}
		if m.Role == StatusNonvoter {
			add("master %s has no vote yet", m.Name)
		}
		if m.DiskTotal > 0 && float64(m.DiskFree) < lowDisk*float64(m.DiskTotal) {
			add("the disk of master %s has %d MiB left of %d", m.Name, m.DiskFree>>20, m.DiskTotal>>20)
		}
		if !m.CertificateExpires.IsZero() && m.CertificateExpires.Before(now.Add(cmp.Or(s.certificateSoon, certificateSoon))) {
			add("the certificate of master %s expires at %s", m.Name, m.CertificateExpires.Format(time.RFC3339))
		}
	}
	problems = append(problems, differences(s.Members)...)
	if s.FailuresTolerated == 0 && len(s.Members) > 2 {
		add("one more failure of a master stops writes")
	}
	return problems
}

// nodeStatus returns this master's own status.
func (c *Cluster) nodeStatus() *clusterv1.NodeStatusResponse {
	response := c.consensus.Status()
	response.Version, response.FeatureLevel = c.cfg.Version, int32(c.cfg.FeatureLevel)
	response.Recoveries = c.memberNow().Recoveries
	response.Settings = c.cfg.Settings.Shared
	if certificate, err := c.certificates.Get(); err == nil {
		response.CertificateExpires = certificate.Leaf.NotAfter.Unix()
	}
	response.MemoryAvailableBytes = backup.AvailableMemory("/")
	return response
}
