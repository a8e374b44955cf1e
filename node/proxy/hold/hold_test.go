package hold_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/proxy/hold"
)

var web = types.NamespacedName{Namespace: "shop", Name: "web"}

// address is where the clients of these tests connect to.
var address = netip.MustParseAddrPort("10.96.0.1:80")

// rig is a Holder on loopback, whose connections are all to address.
type rig struct {
	*hold.Holder
	t     *testing.T
	woken chan types.NamespacedName
	calls atomic.Int64
	held  atomic.Int64
	reset atomic.Int64
	wake  atomic.Pointer[error]
}

func newRig(t *testing.T, limits hold.Limits) *rig {
	r := &rig{t: t, woken: make(chan types.NamespacedName, 100)}
	r.Holder = hold.Start(listen(t), hold.Config{
		Limits: limits,
		Wake: func(_ context.Context, service types.NamespacedName) error {
			r.calls.Add(1)
			if err := r.wake.Load(); err != nil {
				return *err
			}
			r.woken <- service
			return nil
		},
		Dial: func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", to.String())
			if err != nil {
				return nil, err
			}
			return c.(*net.TCPConn), nil
		},
		Held: func(by int) { r.held.Add(int64(by)) }, Reset: func() { r.reset.Add(1) },
		Destination: func(*net.TCPConn) (netip.AddrPort, error) { return address, nil },
	})
	t.Cleanup(r.Close)
	return r
}

// plenty are limits that no test reaches.
var plenty = hold.Limits{Node: 100, Service: 100, Client: 100, Patience: time.Minute}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener)
}

// echo is an endpoint that answers a line with "echo: " before it, and says "bye" when its client has ended its direction.
func echo(t *testing.T) netip.AddrPort {
	l := listen(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for lines := bufio.NewScanner(c); lines.Scan(); {
					fmt.Fprintf(c, "echo: %s\n", lines.Text())
				}
				io.WriteString(c, "bye\n")
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// sleeping sets the service without endpoints, awake with one.
func (r *rig) sleeping() { r.awake() }

func (r *rig) awake(endpoints ...netip.AddrPort) {
	r.Set(map[netip.AddrPort]hold.Port{address: {Service: web, Endpoints: endpoints}})
}

func (r *rig) connect() *net.TCPConn {
	r.t.Helper()
	c, err := net.Dial("tcp4", r.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c.(*net.TCPConn)
}

func (r *rig) wantWoken() {
	r.t.Helper()
	select {
	case got := <-r.woken:
		if got != web {
			r.t.Fatalf("%s was woken", got)
		}
	case <-time.After(30 * time.Second):
		r.t.Fatal("nothing was woken")
	}
}

// wantRefused connects, and checks that the connection is reset at once.
func (r *rig) wantRefused() {
	r.t.Helper()
	c, err := net.Dial("tcp4", r.Addr().String())
	if err != nil {
		return // it was reset before this side noticed that it was open
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	wantReset(r.t, c)
}

// wantReset checks that the other side ends a connection without an answer.
func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	var timeout net.Error
	if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("read %d bytes, %v; want the connection to be reset", n, err)
	}
}

func TestAConnectionWaitsForAnEndpoint(t *testing.T) {
	r := newRig(t, plenty)
	r.sleeping()
	first := r.connect()
	io.WriteString(first, "sent before\n") // while it waits
	r.wantWoken()
	second := r.connect() // one that waits to be sent something first
	r.awake(echo(t))
	lines := bufio.NewReader(first)
	if line, err := lines.ReadString('\n'); line != "echo: sent before\n" {
		t.Fatalf("answer %q, %v", line, err)
	}
	io.WriteString(first, "and after\n")
	first.CloseWrite()
	if rest, err := io.ReadAll(lines); string(rest) != "echo: and after\nbye\n" {
		t.Errorf("then %q, %v: each direction must end by itself", rest, err)
	}
	io.WriteString(second, "too\n")
	if line, err := bufio.NewReader(second).ReadString('\n'); line != "echo: too\n" {
		t.Errorf("second connection: %q, %v", line, err)
	}
	if n := r.calls.Load(); n > 3 {
		t.Errorf("%d reports for two connections to one service", n)
	}
}

func TestAReportThatFailsIsRepeated(t *testing.T) {
	r := newRig(t, plenty)
	failed := errors.New("no session")
	r.wake.Store(&failed)
	r.sleeping()
	c := r.connect()
	for r.calls.Load() < 2 {
		time.Sleep(time.Millisecond)
	}
	r.wake.Store(nil)
	r.wantWoken()
	r.awake(echo(t))
	io.WriteString(c, "x\n")
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "echo: x\n" {
		t.Errorf("answer %q, %v", line, err)
	}
}

func TestWhatIsReset(t *testing.T) {
	t.Run("refused", func(t *testing.T) {
		r := newRig(t, plenty)
		refused := fmt.Errorf("%w: no such Deployment", hold.ErrRefused)
		r.wake.Store(&refused)
		r.sleeping()
		r.wantRefused()
		r.wake.Store(nil) // a later connection tries again
		r.connect()
		r.wantWoken()
	})
	t.Run("unknown address", func(t *testing.T) {
		newRig(t, plenty).wantRefused()
	})
	t.Run("service deleted", func(t *testing.T) {
		r := newRig(t, plenty)
		r.sleeping()
		c := r.connect()
		r.wantWoken()
		r.Set(nil)
		wantReset(t, c)
	})
	t.Run("patience", func(t *testing.T) {
		r := newRig(t, hold.Limits{Node: 9, Service: 9, Client: 9, Patience: 50 * time.Millisecond})
		r.sleeping()
		wantReset(t, r.connect())
	})
	t.Run("closed", func(t *testing.T) {
		r := newRig(t, plenty)
		r.sleeping()
		waits := r.connect()
		r.wantWoken()
		r.awake(echo(t))
		io.WriteString(waits, "x\n")
		bufio.NewReader(waits).ReadString('\n')
		r.Close() // also ends what is carried
		wantReset(t, waits)
	})
}

func TestLimits(t *testing.T) {
	for what, limits := range map[string]hold.Limits{
		"node":    {Node: 2, Service: 9, Client: 9, Patience: time.Minute},
		"service": {Node: 9, Service: 2, Client: 9, Patience: time.Minute},
		"client":  {Node: 9, Service: 9, Client: 2, Patience: time.Minute},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, limits)
			r.sleeping()
			first := r.connect()
			r.wantWoken()
			second := r.connect()
			if !waits(t, second) {
				t.Fatal("the second connection does not wait")
			}
			r.wantRefused()
			// Each is counted. One over a Service's limit is held for the moment until the Service is known.
			for deadline := time.Now().Add(30 * time.Second); r.held.Load() != 2 || r.reset.Load() != 1; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("%d are held and %d were reset, want 2 and 1", r.held.Load(), r.reset.Load())
				}
			}
			// A client that goes away while it waits makes room, and so does a connection that was carried.
			first.Close()
			endpoint := echo(t)
			r.awake(endpoint)
			io.WriteString(second, "x\n")
			if line, err := bufio.NewReader(second).ReadString('\n'); line != "echo: x\n" {
				t.Fatalf("the second connection: %q, %v", line, err)
			}
			second.Close()
			for deadline := time.Now().Add(30 * time.Second); ; {
				if c, err := net.Dial("tcp4", r.Addr().String()); err == nil {
					io.WriteString(c, "y\n")
					line, _ := bufio.NewReader(c).ReadString('\n')
					c.Close()
					if line == "echo: y\n" {
						break
					}
				}
				if time.Now().After(deadline) {
					t.Fatal("there is no room after all connections have ended")
				}
			}
		})
	}
}

// waits says whether a connection is neither reset nor answered for a moment.
func waits(t *testing.T, c net.Conn) bool {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	defer c.SetReadDeadline(time.Now().Add(30 * time.Second))
	var timeout net.Error
	_, err := c.Read(make([]byte, 1))
	return errors.As(err, &timeout) && timeout.Timeout()
}

func TestAClientThatGoesIsNotWaitedFor(t *testing.T) {
	r := newRig(t, hold.Limits{Node: 1, Service: 1, Client: 1, Patience: time.Hour})
	r.sleeping()
	r.connect().Close()
	// There is room again although no endpoint came: another connection waits, and is served.
	for deadline := time.Now().Add(30 * time.Second); ; {
		if c, err := net.Dial("tcp4", r.Addr().String()); err == nil {
			waiting := waits(t, c)
			c.Close()
			if waiting {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("the connection of a client that went away is still waited for")
		}
	}
}

func TestEndpointsThatDoNotAnswer(t *testing.T) {
	r := newRig(t, plenty)
	gone := listen(t)
	dead := gone.Addr().(*net.TCPAddr).AddrPort()
	gone.Close()
	r.awake(dead)
	c := r.connect()
	io.WriteString(c, "x\n")
	r.awake(echo(t))
	if line, err := bufio.NewReader(c).ReadString('\n'); line != "echo: x\n" {
		t.Errorf("answer %q, %v", line, err)
	}
}
