package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
)

// Client is a client of a cluster. It is safe for concurrent use, and one per program is enough.
//
// It implements grpc.ClientConnInterface, so the generated clients of all services work over it with the same fail-over and the
// same errors: kontikiv1.NewClusterClient(c), kontikiv1.NewPodsClient(c).
//
// It uses one master until that fails, chosen at random so that many clients spread: its own writes are then visible to reads of
// that master at once, and it needs only one connection. Round robin would keep connections to all masters without a benefit, as
// any master serves any request.
type Client struct {
	name     string
	patience time.Duration
	silence  time.Duration
	warn     func(string)
	options  []grpc.DialOption
	log      *slog.Logger

	mu        sync.Mutex
	endpoints []*endpoint // the slice is replaced, never changed
	current   int
	closed    bool
}

// endpoint is one master.
type endpoint struct {
	address string
	options []grpc.DialOption
	// discovered means that the address is from Discover.
	discovered bool

	mu     sync.Mutex
	conn   *grpc.ClientConn // nil until it is needed
	closed bool
}

var errClosed = errors.New("client: it is closed")

func (e *endpoint) connection() (*grpc.ClientConn, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, errClosed
	}
	if e.conn == nil {
		var err error
		if e.conn, err = grpc.NewClient("passthrough:///"+e.address, e.options...); err != nil {
			return nil, fmt.Errorf("client: endpoint %s: %w", e.address, err)
		}
	}
	return e.conn, nil
}

// discard closes a connection, which ends the calls on it. The next call opens another.
func (e *endpoint) discard(conn *grpc.ClientConn) {
	e.mu.Lock()
	same := e.conn == conn
	if same {
		e.conn = nil
	}
	e.mu.Unlock()
	if same {
		conn.Close()
	}
}

// Close closes all connections, which ends open calls and streams.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	endpoints := c.endpoints
	c.mu.Unlock()
	for _, e := range endpoints {
		e.close()
	}
	return nil
}

func (e *endpoint) close() {
	e.mu.Lock()
	conn := e.conn
	e.conn, e.closed = nil, true
	e.mu.Unlock()
	if conn != nil {
		conn.Close()
	}
}

// Endpoints returns the addresses of the known masters.
func (c *Client) Endpoints() []string {
	var out []string
	for _, e := range c.all() {
		out = append(out, e.address)
	}
	return out
}

func (c *Client) all() []*endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endpoints
}

// Endpoint returns the address of the master that the next call will use.
func (c *Client) Endpoint() string { return c.choose().address }

func (c *Client) choose() *endpoint {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.endpoints[c.current]
}

// leave switches to the next master, unless another call has already left this one.
func (c *Client) leave(e *endpoint, why error) {
	c.mu.Lock()
	left := c.endpoints[c.current] == e
	if left {
		c.current = (c.current + 1) % len(c.endpoints)
	}
	c.mu.Unlock()
	if left {
		c.log.Warn("left a master", "endpoint", e.address, "reason", why)
	}
}

// reads are the methods that change nothing, which may be retried after any failure.
var reads = map[string]bool{
	"/kontiki.v1.Objects/Get": true, "/kontiki.v1.Objects/List": true, "/kontiki.v1.Objects/Watch": true,
	"/kontiki.v1.Cluster/Status": true, "/kontiki.v1.Cluster/Members": true, "/kontiki.v1.Cluster/ListTokens": true, "/kontiki.v1.Cluster/Snapshot": true,
	"/kontiki.v1.Pods/Logs":        true,
	"/grpc.health.v1.Health/Check": true, "/grpc.health.v1.Health/List": true, "/grpc.health.v1.Health/Watch": true,
}

// Invoke implements grpc.ClientConnInterface. Errors are *Error.
func (c *Client) Invoke(ctx context.Context, method string, request, answer any, options ...grpc.CallOption) error {
	for r := c.retry(c.patience); ; {
		e := c.choose()
		err := c.try(ctx, e, method, request, answer, options)
		if err == nil {
			return nil
		}
		if err == errClosed && c.choose() != e {
			continue // Discover removed it in between
		}
		var failed *Error
		if !errors.As(err, &failed) || !r.again(ctx, e, failed, !reads[method]) {
			return err
		}
	}
}

func (c *Client) try(ctx context.Context, e *endpoint, method string, request, answer any, options []grpc.CallOption) error {
	conn, err := e.connection()
	if err != nil {
		return err
	}
	ctx, sent := watchSending(ctx)
	stop := c.attend(ctx, e, conn)
	err = conn.Invoke(ctx, method, request, answer, options...)
	stop()
	if err != nil {
		return wrap(ctx, err, method, e.address, sent.Load(), !reads[method])
	}
	return nil
}

// attend checks, while a call waits, whether its master is alive at all, and closes the connection if it is not: a paused process
// keeps its connections open. It ends when stop has been called.
func (c *Client) attend(ctx context.Context, e *endpoint, conn *grpc.ClientConn) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	timer := time.AfterFunc(c.silence, func() {
		defer close(done)
		for {
			probe, end := context.WithTimeout(ctx, 2*c.silence)
			_, err := healthv1.NewHealthClient(conn).Check(probe, &healthv1.HealthCheckRequest{})
			late := probe.Err() != nil && ctx.Err() == nil
			end()
			if late && status.Code(err) == codes.DeadlineExceeded {
				e.discard(conn)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(c.silence):
			}
		}
	})
	return func() {
		cancel()
		if !timer.Stop() {
			<-done
		}
	}
}

// NewStream implements grpc.ClientConnInterface. It opens a stream on the first master that accepts it; errors, including those of
// the stream, are *Error. A stream that breaks is not retried here: Pages and Watch resume by themselves.
func (c *Client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	for r := c.retry(c.patience); ; {
		e := c.choose()
		s, err := c.open(ctx, e, desc, method, options)
		if err == nil {
			return s, nil
		}
		if err == errClosed && c.choose() != e {
			continue // Discover removed it in between
		}
		var failed *Error
		if !errors.As(err, &failed) || !r.again(ctx, e, failed, !reads[method]) {
			return nil, err
		}
	}
}

func (c *Client) open(ctx context.Context, e *endpoint, desc *grpc.StreamDesc, method string, options []grpc.CallOption) (grpc.ClientStream, error) {
	conn, err := e.connection()
	if err != nil {
		return nil, err
	}
	ctx, sent := watchSending(ctx)
	s, err := conn.NewStream(ctx, desc, method, options...)
	if err != nil {
		return nil, wrap(ctx, err, method, e.address, sent.Load(), !reads[method])
	}
	return &stream{ClientStream: s, client: c, endpoint: e, method: method, sent: sent}, nil
}

// stream converts the errors of a stream, and leaves a master whose stream broke.
type stream struct {
	grpc.ClientStream
	client   *Client
	endpoint *endpoint
	method   string
	sent     *atomic.Bool
}

func (s *stream) explain(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	failed := wrap(s.Context(), err, s.method, s.endpoint.address, s.sent.Load(), !reads[s.method])
	if failed.undone || failed.broken {
		s.client.leave(s.endpoint, failed)
	}
	return failed
}

// RecvMsg implements grpc.ClientStream.
func (s *stream) RecvMsg(m any) error { return s.explain(s.ClientStream.RecvMsg(m)) }

// SendMsg implements grpc.ClientStream.
func (s *stream) SendMsg(m any) error { return s.explain(s.ClientStream.SendMsg(m)) }

// reach calls the masters in turn until one answers.
func (c *Client) reach(ctx context.Context) error {
	problems := map[string]string{}
	for r := c.retry(c.patience); ; {
		e := c.choose()
		conn, err := e.connection()
		if err != nil {
			return err
		}
		probe, cancel := context.WithTimeout(ctx, 2*connectWithin)
		_, err = healthv1.NewHealthClient(conn).Check(probe, &healthv1.HealthCheckRequest{})
		cancel()
		if err == nil {
			return nil
		}
		failed := wrap(ctx, err, "/grpc.health.v1.Health/Check", e.address, false, false)
		if failed.answered && !failed.undone {
			if errors.Is(failed, ErrUnauthorized) {
				return fmt.Errorf("client: %w", failed)
			}
			return nil // the master answers, even if with an error
		}
		problems[e.address] = failed.Message
		c.leave(e, failed)
		if r.wait(ctx) {
			continue
		}
		var texts []string
		for _, address := range slices.Sorted(maps.Keys(problems)) {
			texts = append(texts, address+": "+problems[address])
		}
		err = fmt.Errorf("client: %w: no master answers: %s", ErrUnavailable, strings.Join(texts, "; "))
		return errors.Join(err, ctx.Err())
	}
}

// retry paces the attempts of one call: at once through all masters, and then with growing pauses between the rounds.
type retry struct {
	client *Client
	until  time.Time // zero means forever
	tries  int
	pause  time.Duration
}

const (
	firstPause = 50 * time.Millisecond
	mostPause  = time.Second
)

// retry starts pacing a call that may be retried for patience; 0 means forever.
func (c *Client) retry(patience time.Duration) *retry {
	r := &retry{client: c, pause: firstPause}
	if patience > 0 {
		r.until = time.Now().Add(patience)
	}
	return r
}

// reset is called when an attempt made progress.
func (r *retry) reset() { r.tries, r.pause = 0, firstPause }

// again says whether the call should be retried. It returns after the necessary pause, and switches to a master other than e.
func (r *retry) again(ctx context.Context, e *endpoint, failed *Error, write bool) bool {
	if e != nil && (failed.undone || failed.broken) {
		r.client.leave(e, failed) // other calls should use another master, even if this one must not be retried
	}
	if failed.busy() {
		r.pause = max(r.pause, failed.RetryAfter) // once all masters are busy
	}
	return failed.elsewhere(write) && r.wait(ctx)
}

func (r *retry) wait(ctx context.Context) bool {
	if r.tries++; r.tries%len(r.client.all()) != 0 {
		return ctx.Err() == nil
	}
	if !r.until.IsZero() && time.Now().Add(r.pause).After(r.until) {
		return false
	}
	timer := time.NewTimer(r.pause)
	defer timer.Stop()
	r.pause = min(2*r.pause, mostPause)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// sentHandler records which calls were passed to a connection. Those that were not are certainly not carried out.
type sentHandler struct{}

type sentKey struct{}

func watchSending(ctx context.Context) (context.Context, *atomic.Bool) {
	sent := new(atomic.Bool)
	return context.WithValue(ctx, sentKey{}, sent), sent
}

func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context   { return ctx }
func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }
func (sentHandler) HandleConn(context.Context, stats.ConnStats)                       {}

func (sentHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); !ok {
		return
	}
	if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
		sent.Store(true)
	}
}
