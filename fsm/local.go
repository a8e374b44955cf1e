package fsm

import (
	"context"
	"fmt"
	"sync"

	"github.com/kontiki/kontiki/internal/kv"
)

// Local is a store without consensus: a command is applied where it is proposed, by the same rules and with the same encoding as
// through a log. It is for tests of components that read and write through a replica, and for use within one process. Safe for
// concurrent use.
type Local struct {
	*Store

	mu    sync.Mutex
	index uint64
}

// NewLocal creates an empty store.
func NewLocal(o Options) *Local { return &Local{Store: New(o)} }

// Propose applies a command. Errors: those of EncodeCommand, and ctx's if it has already ended.
func (l *Local) Propose(ctx context.Context, c *kv.Command) (kv.Result, error) {
	if err := ctx.Err(); err != nil {
		return kv.Result{}, fmt.Errorf("propose: %w", err)
	}
	data, err := EncodeCommand(c)
	if err != nil {
		return kv.Result{}, fmt.Errorf("propose: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.index = max(l.index, l.AppliedIndex()) + 1
	return l.Apply(l.index, data)
}

// Consistent returns a view that contains everything that was proposed before the call.
func (l *Local) Consistent(ctx context.Context) (kv.View, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("consistent read: %w", err)
	}
	return l.View(), nil
}
