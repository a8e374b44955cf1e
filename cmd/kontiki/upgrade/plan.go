package upgrade

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/cluster"
)

// Cluster is the cluster that is upgraded.
type Cluster interface {
	// Status returns the masters' status.
	Status(ctx context.Context) (*cluster.Status, error)
	// Transfer hands leadership over to a master.
	Transfer(ctx context.Context, to string) error
	// Nodes returns all nodes.
	Nodes(ctx context.Context) ([]corev1.Node, error)
	// Pods returns the pods of a node.
	Pods(ctx context.Context, node string) ([]corev1.Pod, error)
}

// Role is what runs on a host.
type Role string

// A master's host may also be a worker: both are one program.
const (
	Master Role = "master"
	Both   Role = "master+worker"
	Worker Role = "worker"
)

// Host is a host to upgrade.
type Host struct {
	Name    string `json:"name"`
	Role    Role   `json:"role"`
	Address string `json:"address"`
	// Version is that of the program that runs on it.
	Version string `json:"version"`
	Leads   bool   `json:"leads,omitempty"`
}

// state is what is known of a cluster at a time.
type state struct {
	status *cluster.Status
	nodes  []corev1.Node
}

func look(ctx context.Context, c Cluster) (state, error) {
	status, err := c.Status(ctx)
	if err != nil {
		return state{}, err
	}
	nodes, err := c.Nodes(ctx)
	if err != nil {
		return state{}, err
	}
	// Simulated workers, and nodes of other programs, have no program of ours.
	nodes = slices.DeleteFunc(nodes, func(n corev1.Node) bool {
		return !strings.Contains(n.Status.NodeInfo.KubeletVersion, "+kontiki") || n.Labels[hollowLabel] != ""
	})
	return state{status, nodes}, nil
}

// hollowLabel is on the nodes of simulated workers.
const hollowLabel = "kontiki.io/hollow"

func (s state) node(name string) *corev1.Node {
	i := slices.IndexFunc(s.nodes, func(n corev1.Node) bool { return n.Name == name })
	if i < 0 {
		return nil
	}
	return &s.nodes[i]
}

func (s state) member(name string) *cluster.MemberStatus {
	i := slices.IndexFunc(s.status.Members, func(m cluster.MemberStatus) bool { return m.Name == name })
	if i < 0 {
		return nil
	}
	return &s.status.Members[i]
}

// hosts returns all hosts in the order in which they are upgraded.
func (s state) hosts() []Host {
	var out []Host
	for _, m := range s.status.Members {
		h := Host{Name: m.Name, Role: Master, Version: m.Version, Leads: m.Name == s.status.Leader}
		if h.Address, _, _ = net.SplitHostPort(m.Address); s.node(m.Name) != nil {
			h.Role = Both
		}
		out = append(out, h)
	}
	for i := range s.nodes {
		n := &s.nodes[i]
		if s.member(n.Name) != nil {
			continue
		}
		h := Host{Name: n.Name, Role: Worker, Version: n.Status.NodeInfo.KubeletVersion}
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				h.Address = cmp.Or(h.Address, a.Address)
			}
		}
		out = append(out, h)
	}
	slices.SortStableFunc(out, func(a, b Host) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), strings.Compare(a.Name, b.Name))
	})
	return out
}

func (h Host) rank() int {
	switch {
	case h.Role == Worker:
		return 2
	case h.Leads:
		return 1
	}
	return 0
}

// done says whether a host runs the version. A host that is both runs one program, but its worker may not have reported it yet.
func (s state) done(h Host, version string) bool {
	if h.Role == Both {
		if n := s.node(h.Name); n != nil && n.Status.NodeInfo.KubeletVersion != version {
			return false
		}
	}
	return h.Version == version
}

// Plan returns the hosts that do not run the version, in the order in which they would be upgraded, and what is in the way.
func Plan(ctx context.Context, o Options) (hosts []Host, problems []string, err error) {
	s, err := look(ctx, o.Cluster)
	if err != nil {
		return nil, nil, err
	}
	hosts = s.remaining(o.Version)
	if len(hosts) > 0 {
		problems = s.unfit(hosts[0], o.AllowInterruption)
	}
	return hosts, problems, nil
}

func (s state) remaining(version string) []Host {
	return slices.DeleteFunc(s.hosts(), func(h Host) bool { return s.done(h, version) })
}

// unfit says why the cluster is not in a state in which a host may be taken away for a moment.
func (s state) unfit(next Host, interruption bool) []string {
	problems := slices.Clone(s.status.Problems)
	for i := range s.nodes {
		if problem := notReady(&s.nodes[i]); problem != "" {
			problems = append(problems, problem)
		}
	}
	if next.Role != Worker && s.status.FailuresTolerated < 1 && !interruption {
		problems = append(problems, fmt.Sprintf("while %s restarts, the %d master(s) have no majority, and the API is away: --allow-interruption accepts that",
			next.Name, len(s.status.Members)))
	}
	return problems
}

func notReady(n *corev1.Node) string {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return ""
		}
	}
	return fmt.Sprintf("worker %s is not ready", n.Name)
}

// transferTo returns the master to which leadership goes before the leader's host is upgraded: one of the new version if there is one. ok is
// false if there is no other.
func (s state) transferTo(version string) (name string, ok bool) {
	for _, m := range s.status.Members {
		if m.Role != cluster.StatusVoter || m.Health != cluster.HealthOK {
			continue
		}
		if !ok || m.Version == version {
			name, ok = m.Name, true
		}
		if m.Version == version {
			return name, true
		}
	}
	return name, ok
}

// away says what a host still lacks after its program was replaced; nil if it is back. committed is how much of the log was committed when
// it was first seen again.
func (s state) away(h Host, version string, committed uint64) error {
	if h.Role != Worker {
		m := s.member(h.Name)
		switch {
		case m == nil:
			return fmt.Errorf("master %s is not a member any more", h.Name)
		case m.Version != version:
			return fmt.Errorf("master %s runs version %q, not %s", h.Name, m.Version, version)
		case m.AppliedIndex < committed:
			return fmt.Errorf("master %s has applied the log up to %d, of %d", h.Name, m.AppliedIndex, committed)
		}
	}
	if len(s.status.Problems) > 0 {
		return errors.New(strings.Join(s.status.Problems, "; "))
	}
	if h.Role != Master {
		n := s.node(h.Name)
		switch {
		case n == nil:
			return fmt.Errorf("there is no node %s any more", h.Name)
		case n.Status.NodeInfo.KubeletVersion != version:
			return fmt.Errorf("worker %s runs version %q, not %s", h.Name, n.Status.NodeInfo.KubeletVersion, version)
		}
		if problem := notReady(n); problem != "" {
			return errors.New(problem)
		}
	}
	return nil
}
