package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/cluster/gossip"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
	"github.com/kontiki/kontiki/test/await"
)

func TestProblemsAreNamed(t *testing.T) {
	now := time.Now()
	well := func(name, role string) MemberStatus {
		return MemberStatus{Name: name, Role: role, Health: HealthOK, FeatureLevel: 2, DiskFree: 50, DiskTotal: 100, CertificateExpires: now.Add(300 * 24 * time.Hour)}
	}
	whole := func(change func(m []MemberStatus)) *Status {
		s := &Status{Leader: "a", FeatureLevel: 2, Members: []MemberStatus{well("a", StatusLeader), well("b", StatusVoter), well("c", StatusVoter)}}
		change(s.Members)
		s.FailuresTolerated = tolerated(s.Members)
		return s
	}
	for name, x := range map[string]struct {
		change    func(m []MemberStatus)
		tolerated int
		want      []string
	}{
		"well":            {func([]MemberStatus) {}, 1, nil},
		"one is away":     {func(m []MemberStatus) { m[1].Health, m[1].Gossip = HealthUnreachable, "dead" }, 0, []string{"b at", "gossip: dead", "one more failure"}},
		"two are away":    {func(m []MemberStatus) { m[1].Health, m[2].Health = HealthUnreachable, HealthUnreachable }, -1, []string{"master b", "master c"}},
		"a full disk":     {func(m []MemberStatus) { m[2].Health = consensus.ConditionDiskFull }, 0, []string{"master c: disk-full"}},
		"little room":     {func(m []MemberStatus) { m[0].DiskFree = 4 }, 1, []string{"disk of master a"}},
		"an expiry":       {func(m []MemberStatus) { m[0].CertificateExpires = now.Add(time.Hour) }, 1, []string{"certificate of master a"}},
		"no vote":         {func(m []MemberStatus) { m[2].Role = StatusNonvoter }, 0, []string{"c has no vote", "one more failure"}},
		"an upgrade":      {func(m []MemberStatus) { m[0].FeatureLevel = 3 }, 1, nil},
		"one catches up":  {func(m []MemberStatus) { m[1].Health = HealthBehind }, 0, []string{"master b catches up", "one more failure"}},
		"no leader there": {func(m []MemberStatus) { m[1].Health = HealthNoLeader }, 0, []string{"master b knows of no leader"}},
	} {
		s := whole(x.change)
		problems := strings.Join(s.problems(now), "\n")
		if s.FailuresTolerated != x.tolerated || (len(x.want) == 0) != (problems == "") {
			t.Errorf("%s: %d failures are tolerated, want %d; %s", name, s.FailuresTolerated, x.tolerated, problems)
		}
		for _, want := range x.want {
			if !strings.Contains(problems, want) {
				t.Errorf("%s: %q is not among the problems: %s", name, want, problems)
			}
		}
	}
	if problems := (&Status{}).problems(now); len(problems) != 1 || !strings.Contains(problems[0], "no master leads") {
		t.Errorf("without a leader: %v", problems)
	}
}

func TestWhoHoldsTheFeatureLevelBack(t *testing.T) {
	at := func(levels ...int) (members []MemberStatus) {
		for i, level := range levels {
			members = append(members, MemberStatus{Name: fmt.Sprint("m", i), FeatureLevel: level})
		}
		return members
	}
	for _, x := range []struct {
		members []MemberStatus
		want    string
	}{
		{at(2, 2, 2), "[]"}, // as high as it can be
		{at(2, 0, 2), "[]"}, // the same, with one that does not answer
		{at(3, 3, 3), "[]"}, // it rises in a moment
		{at(2, 3, 2), "[m0 m2]"},
		{at(3, 0, 3), "[m1]"},
	} {
		if got := fmt.Sprint(behind(x.members, 2)); got != x.want {
			t.Errorf("%+v: %s, want %s", x.members, got, x.want)
		}
	}
}

func TestMemberStatusOfAnAnswer(t *testing.T) {
	server := raft.Server{ID: "b", Address: "10.0.0.2:6444"}
	if m := memberStatus(answer{server: server}, "a", 5000, gossip.Member{}); m.Health != HealthUnreachable || m.Gossip != "unknown" || m.LastContact != "never" {
		t.Errorf("no answer: %+v", m)
	}
	said := &clusterv1.NodeStatusResponse{Name: "b", Leader: "a", LastContactMs: 7, DiskWriteUs: 1500, Conditions: []string{consensus.ConditionDiskFull, consensus.ConditionDiskStalled}}
	m := memberStatus(answer{server: server, status: said, took: 3 * time.Millisecond}, "a", 5000, gossip.Member{State: gossip.Alive, APIAddress: "10.0.0.2:6443"})
	if m.Health != "disk-full,disk-stalled" || m.RoundTrip != "3ms" || m.DiskWrite != "1.5ms" || m.LastContact != "7ms" || m.FeatureLevel != 1 || m.APIAddress != "10.0.0.2:6443" || m.Gossip != "alive" {
		t.Errorf("%+v", m)
	}
	for end, want := range map[uint64]string{6000: HealthOK, 5000: HealthOK, 5000 - behindEntries: HealthOK, 5000 - behindEntries - 1: HealthBehind} {
		a := answer{server: server, status: &clusterv1.NodeStatusResponse{Name: "b", Leader: "a", LastIndex: end}}
		if m := memberStatus(a, "a", 5000, gossip.Member{}); m.Health != want {
			t.Errorf("a log that ends at %d of 5000: %s, want %s", end, m.Health, want)
		}
	}
}

// TestStatusOfALivingCluster: what is measured is there.
func TestStatusOfALivingCluster(t *testing.T) {
	m := startMasters(t, 3)
	m.nodes[0].put("/t/a", "x")
	await.That(t, "a status without problems", func() error {
		s, err := m.nodes[1].c.Status(t.Context())
		if err != nil {
			return err
		}
		if len(s.Problems) > 0 || len(s.Members) != 3 || s.FailuresTolerated != 1 || s.Epoch != 1 || s.FeatureLevel != FeatureLevel {
			return fmt.Errorf("%+v", s)
		}
		for _, m := range s.Members {
			if m.DiskTotal == 0 || m.DiskWrite == "" || m.CertificateExpires.IsZero() || m.LastIndex == 0 || m.Gossip != "alive" || m.APIAddress == "" {
				return fmt.Errorf("not all is told: %+v", m)
			}
			// Who asks takes no time to answer, and a leader hears from itself; the others were asked, and have heard.
			trip, err := time.ParseDuration(m.RoundTrip)
			if self := m.Name == "master-2"; err != nil || self != (trip == 0) {
				return fmt.Errorf("the round trip to %s by master-2: %q, %v", m.Name, m.RoundTrip, err)
			}
			heard, err := time.ParseDuration(m.LastContact)
			if err != nil || heard < 0 || (m.Name == s.Leader) && heard != 0 {
				return fmt.Errorf("last contact of %s under the leader %s: %q, %v", m.Name, s.Leader, m.LastContact, err)
			}
		}
		return nil
	})
}

// TestTheStatusDoesNotWaitForTheDisk: what a master remembers of itself can be read while a change of it is being synced.
func TestTheStatusDoesNotWaitForTheDisk(t *testing.T) {
	m := startMasters(t, 1)
	c := m.nodes[0].c
	err := c.changeMember(func(changed *member) {
		changed.Recoveries = 7
		if status := c.nodeStatus(); status.Recoveries != 0 {
			t.Errorf("a change that is not on disk is told: %d", status.Recoveries)
		}
	})
	if status := c.nodeStatus(); err != nil || status.Recoveries != 7 {
		t.Errorf("%v, %d", err, status.Recoveries)
	}
}
