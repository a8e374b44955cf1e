package linger

import (
	"io"
	"net"
	"testing"
	"time"
)

// pair is an accepted connection and its client.
func pair(t *testing.T, patience time.Duration, wrap bool) (server, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if wrap {
		l = Listener(l, patience)
	}
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return server, client
}

// fill writes until the sockets' buffers are full, and returns the number of bytes.
func fill(t *testing.T, c net.Conn) int64 {
	t.Helper()
	var n int64
	b := make([]byte, 64<<10)
	for {
		_ = c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		w, err := c.Write(b)
		n += int64(w)
		if err != nil {
			return n
		}
	}
}

// TestTheEndArrives: the client does not read until the server has closed the connection, and sends data in the meantime.
func TestTheEndArrives(t *testing.T) {
	for _, wrap := range []bool{true, false} {
		server, client := pair(t, time.Minute, wrap)
		sent := fill(t, server)
		if err := server.Close(); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := client.Write([]byte("ping")); err != nil {
				break
			}
			time.Sleep(10 * time.Millisecond) // for a reset to come, if one comes
		}
		got, err := io.Copy(io.Discard, client)
		if wrap && (got != sent || err != nil) {
			t.Errorf("%d bytes of %d arrived, %v", got, sent, err)
		}
		if !wrap && got == sent && err == nil {
			t.Error("a plain connection loses nothing: this test does not show what it is about")
		}
	}
}

// TestADeadClientIsGivenUp: a client that does not read does not keep the socket open indefinitely.
func TestADeadClientIsGivenUp(t *testing.T) {
	server, client := pair(t, 200*time.Millisecond, true)
	fill(t, server)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	_ = client.SetWriteDeadline(time.Now().Add(20 * time.Second))
	for { // until it is reset
		if _, err := client.Write([]byte("ping")); err != nil {
			if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
				t.Error("the connection is held for ever")
			}
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestAClientThatTakesLittleIsGivenUp: nor does a client that reads a little from time to time.
func TestAClientThatTakesLittleIsGivenUp(t *testing.T) {
	server, client := pair(t, 300*time.Millisecond, true)
	sent := fill(t, server)
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	slowly := time.NewTicker(100 * time.Millisecond)
	defer slowly.Stop()
	taken := int64(0)
	for range slowly.C {
		n, err := io.CopyN(io.Discard, client, sent/100)
		if taken += n; err != nil {
			break
		}
		_, _ = client.Write([]byte("ping")) // is answered with a reset once nobody holds the connection
	}
	if taken == sent {
		t.Errorf("all %d bytes were taken, by a client that took a hundredth at a time", sent)
	}
}
