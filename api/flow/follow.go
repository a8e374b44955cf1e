package flow

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"

	"github.com/kontiki/kontiki/api/client"
)

// adjustPeriod is how often seats are lent and borrowed anew.
const adjustPeriod = 10 * time.Second

// Run follows the objects that configure the Control, and divides the seats anew by demand, until the context ends.
func (c *Control) Run(ctx context.Context, from *client.Client) error {
	if c == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.adjusting(ctx) })
	// One watch for each kind: a watch of both would wake up for every change in the store.
	for _, kind := range []client.Object{&flowcontrolv1.FlowSchema{}, &flowcontrolv1.PriorityLevelConfiguration{}} {
		group.Go(func() error {
			return from.ViewAndWatch(ctx, []client.Object{kind},
				func(client.View) error { return c.follow(from) },
				func([]client.Event) error { return c.follow(from) })
		})
	}
	return group.Wait()
}

// follow applies the present objects, so that two goroutines that call it at the same time leave no older ones.
func (c *Control) follow(from *client.Client) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := from.View()
	given := configuration{
		client.List[*flowcontrolv1.FlowSchema](v, "", nil), client.List[*flowcontrolv1.PriorityLevelConfiguration](v, "", nil),
	}
	if c.given.specs(given) {
		return nil
	}
	c.given = given
	c.configure()
	return nil
}

// specs says whether two configurations have the same objects, apart from their status: then nothing changes.
func (g configuration) specs(other configuration) bool {
	if len(g.schemas) != len(other.schemas) || len(g.levels) != len(other.levels) {
		return false
	}
	for i, s := range g.schemas { // in order of key
		if o := other.schemas[i]; s.UID != o.UID || s.Generation != o.Generation {
			return false
		}
	}
	for i, l := range g.levels {
		if o := other.levels[i]; l.UID != o.UID || l.Generation != o.Generation {
			return false
		}
	}
	return true
}

// adjusting divides the seats anew from time to time, until the context ends.
func (c *Control) adjusting(ctx context.Context) error {
	ticker := time.NewTicker(adjustPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			c.adjust()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
