package rpc

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/api/objects"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

var errPanicked = errors.New("this request caused the API server to panic; look in the logs for details")

// limits limits the cost of one stream.
type limits struct {
	// stall is how long a response may wait for its client to read before the call is ended.
	stall time.Duration
	// linger is how long the client may still read the reason after that; then the stream is reset.
	linger time.Duration
	// watch is the shortest duration of a watch, the longest is twice that; bookmark is the interval of bookmarks for watches that
	// requested them.
	watch, bookmark time.Duration
}

var defaultLimits = limits{stall: flow.Stall, linger: time.Minute, watch: objects.MinWatch, bookmark: time.Minute}

// smallAnswer is the size in bytes of a response that every client has space for (HTTP/2 starts with a window of 64 KiB), so that
// it needs no write deadline, which costs as much as a small call.
const smallAnswer = 32 << 10

// stream is one call as an HTTP/2 stream: the ResponseWriter and the request body that grpc-go works on. It ends calls that the
// HTTP server does not limit: those that send too large a message, and those whose responses are not read. The context of such a
// call is cancelled at once, which releases what the call holds; its status follows the bytes that were being written.
type stream struct {
	http.ResponseWriter
	r       *http.Request
	control *http.ResponseController
	limits  limits
	cancel  context.CancelFunc
	writes  *flow.Writes
	// whole means that the response is one message, which is sent together with its headers and its status.
	whole bool
	// written counts the bytes of the response so far.
	written int

	mu     sync.Mutex // guards reason
	reason error

	first *arrival
}

// newStream creates a stream; slow is called if its client is late to read.
func newStream(w http.ResponseWriter, r *http.Request, l limits, slow func()) *stream {
	s := &stream{ResponseWriter: w, r: r, control: http.NewResponseController(w), limits: l, cancel: func() {}}
	s.writes = flow.NewWrites(l.stall, slow, s.stalled)
	return s
}

// request returns the request to pass to grpc-go.
func (s *stream) request(ctx context.Context) *http.Request {
	ctx, s.cancel = context.WithCancel(ctx)
	r := s.r.WithContext(ctx)
	r.Body = &messages{ReadCloser: s.r.Body, stream: s}
	return r
}

func (s *stream) close() {
	s.writes.End()
	if s.first != nil {
		s.first.done()
	}
	if s.whole && s.written > smallAnswer {
		// The rest is sent after the handler has returned, where no other limit applies to how long it waits.
		s.control.SetWriteDeadline(time.Now().Add(s.limits.stall))
	}
	s.cancel()
}

// end ends the call; only the first reason counts.
func (s *stream) end(reason error) {
	s.mu.Lock()
	if s.reason == nil {
		s.reason = reason
	}
	s.mu.Unlock()
	s.cancel()
}

func (s *stream) stalled() {
	s.end(apierrors.NewTooManyRequests(fmt.Sprintf("the stream was ended because the client did not read it for %v; read faster, or select less", s.limits.stall), 0))
	s.control.SetWriteDeadline(time.Now().Add(s.limits.linger)) // HTTP/2 streams have write deadlines
}

// Write implements http.ResponseWriter.
func (s *stream) Write(b []byte) (int, error) {
	s.writes.Begin()
	n, err := s.ResponseWriter.Write(b)
	s.written += n
	s.writes.End()
	return n, err
}

// Flush implements http.Flusher.
func (s *stream) Flush() {
	if s.whole {
		return
	}
	s.writes.Begin()
	s.control.Flush() // an error means that the client has disconnected, and the context ends
	s.writes.End()
}

// Unwrap is for http.ResponseController.
func (s *stream) Unwrap() http.ResponseWriter { return s.ResponseWriter }

var canceled = strconv.Itoa(int(codes.Canceled))

// interrupted writes the status of a call that was ended before it had one. It returns that status if this package ended the call,
// otherwise nil.
func (s *stream) interrupted() *status.Status {
	s.mu.Lock()
	reason := s.reason
	s.mu.Unlock()
	switch {
	case reason != nil:
		st := Status(reason)
		s.finish(st)
		return st
	case s.r.Context().Err() != nil && (s.Header().Get("Grpc-Status") == "" || s.Header().Get("Grpc-Status") == canceled):
		// The client has disconnected, so it will not read this, or the master is stopping.
		s.finish(status.New(codes.Unavailable, "the server is stopping; try again with another master"))
	}
	return nil
}

// finish ends the response with a status, whatever part of it has been written.
func (s *stream) finish(st *status.Status) {
	h := s.Header()
	if h.Get("Content-Type") == "" {
		h.Set("Content-Type", "application/grpc")
	}
	if h.Get("Trailer") == "" {
		h.Set("Trailer", "Grpc-Status, Grpc-Message, Grpc-Status-Details-Bin")
		s.WriteHeader(http.StatusOK)
	}
	s.Flush()
	h.Set("Grpc-Status", strconv.Itoa(int(st.Code())))
	h.Set("Grpc-Message", strings.ReplaceAll(url.QueryEscape(st.Message()), "+", "%20"))
	h.Del("Grpc-Status-Details-Bin")
	if p := st.Proto(); len(p.GetDetails()) > 0 {
		if raw, err := proto.Marshal(p); err == nil {
			h.Set("Grpc-Status-Details-Bin", base64.RawStdEncoding.EncodeToString(raw))
		}
	}
}

// largeFields are the fields because of which messages are large.
var largeFields = map[string]string{
	kontikiv1.Objects_Create_FullMethodName: "object.data", kontikiv1.Objects_Update_FullMethodName: "object.data",
	kontikiv1.Objects_Patch_FullMethodName: "patch", kontikiv1.Objects_Apply_FullMethodName: "configuration",
	kontikiv1.Objects_Transact_FullMethodName: "operations", kontikiv1.Pods_Exec_FullMethodName: "stdin", kontikiv1.Pods_PortForward_FullMethodName: "data",
}

// messages is the request's body. It parses the frames (one byte of flags, a four-byte big-endian length) in order to refuse a
// message that is too large, as REST refuses such a body, before any of it is buffered.
type messages struct {
	io.ReadCloser
	stream *stream
	head   [5]byte
	have   int    // bytes of the header
	left   uint32 // remaining bytes of the message
}

func (m *messages) Read(b []byte) (int, error) {
	n, err := m.ReadCloser.Read(b)
	for rest := b[:n]; len(rest) > 0; {
		if m.left > 0 {
			skip := min(int(m.left), len(rest))
			m.left -= uint32(skip)
			rest = rest[skip:]
			if m.left == 0 {
				m.stream.first.done()
			}
			continue
		}
		copied := copy(m.head[m.have:], rest)
		m.have += copied
		rest = rest[copied:]
		if m.have < len(m.head) {
			break
		}
		m.have, m.left = 0, binary.BigEndian.Uint32(m.head[1:])
		if err := m.stream.first.size(m.left); err != nil {
			m.stream.end(err)
			return 0, io.ErrUnexpectedEOF
		}
		if m.left > objects.MaxBodyBytes {
			m.stream.end(about(largeFields[m.stream.r.URL.Path], apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("limit is %d", objects.MaxBodyBytes))))
			return 0, io.ErrUnexpectedEOF
		}
	}
	return n, err
}
