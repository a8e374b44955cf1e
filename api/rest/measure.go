package rest

import (
	"net/http"
	"strings"
	"time"

	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/api/objects"
)

// measuring is what the metrics of a request need.
type measuring struct {
	began    time.Time
	waited   time.Duration // for a seat
	request  measure.Request
	mutating bool
	// long is called at the end of a long-running request; nil for any other.
	long func(code int)
	open bool
}

// beginMeasuring notes what the request is, and counts a long-running one as being under way.
func (c *call) beginMeasuring() {
	if c.Metrics == nil {
		return
	}
	c.measured.open = true
	c.measured.request = c.measuredRequest()
	c.measured.mutating = objects.Mutating(c.verb) && c.isResource
	if objects.LongRunning(c.verb, c.target.subresource) {
		c.measured.long = c.Metrics.Long(c.measured.request)
	}
}

// endMeasuring counts the request, which has ended.
func (c *call) endMeasuring() {
	m := &c.measured
	if !m.open {
		return
	}
	code := int(c.answer.code.Load())
	if code == 0 {
		code = http.StatusOK
	}
	if m.long != nil {
		m.long(code)
		return
	}
	c.Metrics.End(m.request, m.mutating, code, time.Since(m.began), m.waited, c.answer.bytes.Load())
}

func (c *call) measuredRequest() measure.Request {
	if !c.isResource {
		return measure.PathRequest(c.verb, c.r.URL.Path)
	}
	if c.kind == nil {
		return measure.PathRequest(c.verb, "")
	}
	r := measure.ResourceRequest(c.verb, c.kind.Group, c.kind.Version, c.kind.Resource, c.target.subresource, c.target.namespace != "", c.target.name != "")
	if r.Verb == "PATCH" && strings.HasPrefix(c.r.Header.Get("Content-Type"), "application/apply-patch") {
		r.Verb = "APPLY"
	}
	r.DryRun = objects.Mutating(c.verb) && strings.Contains(c.r.URL.RawQuery, "dryRun=All")
	return r
}
