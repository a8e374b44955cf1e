package rest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/inflight"
	"github.com/kontiki/kontiki/api/objects"
)

// body reads the request's body, within bounds of size and time. Call it when it is known that the caller may do what the
// path says. Meanwhile the request holds no place among those that are served at a time.
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
	c.place.Leave()
	c.place = inflight.Place{}
	data, err := c.receive(size)
	if err != nil {
		return nil, err
	}
	return data, c.enter()
}

// receive reads a body of at most a size.
func (c *call) receive(size int64) ([]byte, error) {
	body, err := c.Limits.Receive(c.user, size)
	if err != nil {
		return nil, err
	}
	defer body.Done()
	control := http.NewResponseController(c.w)
	// Not every writer of a test's has deadlines.
	_ = control.SetReadDeadline(time.Now().Add(c.timeout()))
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	stop := c.watchSlow(body, control)
	var buf bytes.Buffer
	if c.r.ContentLength > 0 {
		buf.Grow(int(min(c.r.ContentLength+bytes.MinRead, 64<<10))) // more once it has come
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

// watchSlow counts the body once it is slow, and cuts it off if there are too many such. The answer ends that, and says
// whether it was.
func (c *call) watchSlow(body *inflight.Body, control *http.ResponseController) (stop func() error) {
	var mu sync.Mutex
	var refused error
	over := false
	timer := time.AfterFunc(inflight.SlowAfter, func() {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		if refused = body.Slow(); refused != nil {
			_ = control.SetReadDeadline(time.Now()) // the read that waits fails
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
