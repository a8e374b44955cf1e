package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
	"github.com/kontiki/kontiki/test/await"
)

// previous makes a master one of the previous program.
func previous(cfg *Config) { cfg.FeatureLevel, cfg.Version = FeatureLevel-1, "previous" }

func (n *node) awaitLevel(level int) {
	n.t.Helper()
	await.That(n.t, fmt.Sprintf("feature level %d on %s", level, n.cfg.Name), func() error {
		if have := n.c.FeatureLevel(); have != level {
			return fmt.Errorf("it is at %d", have)
		}
		return nil
	})
}

// count proposes what only the newest level allows.
func (n *node) count() (kv.Result, error) {
	n.t.Helper()
	return n.c.Propose(context.Background(), n.newest("/t/a/b/0"))
}

// newest returns a command that only the newest level allows: it counts to at most one, and rewrites a key without a change.
func (n *node) newest(key string) *kv.Command {
	n.t.Helper()
	n.get(key) // so that the local state has it
	v, ok := n.c.store.View().Get(key)
	if !ok {
		n.t.Fatalf("%s does not have %s", n.cfg.Name, key)
	}
	return &kv.Command{ID: random.CommandID(), Ops: []kv.Op{
		{Key: "/t/a/b/count", Add: 1, Cond: kv.AtMost, Most: 1},
		{Key: key, Value: v.Value, Rewrite: true, Cond: kv.AtRevision, Revision: v.ModRevision},
	}}
}

// TestRollingUpgrade replaces masters of the previous program one by one, with each kind leading the other, and writes all
// the while. The level rises with the last one and not before.
func TestRollingUpgrade(t *testing.T) {
	m := startMasters(t, 3, previous)
	for i, n := range m.nodes {
		n.awaitLevel(FeatureLevel - 1)
		n.put(fmt.Sprint("/t/a/b/", i), "before")
	}
	for i, n := range m.nodes {
		if err := m.leader().c.requireLevel(context.Background(), FeatureLevel, "something new"); !errors.Is(err, errclass.ErrFeatureLevel) || !strings.Contains(err.Error(), "previous") {
			t.Fatalf("something new while %d masters are of the previous program: %v", 3-i, err)
		}
		if _, err := n.count(); !errors.Is(err, kv.ErrUnsupported) {
			t.Fatalf("a new command while %d masters are of the previous program: %v", 3-i, err)
		}
		n.stop()
		n.cfg.FeatureLevel, n.cfg.Version = 0, "next"
		n.start()
		n.waitReady()
		for j, other := range m.nodes {
			other.put(fmt.Sprintf("/t/a/b/%d-%d", i, j), "during")
		}
		if i == 0 { // the next program leads masters of the previous one
			m.lead(n)
			m.nodes[2].put("/t/a/b/led", "by the next")
			if level := n.c.FeatureLevel(); level != FeatureLevel-1 {
				t.Fatalf("the level rose to %d under the previous program's eyes", level)
			}
		}
	}
	for _, n := range m.nodes {
		n.awaitLevel(FeatureLevel)
		if got := n.get("/t/a/b/led"); got != "by the next" {
			t.Errorf("%s reads %q", n.cfg.Name, got)
		}
	}
	if r, err := m.nodes[0].count(); err != nil || r.Failed != nil {
		t.Errorf("what the level allows: %+v, %v", r, err)
	}
	for _, n := range m.nodes { // the reason of a failure reaches the masters that do not lead
		if r, err := n.count(); err != nil || r.Failed == nil || r.Failed.Cond != kv.AtMost || r.Failed.Count != 1 {
			t.Errorf("%s: above the limit: %+v, %v", n.cfg.Name, r, err)
		}
	}

	// There is no way back: neither for a member nor for a new one.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	old := m.nodes[2]
	old.stop()
	previous(&old.cfg)
	c, err := Open(ctx, old.cfg)
	if err == nil {
		err = c.Run(ctx)
	}
	if !errors.Is(err, errclass.ErrFeatureLevel) || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("a master that was downgraded: %v", err)
	}
	joiner := testConfig(t, "master-4")
	joiner.Join, joiner.Token = []string{m.nodes[0].c.Address()}, m.token()
	previous(&joiner)
	if _, err := Open(ctx, joiner); !errors.Is(err, errclass.ErrFeatureLevel) || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("a new master of the previous program: %v", err)
	}
}

// TestAnOlderProgramStopsBeforeItDiverges: should a command come that it does not know, a master stops with the state from
// before it, and goes on from there once it is upgraded.
func TestAnOlderProgramStopsBeforeItDiverges(t *testing.T) {
	m := startMasters(t, 3, previous)
	old := m.nodes[2]
	for _, n := range m.nodes[:2] {
		n.stop()
		n.cfg.FeatureLevel = 0
		n.start()
		n.waitReady()
	}
	m.lead(m.nodes[0])
	m.leader().put("/t/a/b/c", "known")
	before := old.get("/t/a/b/c")
	data, err := fsm.EncodeCommand(m.leader().newest("/t/a/b/c"))
	if err != nil {
		t.Fatal(err)
	}
	if state, err := m.leader().c.consensus.Internals().Propose(t.Context(), data); state != clusterv1.Outcome_STATE_COMMITTED {
		t.Fatal(state, err)
	}
	err = <-old.stopped
	if !errors.Is(err, errclass.ErrFeatureLevel) {
		t.Fatalf("the older program ended with: %v", err)
	}
	old.c = nil
	m.leader().put("/t/a/b/c", "later")
	old.cfg.FeatureLevel = 0
	old.start()
	old.waitReady()
	if got := old.get("/t/a/b/c"); before != "known" || got != "later" || old.get("/t/a/b/count") != "1" {
		t.Errorf("before %q, after the upgrade %q at revision %d", before, got, old.c.store.View().Revision())
	}
}

// TestALeaderThatCannotApplyACommandDoesNotCallItInvalid: it is committed, and masters of the newer program apply it.
func TestALeaderThatCannotApplyACommandDoesNotCallItInvalid(t *testing.T) {
	n := startMasters(t, 1).nodes[0]
	newer := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), fsm.CommandVersion+1)
	if state, err := n.c.consensus.Internals().Propose(t.Context(), newer); state != clusterv1.Outcome_STATE_UNKNOWN {
		t.Errorf("the outcome is %v: %v", state, err)
	}
	if err := <-n.stopped; !errors.Is(err, errclass.ErrFeatureLevel) {
		t.Errorf("the master ended with: %v", err)
	}
	n.c = nil
}
