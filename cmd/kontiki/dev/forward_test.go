package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func itoa(n int) string { return strconv.Itoa(n) }

const servicePort = 6443

// echo is a server on a host that sends its name and all that it received, once the client has ended its sending.
type echo struct {
	listener net.Listener
	mu       sync.Mutex
	open     map[net.Conn]bool
	done     sync.WaitGroup
}

func serveEcho(t *testing.T, s *State, h Host) *echo {
	t.Helper()
	e := &echo{open: map[net.Conn]bool{}}
	err := within(s.namespace(h), func() (err error) {
		e.listener, err = net.Listen("tcp", net.JoinHostPort(h.Address.String(), itoa(servicePort)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	e.done.Go(func() {
		for {
			conn, err := e.listener.Accept()
			if err != nil {
				return
			}
			e.mu.Lock()
			e.open[conn] = true
			e.mu.Unlock()
			e.done.Go(func() {
				defer conn.Close()
				fmt.Fprintf(conn, "%s:", h.Name)
				io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(e.kill)
	return e
}

// kill closes the server and its connections.
func (e *echo) kill() {
	e.listener.Close()
	e.mu.Lock()
	for conn := range e.open {
		conn.Close()
	}
	e.mu.Unlock()
	e.done.Wait()
}

// forwarding creates the hosts and a forwarder to their service port, and returns the forwarder's address.
func forwarding(t *testing.T, s *State) (address string, stop func() error) {
	t.Helper()
	if err := s.makeNetwork(); err != nil {
		t.Fatal(err)
	}
	if err := up("lo"); err != nil { // of the tests' own namespace
		t.Fatal(err)
	}
	f := &forwarder{namespace: s.switchNamespace(), log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, h := range s.of(master) {
		target := netip.AddrPortFrom(h.Address, servicePort)
		f.targets = append(f.targets, target)
		// The first packets over a new link may be lost: wait until the host itself refuses a connection.
		eventually(t, h.Name+" to be there", func() error {
			return within(s.switchNamespace(), func() error {
				conn, err := net.DialTimeout("tcp", target.String(), dialTime)
				if err == nil {
					return conn.Close()
				}
				if errors.Is(err, unix.ECONNREFUSED) {
					return nil
				}
				return err
			})
		})
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.run(ctx, listener) }()
	stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { stop() })
	return listener.Addr().String(), stop
}

func connect(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn.(*net.TCPConn)
}

// say sends a text, ends the sending, and returns everything that it receives.
func say(t *testing.T, address, text string) (string, error) {
	t.Helper()
	conn := connect(t, address)
	defer conn.Close()
	if _, err := io.WriteString(conn, text); err != nil {
		return "", err
	}
	if err := conn.CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

func TestForwarderFollowsTheFirstThatAnswers(t *testing.T) {
	s := testState(t, 3, 0)
	address, stop := forwarding(t, s)
	hosts := s.of(master)
	expect := func(want string) {
		t.Helper()
		long := strings.Repeat("some text ", 100_000) // more than any buffer on the way
		answer, err := say(t, address, long)
		if err != nil || answer != want+":"+long {
			t.Fatalf("%d bytes, which begin with %.20q, %v; want %s", len(answer), answer, err, want)
		}
	}
	none := func() {
		t.Helper()
		// The connection is closed, or reset if something was already sent.
		if answer, err := say(t, address, "anybody"); answer != "" {
			t.Fatalf("%q, %v, and nobody serves", answer, err)
		}
	}
	none()
	second := serveEcho(t, s, hosts[1])
	expect("master-2")
	first := serveEcho(t, s, hosts[0])
	expect("master-2") // the one that answered last
	second.kill()
	expect("master-1")
	first.kill()
	none()
	serveEcho(t, s, hosts[2])
	expect("master-3")

	// A host that vanished: nothing refuses its connections.
	if err := within(s.namespace(hosts[2]), func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(link)
	}); err != nil {
		t.Fatal(err)
	}
	serveEcho(t, s, hosts[0])
	expect("master-1")

	conn := connect(t, address)
	if _, err := io.ReadFull(conn, make([]byte, len("master-1:"))); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatalf("the forwarder ended: %v", err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an open connection outlives the forwarder: %d, %v", n, err)
	}
	if late, err := net.Dial("tcp", address); err == nil {
		late.Close()
		t.Error("the port is open after the end")
	}
}

func TestForwarderClosesWithEitherSide(t *testing.T) {
	s := testState(t, 1, 0)
	address, stop := forwarding(t, s)
	server := serveEcho(t, s, s.Hosts[0])
	conn := connect(t, address)
	if _, err := io.ReadFull(conn, make([]byte, len("master-1:"))); err != nil {
		t.Fatal(err)
	}
	server.kill() // under an open connection
	if rest, err := io.ReadAll(conn); len(rest) > 0 {
		t.Errorf("%q, %v after the server's death", rest, err)
	}
	conn.Close()
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestParsePublication(t *testing.T) {
	for text, want := range map[string]publication{"8080:30080": {8080, 30080}, "1:65535": {1, 65535}} {
		if got, err := parsePublication(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "8080", ":", "8080:", ":30080", "0:30080", "8080:0", "65536:1", "1:65536", "a:b", "127.0.0.1:8080:30080", "8080:30080:1", "8080:-1"} {
		if got, err := parsePublication(text); err == nil || !strings.Contains(err.Error(), "--publish") || !strings.Contains(err.Error(), strconv.Quote(text)) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}
