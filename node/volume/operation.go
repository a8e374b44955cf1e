package volume

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/kontiki/kontiki/internal/contain"
)

// mountWait is how long a pod's worker waits for a volume before it reports that it has to, as long as the kubelet does. The operation
// goes on, and the worker waits for it again.
const mountWait = 2*time.Minute + 3*time.Second

const (
	// settleWait is how long the end of a pod waits each time for the operations on its volumes.
	settleWait = 10 * time.Second
	// subPathWait is how long a container waits for a part of a volume.
	subPathWait = 30 * time.Second
)

// operation is something that is done beside a pod's worker, because it may take for ever: a server that does not answer can make any
// system call on its file system hang.
type operation struct {
	done   chan struct{}
	cancel context.CancelFunc
	path   string
	err    error
}

type operationKey struct{ uid, volume string }

// errBusy means that an operation has not ended.
var errBusy = errors.New("another operation on the volume has not ended")

// within runs f in a goroutine of its own and waits for it until ctx ends or for wait. If f has not ended by then, it goes on: a later
// call for the same volume waits for it and gets its result, so there is at most one operation for each volume of a pod.
func (m *Manager) within(ctx context.Context, k operationKey, wait time.Duration, f func(ctx context.Context) (string, error)) (string, error) {
	m.mu.Lock()
	o := m.operations[k]
	if o == nil {
		o = &operation{done: make(chan struct{})}
		var own context.Context
		own, o.cancel = context.WithCancel(context.WithoutCancel(ctx))
		m.operations[k] = o
		go func() {
			defer o.cancel()
			o.err = contain.Run(func() (err error) { o.path, err = f(own); return err })
			if stack := contain.Stack(o.err); stack != "" {
				slog.Error("an operation on a volume panicked", "uid", k.uid, "volume", k.volume, "err", o.err, "stack", stack)
			}
			close(o.done)
		}()
	}
	m.mu.Unlock()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-o.done:
	case <-ctx.Done():
		return "", ctx.Err()
	case <-timer.C:
		return "", errBusy
	}
	m.mu.Lock()
	if m.operations[k] == o {
		delete(m.operations, k)
	}
	m.mu.Unlock()
	return o.path, o.err
}

// settle cancels the operations on a pod's volumes and waits for their end. It returns those that have not ended, by the volume.
func (m *Manager) settle(ctx context.Context, uid string) map[string]bool {
	m.mu.Lock()
	running := map[operationKey]*operation{}
	for k, o := range m.operations {
		if k.uid == uid {
			running[k] = o
			o.cancel()
		}
	}
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	busy := map[string]bool{}
	for k, o := range running {
		select {
		case <-o.done:
		case <-ctx.Done():
		}
		select {
		case <-o.done:
			m.mu.Lock()
			if m.operations[k] == o {
				delete(m.operations, k)
			}
			m.mu.Unlock()
		default:
			busy[k.volume] = true
		}
	}
	return busy
}
