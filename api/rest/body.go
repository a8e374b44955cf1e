package rest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/api/objects"
)

// body reads the request's body, within limits of size and time. Call it after the caller has been authorized for the path. If the
// body is slow, the request gives its seats back, and takes others when the body has arrived.
func (c *call) body() ([]byte, error) {
	size := c.r.ContentLength
	switch {
	case c.r.Body == nil || c.r.Body == http.NoBody || size == 0:
		return nil, nil
	case size > objects.MaxBodyBytes:
		return nil, tooLarge()
	case size < 0:
		size = objects.MaxBodyBytes
	}
	data, err := c.receive(size)
	if err != nil || c.seat.Load().Held() {
		return data, err
	}
	return data, c.enter()
}

// receive reads a body of at most size bytes.
func (c *call) receive(size int64) ([]byte, error) {
	body, err := c.Limits.Receive(c.user, size)
	if err != nil {
		return nil, err
	}
	defer body.Done()
	control := http.NewResponseController(c.w)
	// Not every ResponseWriter in tests supports deadlines.
	_ = control.SetReadDeadline(time.Now().Add(c.timeout()))
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	stop := c.watchSlow(body, control)
	var buf bytes.Buffer
	if c.r.ContentLength > 0 {
		buf.Grow(int(min(c.r.ContentLength+bytes.MinRead, 64<<10))) // grows further as data arrive
	}
	_, err = buf.ReadFrom(io.LimitReader(c.r.Body, size+1))
	if refused := stop(); refused != nil {
		return nil, refused
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the body could not be read: %v", err))
	}
	if buf.Len() > objects.MaxBodyBytes {
		return nil, tooLarge()
	}
	return buf.Bytes(), nil
}

// watchSlow gives the request's seats back while the body is late, and counts it once it is slow; it aborts it if there are too many
// slow ones. stop ends that, and returns the error if it was aborted.
func (c *call) watchSlow(body *flow.Body, control *http.ResponseController) (stop func() error) {
	var mu sync.Mutex
	var refused error
	over, late := false, false
	var timer *time.Timer
	mu.Lock()
	defer mu.Unlock()
	timer = time.AfterFunc(flow.Patience, func() {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		if !late {
			late = true
			c.leave()
			timer.Reset(flow.SlowAfter - flow.Patience)
			return
		}
		if refused = body.Slow(); refused != nil {
			_ = control.SetReadDeadline(time.Now()) // makes the pending read fail
		}
	})
	return func() error {
		timer.Stop()
		mu.Lock()
		defer mu.Unlock()
		over = true
		return refused
	}
}

func tooLarge() error {
	return apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", objects.MaxBodyBytes))
}
