package cluster

import "context"

// turn is a lock for what takes long, such as waiting for another master: whoever waits for it waits no longer than a context.
// It has room for as many as may have it at a time, which is one where nothing else is said.
type turn chan struct{}

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t turn) leave() { <-t }
