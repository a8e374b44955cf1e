package rest

import (
	"bufio"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/endpoints/responsewriter"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/flow"
)

// answer is a ResponseWriter that keeps track of whether the response has begun, and records it for the audit log. What is written
// after that is part of the same response.
type answer struct {
	http.ResponseWriter
	begun  atomic.Bool
	code   atomic.Int32  // of the response, once it has begun
	bytes  atomic.Int64  // of its body so far
	record *audit.Record // nil before there is one
	// unwatched is the largest write that does not wait for the client.
	unwatched int
	writes    *flow.Writes // nil before the first larger write
	slow      func()
	stall     time.Duration
	control   *http.ResponseController // nil if writes are not watched
	hijacked  bool
}

// Writes up to these sizes are buffered by net/http, or fit into the window of every HTTP/2 client.
const unwatchedHTTP1, unwatchedHTTP2 = 4 << 10, 32 << 10

// open begins a response, which waits for its client to read some of it for stall; slow is called if the client is late to read. Writes of unhurried responses, which people read at their own
// pace, such as logs, are not watched.
func (a *answer) open(r *http.Request, stall time.Duration, slow func(), unhurried bool) {
	control := http.NewResponseController(a.ResponseWriter)
	a.stall, a.unwatched = stall, unwatchedHTTP2
	if r.ProtoMajor == 1 {
		a.unwatched = unwatchedHTTP1
		_ = control.SetWriteDeadline(time.Time{}) // that of the previous response; not every ResponseWriter in tests supports it
	}
	if !unhurried {
		a.control, a.slow = control, slow
	}
}

func (a *answer) begin(code int) {
	if !a.begun.Swap(true) {
		a.code.Store(int32(code))
	}
	a.record.Started(code)
}

// writer returns the answer with the optional interfaces of the underlying ResponseWriter.
func (a *answer) writer() http.ResponseWriter { return responsewriter.WrapForHTTP1Or2(a) }

// Unwrap is used by http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// Write implements http.ResponseWriter. A client that reads nothing for a while is cut off.
func (a *answer) Write(b []byte) (n int, err error) {
	a.begin(http.StatusOK)
	a.bytes.Add(int64(len(b)))
	if a.control == nil || len(b) <= a.unwatched && a.writes == nil {
		return a.ResponseWriter.Write(b)
	}
	a.watch()
	for len(b) > 0 && err == nil {
		part := b[:min(len(b), writePart)]
		a.writes.Begin()
		var written int
		written, err = a.ResponseWriter.Write(part)
		a.writes.End()
		n += written
		b = b[len(part):]
	}
	return n, err
}

// writePart is how much a client must read within that time.
const writePart = 64 << 10

// watch begins to watch the writes of this response, also small ones.
func (a *answer) watch() {
	if a.writes == nil && a.control != nil {
		a.writes = flow.NewWrites(a.stall, a.slow, func() { _ = a.control.SetWriteDeadline(time.Now()) })
	}
}

// Flush implements http.Flusher.
func (a *answer) Flush() { _ = a.FlushError() }

// FlushError is used by http.ResponseController.
func (a *answer) FlushError() error {
	if a.writes != nil {
		a.writes.Begin()
		defer a.writes.End()
	}
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// close ends the watching. What is still buffered is written after the handler has returned, within the same time.
func (a *answer) close() {
	if a.writes != nil {
		a.writes.End()
	}
	if a.control != nil && a.unwatched == unwatchedHTTP1 && !a.hijacked {
		_ = a.control.SetWriteDeadline(time.Now().Add(a.stall))
	}
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
	a.hijacked = true
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
