package cluster

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/mtls"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
	"github.com/kontiki/kontiki/test/await"
)

// lockedBuffer is a log that can be read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestThePortOutlivesBadClients(t *testing.T) {
	var logged lockedBuffer
	m := startMasters(t, 1, func(cfg *Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(&logged, nil))
		cfg.Timings.Handshake = 300 * time.Millisecond
	})
	address := m.nodes[0].c.Address()
	expectLog := func(want string) {
		t.Helper()
		await.That(t, "the log line "+want, func() error {
			if !strings.Contains(logged.String(), want) {
				return errors.New("not there")
			}
			return nil
		})
	}
	// closed reads until the other end closes: no answer and no hang.
	closed := func(conn net.Conn) {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, conn); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection stays open: %v", err)
		}
		conn.Close()
	}
	dial := func() net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}

	t.Run("plain HTTP", func(t *testing.T) {
		response, err := http.Get("http://" + address + "/api")
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		if response.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "mTLS") {
			t.Errorf("%s: %s", response.Status, body)
		}
		expectLog("the client sent plain HTTP")
	})
	t.Run("garbage", func(t *testing.T) {
		conn := dial()
		conn.Write(bytes.Repeat([]byte{0xfe, 0x00, 0x17}, 1000))
		closed(conn)
		expectLog("bytes that are not TLS")
	})
	t.Run("silence", func(t *testing.T) {
		conn := dial()
		closed(conn)
		expectLog("TLS handshake failed")
	})
	t.Run("no protocol", func(t *testing.T) {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err == nil {
			conn.Close()
			t.Error("a client without a protocol was let in")
		}
		expectLog("not a protocol of this port")
	})
	t.Run("no certificate", func(t *testing.T) {
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{mtls.ProtoRaft}})
		if err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			if _, err = bufio.NewReader(conn).ReadByte(); err == nil {
				t.Error("a client without a certificate was let in")
			}
			conn.Close()
		}
	})
	t.Run("another cluster's certificate", func(t *testing.T) {
		other, err := identity.New()
		if err != nil {
			t.Fatal(err)
		}
		d := &mtls.Dialer{Roots: m.nodes[0].c.Roots, Certificate: identity.NewCertificates(identity.NewLive(other, 0), "master-9", nil).Get}
		conn, err := d.Dial(context.Background(), address, mtls.ProtoCluster)
		if err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(patience))
			if _, err = conn.Read(make([]byte, 1)); err == nil {
				t.Error("a master of another cluster was let in")
			}
			conn.NetConn().Close()
		}
	})
	t.Run("garbage inside raft's protocol", func(t *testing.T) {
		id := m.nodes[0].c.Identity()
		d := &mtls.Dialer{Roots: id.Roots, Certificate: identity.NewCertificates(identity.NewLive(id, 0), "master-9", nil).Get}
		conn, err := d.Dial(context.Background(), address, mtls.ProtoRaft)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte("\xff\xff garbage \x00\x01"))
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, conn); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the connection stays open: %v", err)
		}
		conn.NetConn().Close()
	})
	t.Run("a flood", func(t *testing.T) {
		before := strings.Count(logged.String(), "\n")
		for range 200 {
			conn := dial()
			conn.Write([]byte("garbage garbage"))
			closed(conn)
		}
		if lines := strings.Count(logged.String(), "\n") - before; lines > 20 {
			t.Errorf("200 bad connections caused %d lines of log", lines)
		}
	})
	m.nodes[0].put("/t/a/b/c", "x")
	if got := m.nodes[0].get("/t/a/b/c"); got != "x" {
		t.Errorf("read %q", got)
	}
}

// TestHostsThatJoinTakeLittleOfAMaster: the join protocol asks for no certificate, so that what it costs is bounded.
func TestHostsThatJoinTakeLittleOfAMaster(t *testing.T) {
	m := startMasters(t, 1)
	c := m.nodes[0].c
	dial := func() *tls.Conn {
		conn, err := tls.Dial("tcp", c.Address(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{mtls.ProtoJoin}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.NetConn().Close() })
		return conn
	}
	var held []*tls.Conn
	for range mtls.MaxJoiners {
		held = append(held, dial())
	}
	await.That(t, "all of them to be counted", func() error {
		if n := c.port.Joiners(); n != mtls.MaxJoiners {
			return fmt.Errorf("%d are", n)
		}
		return nil
	})
	// One too many: the oldest makes room, so that whoever holds connections open keeps nobody out.
	over := dial()
	_ = held[0].SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, held[0]); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the oldest of too many connections stays open")
	}
	over.NetConn().Close()
	for _, conn := range held {
		conn.NetConn().Close()
	}
	await.That(t, "room for others", func() error {
		if n := c.port.Joiners(); n != 0 {
			return fmt.Errorf("%d are counted", n)
		}
		return nil
	})

	// A message that is larger than any honest one is refused before it is read.
	conn, err := join.Dial(t.Context(), mtls.Machine{}, c.Address(), join.Token{Pin: c.Identity().CA.Pin()})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = clusterv1.NewJoinServiceClient(conn).JoinWorker(t.Context(), &clusterv1.JoinWorkerRequest{Token: strings.Repeat("x", 2*mtls.MaxJoinMessage)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a message of %d bytes: %v", 2*mtls.MaxJoinMessage, err)
	}
}
