package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/test/filetree"
)

// TestPlanningARecoveryChangesNothing: not even what every start tidies up.
func TestPlanningARecoveryChangesNothing(t *testing.T) {
	m := startMasters(t, 3)
	for i := range 20 {
		m.leader().put(fmt.Sprint("/t/a/b/", i), "x")
	}
	n := m.nodes[1]
	for _, other := range m.nodes {
		other.kill()
	}
	unfinished := filepath.Join(n.raftDir(), "snapshots", "2-7-1.tmp")
	if err := os.MkdirAll(unfinished, 0o700); err != nil {
		t.Fatal(err)
	}
	before := filetree.Contents(t, n.cfg.DataDir)
	plan, err := PlanRecovery(n.cfg.DataDir, testLog(t))
	if err != nil || plan.Name != "master-2" || len(plan.Left) != 2 || plan.LastIndex < 20 {
		t.Fatalf("%+v, %v", plan, err)
	}
	if after := filetree.Contents(t, n.cfg.DataDir); !maps.Equal(before, after) {
		t.Errorf("the data were %v, are %v", before, after)
	}
	if _, err := Recover(n.cfg.DataDir, testLog(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(unfinished); err == nil {
		t.Error("the unfinished snapshot is still there after the recovery: the test shows less than it says")
	}
	n.start()
	n.waitReady()
	if got := n.get("/t/a/b/7"); got != "x" {
		t.Errorf("after the recovery it reads %q", got)
	}
}

// TestOldGossipOfARecoveryStopsNobody hears of a recovery that the master itself does not know of: its machine, or the whole cluster,
// has begun anew since.
func TestOldGossipOfARecoveryStopsNobody(t *testing.T) {
	t.Parallel()
	m := startMasters(t, 2)
	n, other := m.nodes[0], m.nodes[1]
	old := gossip.Member{Name: other.cfg.Name, Role: mtls.RoleMaster, State: gossip.Alive, Address: other.c.Address(), Recoveries: 1}
	if known, err := n.c.wentOnWithout(context.Background(), old); !known || err != nil {
		t.Errorf("the other was asked: %v, %v", known, err)
	}
	if err := other.c.changeMember(func(m *member) { m.Recoveries = 1 }); err != nil {
		t.Fatal(err)
	}
	if known, err := n.c.wentOnWithout(context.Background(), old); !known || !errors.Is(err, ErrStale) {
		t.Errorf("the other knows of a recovery: %v, %v", known, err)
	}
	if err := other.c.changeMember(func(m *member) { m.Recoveries = 0 }); err != nil {
		t.Fatal(err)
	}
	other.kill()
	if known, err := n.c.wentOnWithout(context.Background(), old); known || err != nil {
		t.Errorf("the other is gone: %v, %v", known, err)
	}
}
