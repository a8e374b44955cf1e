// Package turn provides a lock for which a caller waits only until a context ends.
package turn

import "context"

// Turn is a lock for long operations, such as calls to other masters. Its capacity is the number of holders at a time; create a
// simple one with make(Turn, 1). Its methods are safe for concurrent use.
type Turn chan struct{}

// Take waits until it holds the turn. It returns the context's cause if the context ends first.
func (t Turn) Take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Leave releases the turn. Only a holder may call it.
func (t Turn) Leave() { <-t }
