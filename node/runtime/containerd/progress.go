package containerd

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// pullTimeout is how long a pull may receive nothing from a registry, as in other runtimes.
const pullTimeout = 5 * time.Minute

// progress monitors the requests of one pull. A pull whose requests receive nothing for too long is cancelled; unpacking, during
// which there are no requests, may take any time.
type progress struct {
	active atomic.Int64
	bytes  atomic.Uint64
}

// around returns a transport whose requests are monitored.
func (p *progress) around(next http.RoundTripper) http.RoundTripper {
	return &watchedTransport{p, next}
}

type watchedTransport struct {
	*progress
	next http.RoundTripper
}

func (t *watchedTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	p := t.progress
	p.active.Add(1)
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		p.active.Add(-1)
		return nil, err
	}
	p.bytes.Add(1) // a response is progress
	resp.Body = &watchedBody{ReadCloser: resp.Body, p: p}
	return resp, nil
}

type watchedBody struct {
	io.ReadCloser
	p      *progress
	closed atomic.Bool
}

func (b *watchedBody) Read(to []byte) (int, error) {
	n, err := b.ReadCloser.Read(to)
	b.p.bytes.Add(uint64(n))
	return n, err
}

func (b *watchedBody) Close() error {
	if !b.closed.Swap(true) {
		b.p.active.Add(-1)
	}
	return b.ReadCloser.Close()
}

// watch returns a context that is cancelled when nothing has been received for timeout, with a cause that says so. Call stop.
func (p *progress) watch(ctx context.Context, timeout time.Duration) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(max(timeout/10, time.Millisecond))
		defer tick.Stop()
		seen, since := p.bytes.Load(), time.Now()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if now := p.bytes.Load(); now != seen || p.active.Load() == 0 {
				seen, since = now, time.Now()
			} else if time.Since(since) > timeout {
				cancel(fmt.Errorf("the registry sent nothing for %v", timeout))
				return
			}
		}
	}()
	return ctx, func() { cancel(context.Canceled); <-done }
}

// errTooLarge means that an archive is too large.
type errTooLarge struct{ limit int64 }

func (e errTooLarge) Error() string { return fmt.Sprintf("it holds more than %d bytes", e.limit) }

// bounded returns an error, unlike io.LimitReader, if there are more than n bytes.
type bounded struct {
	r     io.Reader
	left  int64
	limit int64
}

func newBounded(r io.Reader, limit int64) *bounded { return &bounded{r, limit, limit} }

func (b *bounded) Read(to []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLarge{b.limit}
	}
	if int64(len(to)) > b.left+1 {
		to = to[:b.left+1]
	}
	n, err := b.r.Read(to)
	if b.left -= int64(n); b.left < 0 {
		return n + int(b.left), errTooLarge{b.limit}
	}
	return n, err
}
