package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kontiki/kontiki/test/await"
)

// A leader that stands still for longer than its lease is replaced. When it goes on it still believes to lead; what it is asked
// then must not be answered from its past.
func TestALeaderThatStoodStillAnswersNoStaleReads(t *testing.T) {
	t.Parallel()
	children := startChildren(t, 3, false)
	for round := range 5 {
		old := leaderOf(t, children, nil)
		if _, err := old.call("put", "/t/a/b/c", fmt.Sprintf("before %d", round)); err != nil {
			t.Fatal(err)
		}
		old.signal(syscall.SIGSTOP)
		next := leaderOf(t, children, old)
		now := fmt.Sprintf("after %d", round)
		if _, err := next.call("put", "/t/a/b/c", now); err != nil {
			t.Fatal(err)
		}
		type read struct {
			done   <-chan childAnswer
			exited <-chan struct{}
		}
		var reads []read
		for range 20 {
			done, exited := old.begin("get", "/t/a/b/c", "")
			reads = append(reads, read{done, exited})
		}
		old.signal(syscall.SIGCONT)
		for _, r := range reads {
			if a, err := old.await(r.done, r.exited); err != nil || a.Value != now {
				t.Fatalf("round %d: the old leader read %q, %v", round, a.Value, err)
			}
		}
	}
}

// kill -9, at any moment, of any master and of all.
func TestKillNineLosesNothing(t *testing.T) {
	t.Parallel()
	children := startChildren(t, 3, false)
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 9))
	acknowledged := map[string]string{}
	for round := range 6 {
		var mu sync.Mutex
		var wg sync.WaitGroup
		var stop atomic.Bool
		var writes atomic.Int64
		for w := range 6 {
			c := children[w%3]
			wg.Go(func() {
				for i := 0; !stop.Load(); i++ {
					key, value := fmt.Sprintf("/t/w/%d/%d", w, i%40), fmt.Sprintf("%d.%d", round, i)
					_, err := c.call("put", key, value)
					mu.Lock()
					if err != nil {
						acknowledged[key] = "" // it is unknown which value it has
						mu.Unlock()
						return
					}
					acknowledged[key] = value
					mu.Unlock()
					writes.Add(1)
				}
			})
		}
		enough := int64(20 + r.IntN(100))
		await.That(t, "some writes", func() error {
			if n := writes.Load(); n < enough {
				return fmt.Errorf("%d writes", n)
			}
			return nil
		})
		victims := children
		if round%2 == 0 {
			victims = []*child{children[r.IntN(3)]}
		}
		for _, c := range victims {
			_ = c.cmd.Process.Kill()
		}
		stop.Store(true)
		wg.Wait()
		for _, c := range victims {
			c.kill()
			c.start()
		}
		for _, c := range children {
			c.ready()
			for key, want := range acknowledged {
				if want == "" {
					continue
				}
				if a, err := c.call("get", key, ""); err != nil || a.Value != want {
					t.Fatalf("seed %d round %d: %s reads %q for %s, %v; %q was acknowledged", seed, round, c.cfg.Name, a.Value, key, err, want)
				}
			}
		}
	}
	t.Logf("%d keys", len(acknowledged))
}

// died waits for a process to end by itself.
func (c *child) died(where string) {
	c.t.Helper()
	select {
	case <-c.exited:
	case <-time.After(patience):
		c.t.Fatalf("%s did not come to %s", c.cfg.Name, where)
	}
	if status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		c.t.Fatalf("%s ended with %v before it came to %s", c.cfg.Name, c.cmd.ProcessState, where)
	}
}

// kill -9 at chosen points: before and after what is made durable, and between the steps of joining and of coming back.
func TestKillNineAtEveryPoint(t *testing.T) {
	t.Parallel()
	children := startChildren(t, 3, false)
	acknowledged := map[string]string{}
	write := func(c *child, n int) {
		for i := range n {
			key, value := fmt.Sprintf("/t/a/b/%d", i%20), fmt.Sprint(len(acknowledged), "-", i)
			if _, err := c.call("put", key, value); err != nil {
				t.Fatalf("a write on %s: %v", c.cfg.Name, err)
			}
			acknowledged[key] = value
		}
	}
	whole := func(point string) {
		t.Helper()
		for _, c := range children {
			c.ready()
			for key, want := range acknowledged {
				if a, err := c.call("get", key, ""); err != nil || a.Value != want {
					t.Fatalf("%s: %s reads %q for %s, %v; %q was acknowledged", point, c.cfg.Name, a.Value, key, err, want)
				}
			}
		}
	}
	for i, at := range []struct {
		point string
		nth   int
	}{
		{"storage.commit.before", 7}, {"storage.commit.after", 3}, {"storage.snapshot.written", 1}, {"storage.snapshot.finished", 1},
		{"cluster.apply.before", 5}, {"cluster.apply.after", 2},
	} {
		point := at.point
		for _, leads := range []bool{true, false} {
			leader := leaderOf(t, children, nil)
			victim := leader
			for _, c := range children {
				if !leads && c != leader {
					victim = c
				}
			}
			writer := children[i%3]
			if writer == victim {
				writer = children[(i+1)%3]
			}
			if _, err := victim.call("die", point, fmt.Sprint(at.nth)); err != nil {
				t.Fatal(err)
			}
			write(writer, 100) // enough for a snapshot
			victim.died(point)
			victim.kill()
			victim.start()
			whole(point)
		}
	}

	token := children[0].ready().Value
	for i, point := range []string{"storage.create.written", "cluster.join.identitySaved", "cluster.join.saved", "storage.commit.after", "cluster.join.member"} {
		name := fmt.Sprintf("joiner-%d", i)
		joiner := startChild(t, childConfig{
			Name: name, DataDir: filepath.Join(t.TempDir(), name), Address: "127.0.0.1:0", Gossip: "127.0.0.1:0",
			Join: []string{children[1].cfg.Address}, Token: token, DieAt: point, Nth: 1,
		})
		joiner.died(point)
		joiner.kill()
		joiner.cfg.DieAt = ""
		joiner.start()
		joiner.ready()
		if a, err := joiner.call("get", "/t/a/b/7", ""); err != nil || a.Value != acknowledged["/t/a/b/7"] {
			t.Fatalf("%s: the joiner reads %q, %v", point, a.Value, err)
		}
		joiner.signal(syscall.SIGKILL)
		joiner.kill()
		await.That(t, "the joiner to be removed", func() error {
			_, err := children[0].call("remove", name, "")
			return err
		})
	}

	for i, point := range []string{"cluster.readmit.granted", "cluster.readmit.forgotten", "cluster.readmit.setAside"} {
		victim := children[i]
		victim.kill()
		if err := os.Truncate(filepath.Join(victim.cfg.DataDir, "raft", "raft.db"), 9000); err != nil {
			t.Fatal(err)
		}
		victim.cfg.DieAt, victim.cfg.Nth = point, 1
		victim.start()
		victim.died(point)
		victim.kill()
		victim.cfg.DieAt = ""
		victim.start()
		victim.ready()
		write(children[(i+1)%3], 10)
		whole(point)
	}
}
