// Package keepalive limits how often clients of an HTTP/2 server may ping, as gRPC servers do (gRFC A8, A9): net/http responds to
// every PING frame, so that a client can keep a server busy and its connections open at no cost to itself.
//
// A ping that comes within MinTime of the one before is a strike. Any frame of a response (HEADERS or DATA) that the server sends
// resets the strikes, because clients ping to measure bandwidth when data arrive, and to see whether a connection on which they
// cancelled a request is still alive. At the third strike the client is sent GOAWAY with ENHANCE_YOUR_CALM and "too_many_pings", on
// which gRPC clients ping half as often; requests in flight get a moment to finish, then the connection is closed.
//
// HTTP/1.1 connections are not affected.
package keepalive

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/net/http2"
)

// Policy limits how often a client may ping, with or without requests in flight.
type Policy struct {
	// MinTime is the shortest allowed time between two pings. Zero means DefaultMinTime.
	MinTime time.Duration
	// Grace is how long requests in flight may take after the GOAWAY. Zero means DefaultGrace.
	Grace time.Duration
	// Refused, if not nil, is called with the client's address for each connection that is closed because of its pings.
	Refused func(remote string)
}

const (
	// DefaultMinTime is etcd's. client-go pings every 30 s, gRPC's clients every 10 s at most.
	DefaultMinTime = 5 * time.Second
	// maxStrikes is gRPC's.
	maxStrikes = 2
	// DefaultGrace is enough for responses that are about to be sent.
	DefaultGrace = time.Second
)

// Enforce applies the policy to a server's HTTP/2 clients over TLS; call it before the server serves. The server's fields for
// HTTP/2 and its hooks keep their meaning, except that ConnState gets a wrapper of the *tls.Conn for the states active and idle.
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
