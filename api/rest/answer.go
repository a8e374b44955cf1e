package rest

import (
	"bufio"
	"net"
	"net/http"
	"sync/atomic"

	"k8s.io/apiserver/pkg/endpoints/responsewriter"

	"github.com/kontiki/kontiki/api/audit"
)

// answer is a ResponseWriter that keeps track of whether the response has begun, and records it for the audit log. What is written
// after that is part of the same response.
type answer struct {
	http.ResponseWriter
	begun  atomic.Bool
	record *audit.Record // nil before there is one
}

func (a *answer) begin(code int) {
	a.begun.Store(true)
	a.record.Started(code)
}

// writer returns the answer with the optional interfaces of the underlying ResponseWriter.
func (a *answer) writer() http.ResponseWriter { return responsewriter.WrapForHTTP1Or2(a) }

// Unwrap is used by http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.begin(http.StatusOK)
	return a.ResponseWriter.Write(b)
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) {
	if code >= http.StatusOK || code == http.StatusSwitchingProtocols { // informational responses precede the actual one
		a.begin(code)
	}
	a.ResponseWriter.WriteHeader(code)
}

// Hijack implements http.Hijacker.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a.begin(http.StatusSwitchingProtocols)
	return a.ResponseWriter.(http.Hijacker).Hijack()
}

// fail responds with an error. If the response has begun, a client could not tell the error from its content, so fail aborts the
// connection (or the HTTP/2 stream) instead, so that nobody takes the response for complete.
func (c *call) fail(err error) {
	if c.answer.begun.Load() {
		c.clients.Warn("a response was aborted", "method", c.r.Method, "path", c.r.URL.Path, "error", err)
		panic(http.ErrAbortHandler)
	}
	writeError(c.w, c.r, err)
}
