package rpc

import (
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/flow"
)

// largeMessage is the size in bytes of messages that are not read from callers who may change nothing.
const largeMessage = 64 << 10

// arrival tracks a call's first message while it is received. It must arrive within the request timeout; if it is slow or large, it
// counts towards the limits of bodies being received.
type arrival struct {
	stream *stream
	caller *caller

	mu    sync.Mutex
	timer *time.Timer
	body  *flow.Body
	late  bool // the call has given its seats back
	slow  bool // body.Slow was called, or there is no body yet
	over  bool
}

// await begins to wait for the first message of a call.
func (s *stream) await(c *caller) {
	a := &arrival{stream: s, caller: c}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = time.AfterFunc(flow.Patience, a.overdue)
	s.first = a
}

// overdue is called when the message is late, when it is slow, and when it has timed out.
func (a *arrival) overdue() {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.over:
	case !a.late:
		a.late = true
		a.caller.seat.Load().Leave()
		a.timer.Reset(flow.SlowAfter - flow.Patience)
	case a.slow:
		a.stream.end(apierrors.NewTimeoutError(fmt.Sprintf("the request did not arrive within %v", a.caller.RequestTimeout), 0))
	default:
		a.slow = true
		var err error
		if a.body == nil { // not even its size has arrived
			a.body, err = a.caller.Limits.Receive(a.caller.user, 0)
		}
		if err == nil {
			err = a.body.Slow()
		}
		if err != nil {
			a.stream.end(err)
			return
		}
		a.timer.Reset(max(a.caller.RequestTimeout-flow.SlowAfter, 0))
	}
}

// size reports the size of the message. If it returns an error, the call must end with it.
func (a *arrival) size(bytes uint32) error {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return nil
	}
	if bytes == 0 {
		a.finish()
		return nil
	}
	if bytes > largeMessage {
		if err := a.caller.mayChange(); err != nil {
			return err
		}
	}
	body, err := a.caller.Limits.Receive(a.caller.user, int64(bytes))
	if err == nil && a.slow {
		a.body.Done()
		err = body.Slow()
	}
	a.body = body
	return err
}

// done reports that the message has arrived, or will not arrive.
func (a *arrival) done() {
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.over {
		a.finish()
	}
}

// finish ends the waiting. The caller holds mu.
func (a *arrival) finish() {
	a.over = true
	a.timer.Stop()
	a.body.Done()
	a.body = nil
}
