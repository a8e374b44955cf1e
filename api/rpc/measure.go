package rpc

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/api/objects"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// measured is what the metrics of a call need: those of the equivalent REST request. The handler of a stream that its client has left may
// still run when the call has been counted.
type measured struct {
	began time.Time

	mu sync.Mutex
	// request is what the call is counted as, once its first message has been read; told says so.
	request measure.Request
	told    bool
	// code is the status of the equivalent response, 0 while it is not known.
	code int
	// long is called at the end of a long-running call; nil for others, and before its first message.
	long func(code int)
	over bool
}

// ended notes the status of the call; the first one counts.
func (c *caller) ended(code int) {
	m := &c.measured
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.code == 0 {
		m.code = code
	}
}

// httpCode returns the status of an error, 0 for none.
func httpCode(err error) int {
	if err == nil {
		return 0
	}
	return int(objects.StatusOf(err).Code)
}

// told notes what the call is about, by its first message, and counts a long-running one as being under way.
func (c *caller) told(message any) {
	if c.Metrics == nil {
		return
	}
	r := c.requestOf(message)
	m := &c.measured
	m.mu.Lock()
	defer m.mu.Unlock()
	m.request, m.told = r, true
	if c.method.longRunning && !m.over {
		m.long = c.Metrics.Long(r)
	}
}

// requestOf returns what a call with a message is counted as.
func (c *caller) requestOf(message any) measure.Request {
	a := c.attributes(message)
	if !a.ResourceRequest {
		return measure.PathRequest(c.method.verb, c.method.path)
	}
	r := measure.ResourceRequest(a.Verb, a.APIGroup, a.APIVersion, a.Resource, a.Subresource, a.Namespace != "", a.Name != "")
	if c.r.URL.Path == kontikiv1.Objects_Apply_FullMethodName {
		r.Verb = "APPLY"
	}
	if write, ok := message.(interface {
		GetOptions() *kontikiv1.WriteOptions
	}); ok {
		r.DryRun = write.GetOptions().GetDryRun()
	}
	return r
}

// measure counts a call that has ended.
func (c *caller) measure(st *stream) {
	if c.Metrics == nil {
		return
	}
	m := &c.measured
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	code := m.code
	if code == 0 { // it did not reach a handler, or its client has left
		code = http.StatusOK
		if n, err := strconv.Atoi(st.Header().Get("Grpc-Status")); err == nil && n != int(codes.OK) {
			if code = httpOfCode[codes.Code(n)]; code == 0 {
				code = http.StatusInternalServerError
			}
		}
	}
	if m.long != nil {
		m.long(code)
		return
	}
	if !m.told {
		m.request = measure.PathRequest(c.method.verb, c.method.path)
	}
	c.Metrics.End(m.request, true, code, time.Since(m.began), 0, 0) // the size of a response is not that of its REST equivalent
}
