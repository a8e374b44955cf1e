package cluster

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"testing"

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
