package flow

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/utils/ptr"
)

// TestSeatsAreLentToWhoNeedsThem: a level lends what it does not use, and gets it back when it does.
func TestSeatsAreLentToWhoNeedsThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lend := func(percent int32) func(*flowcontrolv1.LimitedPriorityLevelConfiguration) {
			return func(l *flowcontrolv1.LimitedPriorityLevelConfiguration) { l.LendablePercent = &percent }
		}
		c := New(100)
		c.Configure([]*flowcontrolv1.FlowSchema{schemaFor("busy", 100, "busy"), schemaFor("idle", 200, "idle")}, []*flowcontrolv1.PriorityLevelConfiguration{
			queuing("busy", 50, 1, 1, 1000, lend(50)),
			queuing("idle", 50, 1, 1, 1000, lend(80)),
			rejecting("catch-all", 0),
		})
		ctx, cancel := context.WithCancel(t.Context())
		go c.adjusting(ctx)
		var group sync.WaitGroup
		var running [2]atomic.Int64
		work := func(ctx context.Context, i int, name string) {
			for range 200 {
				group.Go(func() {
					for ctx.Err() == nil {
						seat, _, err := c.Enter(ctx, as(name))
						if err != nil {
							continue
						}
						running[i].Add(1)
						time.Sleep(500 * time.Millisecond) // virtual
						running[i].Add(-1)
						seat.Leave()
					}
				})
			}
		}
		work(ctx, 0, "busy")
		time.Sleep(time.Minute) // virtual
		synctest.Wait()
		if got := running[0].Load(); got != 90 { // its own 50, and 40 of the other's
			t.Errorf("%d requests of the busy level are served", got)
		}
		work(ctx, 1, "idle")
		time.Sleep(time.Minute) // virtual
		synctest.Wait()
		if a, b := running[0].Load(), running[1].Load(); a != 50 || b != 50 {
			t.Errorf("both busy: %d and %d requests are served", a, b)
		}
		cancel()
		group.Wait()
	})
}

// TestBorrowingIsLimited: borrowingLimitPercent limits what a level gets from others.
func TestBorrowingIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(100)
		c.Configure([]*flowcontrolv1.FlowSchema{schemaFor("busy", 100, "busy")}, []*flowcontrolv1.PriorityLevelConfiguration{
			queuing("busy", 50, 1, 1, 1000, func(l *flowcontrolv1.LimitedPriorityLevelConfiguration) { l.BorrowingLimitPercent = ptr.To(int32(20)) }),
			queuing("idle", 50, 1, 1, 1000, func(l *flowcontrolv1.LimitedPriorityLevelConfiguration) { l.LendablePercent = ptr.To(int32(100)) }),
			rejecting("catch-all", 0),
		})
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() {
				if seat, _, err := c.Enter(ctx, as("busy")); err == nil {
					<-ctx.Done()
					seat.Leave()
				}
			})
		}
		synctest.Wait()
		time.Sleep(adjustPeriod) // virtual
		c.adjust()
		synctest.Wait()
		l := levelOf(t, c, "busy")
		l.mu.Lock()
		if l.serving != 60 || l.waiting != 40 {
			t.Errorf("%d are served, %d wait", l.serving, l.waiting)
		}
		l.mu.Unlock()
		cancel()
		group.Wait()
	})
}
