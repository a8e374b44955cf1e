// Package turn has a lock that a caller waits for no longer than a context lasts.
package turn

import "context"

// Turn is a lock for work that takes long, such as a call to another master. Its capacity is how many may hold it at a time; make it with
// make(Turn, 1) for one. Its methods are safe for concurrent use.
type Turn chan struct{}

// Take waits until it holds the turn. It returns the context's cause where the context ends first.
func (t Turn) Take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Leave gives the turn back. Only a holder may call it.
func (t Turn) Leave() { <-t }
