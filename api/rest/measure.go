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

// measuredVerbs are upstream's names of verbs.
var measuredVerbs = map[string]string{
	"get": "GET", "list": "LIST", "watch": "WATCH", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETECOLLECTION",
	"post": "POST", "put": "PUT", "head": "GET",
}

// measuredSubresources are those that some resource may have; others are a client's invention.
var measuredSubresources = map[string]bool{
	"status": true, "scale": true, "binding": true, "eviction": true, "log": true, "exec": true, "attach": true, "portforward": true, "proxy": true,
	"token": true, "approval": true, "finalize": true, "ephemeralcontainers": true, "resize": true,
}

// measuredPaths are the paths beside resources that are counted apart.
var measuredPaths = []string{"/healthz", "/livez", "/readyz", "/version", "/openapi", "/metrics", "/apis", "/api", "/kontiki", "/debug", "/ui"}

func (c *call) measuredRequest() measure.Request {
	r := measure.Request{Verb: measuredVerbs[c.verb]}
	if r.Verb == "PATCH" && strings.HasPrefix(c.r.Header.Get("Content-Type"), "application/apply-patch") {
		r.Verb = "APPLY"
	}
	if !c.isResource {
		for _, path := range measuredPaths {
			if c.r.URL.Path == path || strings.HasPrefix(c.r.URL.Path, path+"/") {
				r.Subresource = path
				break
			}
		}
		return r
	}
	if c.kind == nil {
		return r
	}
	r.Group, r.Version, r.Resource = c.kind.Group, c.kind.Version, c.kind.Resource
	if measuredSubresources[c.target.subresource] {
		r.Subresource = c.target.subresource
	}
	switch r.Subresource {
	case "exec", "attach", "portforward", "proxy":
		r.Verb = "CONNECT"
	}
	switch {
	case c.target.name != "" || c.verb == "create":
		r.Scope = "resource"
	case c.target.namespace != "":
		r.Scope = "namespace"
	default:
		r.Scope = "cluster"
	}
	r.DryRun = objects.Mutating(c.verb) && strings.Contains(c.r.URL.RawQuery, "dryRun=All")
	return r
}
