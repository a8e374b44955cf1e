package rpc

import (
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/api/objects"
)

// measured is what the metrics of a call need: those of the equivalent REST request.
type measured struct {
	began  time.Time
	dryRun bool
	// code is the status of the equivalent response, 0 while it is not known.
	code int
	// long is called at the end of a long-running call; nil for others, and before its first message.
	long func(code int)
}

// ended notes the status of the call; the first one counts.
func (c *caller) ended(code int) {
	if c.measured.code == 0 {
		c.measured.code = code
	}
}

// httpCode returns the status of an error, 0 for none.
func httpCode(err error) int {
	if err == nil {
		return 0
	}
	return int(objects.StatusOf(err).Code)
}

// request returns what the call is counted as.
func (c *caller) request() measure.Request {
	a := c.about
	if a == nil || !a.ResourceRequest {
		return measure.PathRequest(c.method.verb, c.method.path)
	}
	r := measure.ResourceRequest(a.Verb, a.APIGroup, a.APIVersion, a.Resource, a.Subresource, a.Namespace != "", a.Name != "")
	if c.r.URL.Path == "/kontiki.v1.Objects/Apply" {
		r.Verb = "APPLY"
	}
	r.DryRun = c.measured.dryRun
	return r
}

// open counts a long-running call, whose first message has been read, as being under way.
func (c *caller) open(message any) {
	if c.Metrics == nil || !c.method.longRunning {
		return
	}
	c.attributes(message)
	c.measured.long = c.Metrics.Long(c.request())
}

// measure counts a call that has ended.
func (c *caller) measure(st *stream) {
	if c.Metrics == nil {
		return
	}
	code := c.measured.code
	if code == 0 { // it did not reach a handler
		code = http.StatusOK
		if n, err := strconv.Atoi(st.Header().Get("Grpc-Status")); err == nil && n != int(codes.OK) {
			if code = httpOfCode[codes.Code(n)]; code == 0 {
				code = http.StatusInternalServerError
			}
		}
	}
	if c.measured.long != nil {
		c.measured.long(code)
		return
	}
	c.Metrics.End(c.request(), true, code, time.Since(c.measured.began), 0, 0) // the size of a response is not that of its REST equivalent
}
