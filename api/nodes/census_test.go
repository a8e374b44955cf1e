package nodes

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// masters are the attendances of several masters, each served on an in-memory listener at its address.
type masters struct {
	t  *testing.T
	mu sync.Mutex
	by map[string]*testMaster
}

type testMaster struct {
	attendance *attendance
	listener   *bufconn.Listener
	server     *grpc.Server
	conn       *grpc.ClientConn
}

func (ms *masters) start(address string) *testMaster {
	ms.t.Helper()
	m := &testMaster{attendance: newAttendance(), listener: bufconn.Listen(1 << 16), server: grpc.NewServer()}
	(&Server{attendance: m.attendance}).RegisterSessions(m.server)
	done := make(chan error, 1)
	go func() { done <- m.server.Serve(m.listener) }()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return m.listener.DialContext(ctx) }))
	if err != nil {
		ms.t.Fatal(err)
	}
	m.conn = conn
	ms.t.Cleanup(func() {
		conn.Close()
		m.server.Stop()
		<-done
	})
	ms.mu.Lock()
	defer ms.mu.Unlock()
	ms.by[address] = m
	return m
}

func (ms *masters) addresses() []string {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return slices.Sorted(maps.Keys(ms.by))
}

func (ms *masters) connect(address string) (grpc.ClientConnInterface, error) {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m := ms.by[address]
	if m == nil {
		return nil, errors.New("it is down")
	}
	return m.conn, nil
}

func (m *testMaster) session(node string, state State) *session {
	s := &session{node: node}
	m.attendance.set(s, state)
	return s
}

func startCensus(t *testing.T, ms *masters) (*Census, context.Context) {
	t.Helper()
	c := NewCensus(CensusConfig{Masters: ms.addresses, Connect: ms.connect, Log: slog.New(slog.DiscardHandler), MastersEvery: 10 * time.Millisecond})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("census ended with %v", err)
		}
	})
	return c, ctx
}

// awaitState reads changes until a worker is in a state.
func awaitState(t *testing.T, ctx context.Context, c *Census, name string, want State) {
	t.Helper()
	for {
		if w, ok := c.Worker(name); ok && w.State == want {
			return
		}
		if _, err := c.Next(ctx); err != nil {
			w, _ := c.Worker(name)
			t.Fatalf("%s is never %s, it is %q", name, want, w.State)
		}
	}
}

func TestTheCensusFollowsSessionsOnAllMasters(t *testing.T) {
	ms := &masters{t: t, by: map[string]*testMaster{}}
	a, b := ms.start("a:1"), ms.start("b:1")
	before := a.session("w1", Connected)
	c, ctx := startCensus(t, ms)
	awaitState(t, ctx, c, "w1", Connected)
	if _, ok := c.Worker("w2"); ok {
		t.Error("it knows a worker that never came")
	}

	a.attendance.set(before, Quiet)
	awaitState(t, ctx, c, "w1", Quiet)
	a.attendance.set(before, Connected)
	awaitState(t, ctx, c, "w1", Connected)

	// It connects to another master: the new session has precedence over the old one, in whichever order they are reported.
	after := b.session("w1", Connected)
	a.attendance.set(before, Gone)
	b.session("marker", Connected)
	awaitState(t, ctx, c, "marker", Connected)
	if w, _ := c.Worker("w1"); w.State != Connected {
		t.Errorf("after a change of masters it is %s", w.State)
	}
	b.attendance.set(after, Gone)
	awaitState(t, ctx, c, "w1", Gone)
	if got := len(c.Workers()); got != 2 {
		t.Errorf("%d workers", got)
	}
	if address, n, ok := c.Fewest("b:1"); address != "a:1" || n != 0 || !ok {
		t.Errorf("without b, %s has the fewest: %d (%v)", address, n, ok)
	}
	if address, n, ok := c.Fewest("a:1"); address != "b:1" || n != 1 || !ok {
		t.Errorf("without a, %s has the fewest: %d (%v)", address, n, ok)
	}
}

func TestAMastersSessionsGoWithIt(t *testing.T) {
	ms := &masters{t: t, by: map[string]*testMaster{}}
	a, b := ms.start("a:1"), ms.start("b:1")
	a.session("w1", Connected)
	a.session("w2", Connected)
	b.session("w2", Connected)
	b.session("w3", Connected)
	c, ctx := startCensus(t, ms)
	awaitState(t, ctx, c, "w1", Connected)
	awaitState(t, ctx, c, "w3", Connected) // both masters have answered
	awaitState(t, ctx, c, "w2", Connected)
	a.server.Stop()
	awaitState(t, ctx, c, "w1", Gone)
	if w, _ := c.Worker("w2"); w.State != Connected {
		t.Errorf("a worker with a session elsewhere is %s", w.State)
	}
	// The master restarts, and w1 connects to it again.
	again := ms.start("a:1")
	again.session("w1", Connected)
	awaitState(t, ctx, c, "w1", Connected)
	// A master that was removed is no longer watched.
	ms.mu.Lock()
	delete(ms.by, "a:1")
	ms.mu.Unlock()
	awaitState(t, ctx, c, "w1", Gone)
}

func TestTheBestOfAWorkersSessionsCounts(t *testing.T) {
	a := newAttendance()
	first, second := &session{node: "w"}, &session{node: "w"}
	a.set(first, Connected)
	a.set(second, Connected)
	a.set(first, Quiet)
	if got := a.state("w"); got != Connected {
		t.Errorf("one of two is quiet: %s", got)
	}
	a.set(second, Gone)
	if got := a.state("w"); got != Quiet {
		t.Errorf("the one that is left is quiet: %s", got)
	}
	a.set(first, Gone)
	if got := a.state("w"); got != Gone || a.count() != 0 {
		t.Errorf("none is left: %s, %d", got, a.count())
	}
}
