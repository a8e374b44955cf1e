// Package shutdown ends a node's pods before its machine shuts down (KEP-2000, KEP-2712).
//
// logind, which shuts machines down, waits for whoever holds an inhibitor lock of mode "delay"
// (https://www.freedesktop.org/wiki/Software/systemd/inhibit/). The manager holds one. When logind announces a shutdown, the node is not ready
// any more and takes no pods, the pods end in the order of their priorities, and then the lock is released.
package shutdown

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/pause"
)

// The kubelet's reasons and messages.
const (
	// Refused and RefusedMessage are those of pods that arrive meanwhile.
	Refused        = "NodeShutdown"
	RefusedMessage = "Pod was rejected as the node is shutting down."
	// Reason and Message are those of the pods that are ended.
	Reason  = "Terminated"
	Message = "Pod was terminated in response to imminent node shutdown."
	// NotReady is the message of the node's condition Ready.
	NotReady = "node is shutting down"
)

// Pods are the pods of the node.
type Pods interface {
	// Active returns those that have not ended.
	Active() []*corev1.Pod
	// End begins the end of a pod, with Reason and Message, in the given time or its own if that is shorter. The channel is closed when
	// nothing of it is left that uses the node, its volumes included.
	End(uid types.UID, grace time.Duration) (ended <-chan struct{})
}

// Logind is a connection to logind.
type Logind interface {
	// Delay returns how long logind waits for locks at most; SetDelay makes it wait longer.
	Delay(ctx context.Context) (time.Duration, error)
	SetDelay(ctx context.Context, d time.Duration) error
	// Preparing says whether a shutdown has begun and was not cancelled.
	Preparing(ctx context.Context) (bool, error)
	// Inhibit takes a lock, which is held until it is closed.
	Inhibit(ctx context.Context) (io.Closer, error)
	// Watch reports true when a shutdown begins, and false when it is cancelled. The channel is closed when the connection ends.
	Watch(ctx context.Context) (<-chan bool, error)
	Close() error
}

// Config has what a Manager needs.
type Config struct {
	// Periods are not empty, and sorted by priority.
	Periods []Period
	Connect func(ctx context.Context) (Logind, error)
	Pods    Pods
	// Changed is called when a shutdown begins or is cancelled, before pods end; what it does must not take long.
	Changed func(began bool)
}

// Manager ends pods when the machine shuts down. Its methods may be called concurrently.
type Manager struct {
	c   Config
	now atomic.Bool
}

// New returns a manager; nothing happens before Run.
func New(c Config) *Manager { return &Manager{c: c} }

// Now says whether the machine is shutting down.
func (m *Manager) Now() bool { return m.now.Load() }

// reconnect is the time between two attempts to connect to logind.
const reconnect = 5 * time.Second

// Run waits for shutdowns until ctx ends. While logind cannot be reached it tries again, and logs that once.
func (m *Manager) Run(ctx context.Context) error {
	said := ""
	for {
		err := contain.Run(func() error { return m.serve(ctx, func() { said = "" }) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err.Error() != said {
			said = err.Error()
			slog.Error("a shutdown of this machine will not wait for its pods", "err", err)
		}
		if !pause.For(ctx, reconnect) {
			return ctx.Err()
		}
	}
}

// serve waits for shutdowns with one connection. ready is called once they will be waited for.
func (m *Manager) serve(ctx context.Context, ready func()) (err error) {
	logind, err := m.c.Connect(ctx)
	if err != nil {
		return fmt.Errorf("connect to logind: %w", err)
	}
	defer logind.Close()
	delay, err := logind.Delay(ctx)
	if err != nil {
		return err
	}
	if want := total(m.c.Periods); delay < want {
		if err := logind.SetDelay(ctx, want); err != nil {
			return err
		}
	}
	events, err := logind.Watch(ctx) // before the lock is taken, so that nothing is missed
	if err != nil {
		return err
	}
	if m.now.Load() {
		// It may have been cancelled while there was no connection.
		preparing, err := logind.Preparing(ctx)
		if err != nil {
			return err
		}
		if !preparing {
			slog.Info("the shutdown was cancelled")
			m.now.Store(false)
			m.c.Changed(false)
		}
	}
	lock, err := logind.Inhibit(ctx)
	if err != nil {
		return err
	}
	var ending sync.WaitGroup
	stop := func() {}
	defer func() {
		stop()
		ending.Wait()
		err = errors.Join(err, lock.Close())
	}()
	ready()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case began, ok := <-events:
			if !ok {
				return errors.New("the connection to logind has ended")
			}
			if began == m.now.Load() {
				continue
			}
			slog.Info("logind announced a change", "shutdown", began)
			m.now.Store(began)
			m.c.Changed(began)
			stop()
			ending.Wait()
			if !began { // cancelled: the next one is to be waited for too
				old := lock
				if lock, err = logind.Inhibit(ctx); err != nil {
					lock = old
					return err
				}
				_ = old.Close() // it was closed when the pods had ended
				continue
			}
			until, cancel := context.WithCancel(ctx)
			stop = cancel
			held := lock
			ending.Go(func() {
				if err := contain.Run(func() error { m.end(until); return nil }); err != nil {
					slog.Error("ending pods before a shutdown", "err", err, "stack", contain.Stack(err))
				}
				if until.Err() == nil {
					slog.Info("the pods have ended; the shutdown may go on")
					_ = held.Close()
				}
			})
		}
	}
}

// end ends the pods, each group in its time.
func (m *Manager) end(ctx context.Context) {
	for i, pods := range group(m.c.Periods, m.c.Pods.Active()) {
		if len(pods) == 0 {
			continue
		}
		grace := m.c.Periods[i].Grace
		over := time.NewTimer(grace)
		var ended []<-chan struct{}
		for _, pod := range pods {
			slog.Info("ending a pod before a shutdown", "namespace", pod.Namespace, "pod", pod.Name, "grace", grace)
			ended = append(ended, m.c.Pods.End(pod.UID, grace))
		}
		for _, one := range ended {
			select {
			case <-one:
				continue
			case <-over.C:
				slog.Warn("pods did not end in time before a shutdown", "priority", m.c.Periods[i].Priority, "grace", grace)
			case <-ctx.Done():
			}
			break
		}
		over.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}
