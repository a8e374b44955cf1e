// Package keepalive limits how often clients of an HTTP/2 server may ping, as gRPC servers do (gRFC A8, A9): net/http answers
// every PING frame, which lets one client keep a server busy and its connections alive at no cost of its own.
//
// A ping that comes within MinTime of the one before is a strike. Whatever the server sends of an answer (HEADERS or DATA)
// forgives the strikes, as clients ping to measure bandwidth when data comes in, and to see whether a connection lives on which
// they gave up a request. With the third strike the client is sent GOAWAY with ENHANCE_YOUR_CALM and "too_many_pings", which gRPC's
// clients answer by pinging half as often; what is under way on the connection has a moment to be answered, then it is closed.
//
// Connections of HTTP/1.1 are not touched.
package keepalive

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/net/http2"
)

// Policy is how often a client may ping, with or without requests under way.
type Policy struct {
	// MinTime is the least time between two pings. Zero is DefaultMinTime.
	MinTime time.Duration
	// Grace is how long what is under way has for its answers after the GOAWAY. Zero is DefaultGrace.
	Grace time.Duration
	// Refused is called, if not nil, for each connection that is closed for its pings, with the client's address.
	Refused func(remote string)
}

const (
	// DefaultMinTime is etcd's. client-go pings every 30 s, gRPC's clients every 10 s at most.
	DefaultMinTime = 5 * time.Second
	// maxStrikes is gRPC's.
	maxStrikes = 2
	// DefaultGrace is enough for what is about to be answered.
	DefaultGrace = time.Second
)

// Enforce makes a server, before it serves, hold its clients of HTTP/2 over TLS to the policy. The server's fields for HTTP/2 and
// its hooks keep their meaning, but ConnState sees the states active and idle of such connections on a wrapper of the *tls.Conn.
func Enforce(server *http.Server, p Policy) error {
	if p.MinTime == 0 {
		p.MinTime = DefaultMinTime
	}
	if p.Grace == 0 {
		p.Grace = DefaultGrace
	}
	h2 := &http2.Server{}
	if err := http2.ConfigureServer(server, h2); err != nil {
		return fmt.Errorf("configure HTTP/2: %w", err)
	}
	server.TLSNextProto[http2.NextProtoTLS] = func(hs *http.Server, c *tls.Conn, h http.Handler) {
		options := &http2.ServeConnOpts{Handler: h, BaseConfig: hs}
		if based, ok := h.(interface{ BaseContext() context.Context }); ok {
			options.Context = based.BaseContext()
		}
		h2.ServeConn(newConn(c, p), options)
	}
	return nil
}
