package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
	"github.com/kontiki/kontiki/test/await"
)

func TestNoAcknowledgedWriteIsLostWithTheLeader(t *testing.T) {
	m := startMasters(t, 3)
	leader := m.leader()
	survivors := m.followers()

	var mu sync.Mutex
	acknowledged := map[string]string{}
	var stop atomic.Bool
	var after atomic.Int64
	var killed atomic.Bool
	var wg sync.WaitGroup
	for w := range 16 {
		n := survivors[w%2]
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				key, value := fmt.Sprintf("/t/w/%d/%d", w, i), fmt.Sprint(i)
				counted := killed.Load()
				// Each write adds its key: applied twice under one id it would fail its own condition.
				result, err := n.c.Propose(context.Background(), &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: key, Value: []byte(value), Cond: kv.Absent}}})
				if err != nil {
					t.Errorf("propose %s: %v", key, err)
					return
				}
				if result.Failed != nil {
					t.Errorf("%s was applied twice: %v", key, result.Failed)
					return
				}
				mu.Lock()
				acknowledged[key] = value
				mu.Unlock()
				if counted {
					after.Add(1)
				}
			}
		})
	}
	await.That(t, "some writes", func() error {
		mu.Lock()
		defer mu.Unlock()
		if len(acknowledged) < 200 {
			return fmt.Errorf("%d writes", len(acknowledged))
		}
		return nil
	})
	leader.kill()
	killed.Store(true)
	await.That(t, "writes under the next leader", func() error {
		if n := after.Load(); n < 200 {
			return fmt.Errorf("%d writes", n)
		}
		return nil
	})
	stop.Store(true)
	wg.Wait()

	leader.start()
	leader.waitReady()
	for _, n := range m.nodes {
		view, err := n.c.Consistent(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range acknowledged {
			if v, ok := view.Get(key); !ok || string(v.Value) != value {
				t.Fatalf("%s lost the acknowledged write of %s", n.cfg.Name, key)
			}
		}
	}
	t.Logf("%d writes acknowledged, %d after the leader was killed", len(acknowledged), after.Load())
}

func TestOneCommandProposedTwiceIsAnsweredOnce(t *testing.T) {
	m := startMasters(t, 3)
	cmd := &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: "/t/a/b/c", Value: []byte("x"), Cond: kv.Absent}}}
	var first kv.Result
	for i, n := range m.nodes {
		result, err := n.c.Propose(context.Background(), cmd)
		if err != nil || result.Failed != nil {
			t.Fatalf("%s: %+v, %v", n.cfg.Name, result, err)
		}
		if i == 0 {
			first = result
		} else if result.Revision != first.Revision || result.Revisions[0] != first.Revisions[0] {
			t.Fatalf("%s answered %+v, the first answer was %+v", n.cfg.Name, result, first)
		}
	}
}

func TestWithoutAQuorumErrorsSayWhatIsKnown(t *testing.T) {
	m := startMasters(t, 3)
	leader := m.leader()
	for _, n := range m.followers() {
		n.kill()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := leader.c.Propose(ctx, put("/t/a/b/c", "x"))
	if !errors.Is(err, kv.ErrOutcomeUnknown) {
		t.Errorf("a command that reached the old leader's log: %v", err)
	}
	await.That(t, "the leader to step down", func() error {
		if name, _ := leader.c.Leader(); name != "" {
			return fmt.Errorf("%s leads", name)
		}
		return nil
	})
	ctx, cancel = context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err = leader.c.Propose(ctx, put("/t/a/b/c", "x")); !errors.Is(err, kv.ErrNoLeader) {
		t.Errorf("a command that was never proposed: %v", err)
	}
	ctx, cancel = context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if _, err := leader.c.Consistent(ctx); !errors.Is(err, kv.ErrNoLeader) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a consistent read: %v", err)
	}
}

// Futures can hang forever once raft is shut down.
func TestProposalsEndWhenTheMasterIsClosed(t *testing.T) {
	for _, how := range []string{"stop", "kill"} {
		t.Run(how, func(t *testing.T) {
			m := startMasters(t, 1)
			n := m.nodes[0]
			c := n.c
			var started, wg sync.WaitGroup
			for w := range 64 {
				started.Add(1)
				wg.Go(func() {
					for i := 0; ; i++ {
						_, err := c.Propose(context.Background(), put(fmt.Sprintf("/t/w/%d/k", w), "x"))
						if i == 0 {
							started.Done()
						}
						if err != nil {
							if !errors.Is(err, kv.ErrNoLeader) && !errors.Is(err, kv.ErrOutcomeUnknown) {
								t.Errorf("ended with %v", err)
							}
							return
						}
					}
				})
			}
			started.Wait()
			if how == "stop" {
				n.stop()
			} else {
				n.kill()
			}
			done := make(chan struct{})
			go func() { wg.Wait(); close(done) }()
			select {
			case <-done:
			case <-time.After(patience):
				t.Fatal("proposals hang after the master was closed")
			}
			if _, err := c.Consistent(context.Background()); !errors.Is(err, kv.ErrNoLeader) {
				t.Errorf("a consistent read after the end: %v", err)
			}
		})
	}
}

func TestTransferToADeadMasterIsRefusedAndBlocksNoWrites(t *testing.T) {
	m := startMasters(t, 3)
	leader := m.leader()
	dead := m.followers()[0]
	name := dead.cfg.Name
	dead.kill()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := leader.c.TransferLeadership(ctx, name); err == nil || !errors.Is(err, errclass.ErrRefused) {
		t.Fatalf("transfer to a dead master: %v", err)
	}
	leader.put("/t/a/b/c", "written")

	// Even when raft itself is asked to, what it blocks is freed by cutting the call to the dead peer.
	server := raft.Server{ID: raft.ServerID(name), Address: raft.ServerAddress(dead.cfg.BindAddress)}
	future := leader.c.consensus.Internals().Raft.LeadershipTransferToServer(server.ID, server.Address)
	short, cancelShort := context.WithTimeout(ctx, fast.Election)
	defer cancelShort()
	if err := leader.c.consensus.Await(short, func() raft.Future { return future }); err == nil {
		t.Fatal("leadership was handed to a dead master")
	}
	leader.c.consensus.Internals().Transport.Cut(server.Address)
	leader.put("/t/a/b/c", "again")
}

func TestLinearizableReadsWhileLeadershipMoves(t *testing.T) {
	m := startMasters(t, 3)
	var stop atomic.Bool
	var wg sync.WaitGroup
	// One counter, written in order by one writer; a read may never show less than what was acknowledged before it.
	var acknowledged atomic.Int64
	wg.Go(func() {
		for i := int64(1); !stop.Load(); i++ {
			if _, err := m.nodes[i%3].c.Propose(context.Background(), put("/t/counter", fmt.Sprint(i))); err != nil {
				t.Errorf("write %d: %v", i, err)
				return
			}
			acknowledged.Store(i)
		}
	})
	var reads atomic.Int64
	for _, n := range m.nodes {
		wg.Go(func() {
			for !stop.Load() {
				floor := acknowledged.Load()
				view, err := n.c.Consistent(context.Background())
				if err != nil {
					t.Errorf("read on %s: %v", n.cfg.Name, err)
					return
				}
				var got int64
				if v, ok := view.Get("/t/counter"); ok {
					fmt.Sscan(string(v.Value), &got)
				}
				if got < floor {
					t.Errorf("%s read %d, %d was acknowledged before", n.cfg.Name, got, floor)
					return
				}
				reads.Add(1)
			}
		})
	}
	for range 6 {
		before, beforeReads := acknowledged.Load(), reads.Load()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if _, err := m.leader().c.TransferLeadership(ctx, ""); err != nil {
			t.Logf("transfer: %v", err)
		}
		cancel()
		await.That(t, "writes and reads after the transfer", func() error {
			if acknowledged.Load() < before+20 || reads.Load() < beforeReads+50 {
				return fmt.Errorf("%d writes, %d reads", acknowledged.Load()-before, reads.Load()-beforeReads)
			}
			return nil
		})
	}
	stop.Store(true)
	wg.Wait()
	t.Logf("%d writes, %d reads", acknowledged.Load(), reads.Load())
}

// TestErrorsHaveTheirClassOnEveryMaster: callers tell errors by errors.Is, also those of a proposal that went to another master.
func TestErrorsHaveTheirClassOnEveryMaster(t *testing.T) {
	m := startMasters(t, 3)
	m.leader().awaitLevel(FeatureLevel)
	old, err := fsm.EncodeCommand(&kv.Command{ID: random.CommandID(), Since: 1, Ops: []kv.Op{{Key: "/t/a/b/c"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range m.nodes {
		for name, x := range map[string]struct {
			data  []byte
			state clusterv1.Outcome_State
			class error
		}{
			"no command": {[]byte("junk"), clusterv1.Outcome_STATE_INVALID, fsm.ErrBadCommand},
			"too large":  {make([]byte, kv.MaxCommandBytes+1), clusterv1.Outcome_STATE_INVALID, kv.ErrTooLarge},
			"a command":  {old, clusterv1.Outcome_STATE_COMMITTED, nil},
		} {
			state, err := n.c.consensus.Internals().Propose(t.Context(), x.data)
			if state != x.state || !errors.Is(err, x.class) {
				t.Errorf("%s on %s: %v, %v", name, n.cfg.Name, state, err)
			}
		}
	}
}
