package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/test/await"
)

// transactionSize is how many keys one transaction of the test writes.
const transactionSize = 5

// serveTransaction writes one value to all keys below call.Key.
func (c *Cluster) serveTransaction(ctx context.Context, call childCall) error {
	cmd := &kv.Command{ID: random.CommandID()}
	for i := range transactionSize {
		cmd.Ops = append(cmd.Ops, kv.Op{Key: fmt.Sprintf("%s/%d", call.Key, i), Value: []byte(call.Value)})
	}
	_, err := c.Propose(ctx, cmd)
	return err
}

// serveList answers the values of all keys below call.Key: from a consistent view, or, for the value "local", from this
// master's own.
func (c *Cluster) serveList(ctx context.Context, call childCall, a *childAnswer) (err error) {
	view := c.View()
	if call.Value != "local" {
		if view, err = c.Consistent(ctx); err != nil {
			return err
		}
	}
	var values []string
	for i := range transactionSize {
		if v, ok := view.Get(fmt.Sprintf("%s/%d", call.Key, i)); ok {
			values = append(values, string(v.Value))
		}
	}
	a.Value = strings.Join(values, " ")
	return nil
}

// oneTransaction is the number of the transaction whose values a list shows; an error if it shows more than one, or not all of one.
func oneTransaction(list string) (n int, err error) {
	values := strings.Fields(list)
	if len(values) != transactionSize || len(slices.Compact(values)) != 1 {
		return 0, fmt.Errorf("a list shows parts of transactions: %q", list)
	}
	_, err = fmt.Sscan(values[0], &n)
	return n, err
}

// TestATransactionIsWholeWhereverTheLeaderDies: the leader is killed (kill -9) with a transaction on its way: before and after it is
// on the leader's disk, and before and after the leader's state has it, which the others have or not by then. Who lists
// meanwhile, on any master, sees all of it or nothing, and never less than before.
func TestATransactionIsWholeWhereverTheLeaderDies(t *testing.T) {
	t.Parallel()
	children := startChildren(t, 3, false)
	const prefix = "/t/transactions/ns"
	number := 0
	if _, err := children[0].call("transact", prefix, "0"); err != nil {
		t.Fatal(err)
	}
	for _, c := range children { // their own views, too, have it from here on
		if _, err := c.call("list", prefix, "consistent"); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		point string
		// What becomes of the transaction where only the leader was told of it.
		may []string
	}{
		{"storage.commit.before", []string{"nothing", "all"}}, // the others may have been sent it: entries go out while the leader's disk works
		{"storage.commit.after", []string{"nothing", "all"}},
		{"cluster.apply.before", []string{"all"}}, // it is committed
		{"cluster.apply.after", []string{"all"}},
	} {
		for _, by := range []string{"the leader", "a follower"} {
			number++
			name := fmt.Sprintf("transaction %d by %s, killed at %s", number, by, x.point)
			leader := leaderOf(t, children, nil)
			var survivors []*child
			for _, c := range children {
				if c != leader {
					survivors = append(survivors, c)
				}
			}
			var stop atomic.Bool
			var lists atomic.Int64
			var readers sync.WaitGroup
			for _, c := range survivors {
				for _, how := range []string{"consistent", "local"} {
					readers.Go(func() {
						last := 0
						for !stop.Load() {
							a, err := c.call("list", prefix, how)
							if err != nil {
								t.Errorf("%s: a list on %s: %v", name, c.cfg.Name, err)
								return
							}
							n, err := oneTransaction(a.Value)
							if err != nil || n < last {
								t.Errorf("%s: a %s list on %s: %q after %d, %v", name, how, c.cfg.Name, a.Value, last, err)
								return
							}
							last = n
							lists.Add(1)
						}
					})
				}
			}
			listed := func() {
				t.Helper()
				at := lists.Load()
				await.That(t, "lists", func() error {
					if t.Failed() || lists.Load() >= at+20 {
						return nil
					}
					return fmt.Errorf("%d", lists.Load()-at)
				})
			}
			listed()
			if _, err := leader.call("die", x.point, "1"); err != nil {
				t.Fatal(err)
			}
			writer := leader
			if by == "a follower" {
				writer = survivors[0]
			}
			done, exited := writer.begin("transact", prefix, fmt.Sprint(number))
			leader.died(x.point)
			if by == "the leader" {
				select {
				case a := <-done:
					t.Fatalf("%s: it was answered before: %+v", name, a)
				default:
				}
			} else if _, err := writer.await(done, exited); err != nil { // it is proposed again to the next leader
				t.Errorf("%s: %v", name, err)
			}
			leaderOf(t, children, leader)
			listed()
			stop.Store(true)
			readers.Wait()
			leader.kill()
			leader.start()
			outcomes := map[string]bool{}
			for _, c := range children {
				c.ready()
				a, err := c.call("list", prefix, "consistent")
				if err != nil {
					t.Fatal(err)
				}
				n, err := oneTransaction(a.Value)
				switch {
				case err != nil:
					t.Errorf("%s: %v", name, err)
				case n == number:
					outcomes["all"] = true
				default:
					outcomes["nothing"] = true
				}
			}
			t.Logf("%s: %v, %d lists meanwhile", name, outcomes, lists.Load())
			may := x.may
			if by == "a follower" {
				may = []string{"all"} // it was acknowledged
			}
			for outcome := range outcomes {
				if len(outcomes) > 1 || !slices.Contains(may, outcome) {
					t.Errorf("%s: the masters have %v of it, want one of %v", name, outcomes, may)
				}
			}
		}
	}
}
