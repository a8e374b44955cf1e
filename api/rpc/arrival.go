package rpc

import (
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/inflight"
)

// largeMessage is the size, in bytes, of messages that are not read of callers who may change nothing.
const largeMessage = 64 << 10

// arrival is the first message of a call on its way. It must come within the time that a request may take; if that takes
// long, or if it is large, it counts among the bodies on the way.
type arrival struct {
	stream *stream
	caller *caller

	mu    sync.Mutex
	timer *time.Timer
	body  *inflight.Body
	slow  bool // body was told so, or there is none yet to tell
	over  bool
}

// await begins to wait for the first message of a call.
func (s *stream) await(c *caller) {
	a := &arrival{stream: s, caller: c}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timer = time.AfterFunc(inflight.SlowAfter, a.late)
	s.first = a
}

// late is called when the message is slow, and again when it does not come.
func (a *arrival) late() {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.over:
	case a.slow:
		a.stream.end(apierrors.NewTimeoutError(fmt.Sprintf("the request did not arrive within %v", a.caller.RequestTimeout), 0))
	default:
		a.slow = true
		var err error
		if a.body == nil { // not even its size has come
			a.body, err = a.caller.Limits.Receive(a.caller.user, 0)
		}
		if err == nil {
			err = a.body.Slow()
		}
		if err != nil {
			a.stream.end(err)
			return
		}
		a.timer.Reset(max(a.caller.RequestTimeout-inflight.SlowAfter, 0))
	}
}

// size tells the size of the message. Its error ends the call.
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

// done says that the message is there, or will not come.
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
