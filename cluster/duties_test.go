package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kontiki/kontiki/test/await"
)

// recordedDuty tells when it runs where.
type recordedDuty struct {
	running atomic.Int64
	starts  atomic.Int64
}

func (d *recordedDuty) run(ctx context.Context) error {
	d.starts.Add(1)
	d.running.Add(1)
	defer d.running.Add(-1)
	<-ctx.Done()
	return ctx.Err()
}

func TestDutiesRunOnTheLeaderAlone(t *testing.T) {
	m := startMasters(t, 3)
	duties := make([]recordedDuty, 3)
	for i, n := range m.nodes {
		n.c.AddDuty("recorded", duties[i].run)
	}
	onlyOn := func(leader *node) func() error {
		return func() error {
			for i, n := range m.nodes {
				want := int64(0)
				if n == leader {
					want = 1
				}
				if got := duties[i].running.Load(); got != want {
					return fmt.Errorf("%d runs on %s, %d wanted", got, n.cfg.Name, want)
				}
			}
			return nil
		}
	}
	first := m.leader()
	await.That(t, "the duty on the leader", onlyOn(first))
	next := m.followers()[0]
	await.That(t, "leadership passed on", func() error { // on a busy machine an attempt can take longer than Raft waits
		if m.leader() == next {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := m.leader().c.TransferLeadership(ctx, next.cfg.Name)
		return err
	})
	await.That(t, "the duty on the next leader", onlyOn(next))
	next.stop()
	await.That(t, "the duty after a planned stop", func() error { return onlyOn(m.leader())() })
}

func TestADutyThatFailsMovesLeadership(t *testing.T) {
	for _, how := range []string{"error", "panic"} {
		t.Run(how, func(t *testing.T) {
			m := startMasters(t, 3)
			bad := m.leader()
			var saw atomic.Bool
			for _, n := range m.nodes {
				n.c.AddDuty("fragile", func(ctx context.Context) error {
					if n == bad {
						if how == "panic" {
							panic("broken")
						}
						return errors.New("broken")
					}
					saw.Store(true)
					<-ctx.Done()
					return nil
				})
			}
			await.That(t, "another leader that does the duty", func() error {
				if bad.c.IsLeader() || !saw.Load() {
					return errors.New("not yet")
				}
				return nil
			})
		})
	}
}

func TestADutyThatFailsAloneStartsAgain(t *testing.T) {
	m := startMasters(t, 1)
	var runs atomic.Int64
	m.nodes[0].c.AddDuty("fragile", func(ctx context.Context) error {
		if runs.Add(1) == 1 {
			return errors.New("broken once")
		}
		<-ctx.Done()
		return nil
	})
	await.That(t, "a second run", func() error {
		if runs.Load() < 2 {
			return errors.New("not yet")
		}
		return nil
	})
	m.nodes[0].put("/t/a/b/c", "x") // and it leads on
}

func TestDutiesSeeWhatWasWrittenBefore(t *testing.T) {
	m := startMasters(t, 3)
	seen := make(chan string, 16)
	for _, n := range m.nodes {
		n.c.AddDuty("reader", func(ctx context.Context) error {
			if v, ok := n.c.View().Get("/t/a/b/c"); ok {
				seen <- n.cfg.Name + " " + string(v.Value)
			}
			<-ctx.Done()
			return nil
		})
	}
	leader := m.leader()
	leader.put("/t/a/b/c", "written")
	leader.kill()
	select {
	case got := <-seen:
		if want := m.leader().cfg.Name + " written"; got != want {
			t.Errorf("a duty saw %q, want %q", got, want)
		}
	case <-time.After(patience):
		t.Fatal("no duty of the next leader saw the write")
	}
}
