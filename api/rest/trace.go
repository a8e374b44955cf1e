package rest

import (
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/api/objects"
)

// beginTrace begins the request's span. Requests that stay open have none: it would end, and be seen, hours later.
func (c *call) beginTrace(sender user.Info) {
	if objects.LongRunning(c.verb, c.target.subresource) {
		return
	}
	ctx, span := c.Tracer.Request(c.r.Context(), c.spanName(), c.r.Header, auth.TrustedParent(sender), c.measured.began)
	c.r, c.span = c.r.WithContext(ctx), span
	if span.Recording() {
		span.Set(attribute.String("http.request.method", c.r.Method), attribute.String("url.path", c.r.URL.Path),
			attribute.String("user_agent.original", c.r.UserAgent()), attribute.String("audit-id", c.w.Header().Get("Audit-Id")))
	}
}

// endTrace ends the request's span.
func (c *call) endTrace() {
	if !c.span.Recording() {
		return
	}
	code := int(c.answer.code.Load())
	if code == 0 {
		code = http.StatusOK
	}
	c.span.Set(attribute.Int("http.response.status_code", code))
	if code >= http.StatusInternalServerError { // others are the client's errors
		c.span.Fail(http.StatusText(code))
	}
	c.span.End(nil)
}

// spanName is upstream's: the method, and the path without the names in it, so that there are few.
func (c *call) spanName() string {
	if c.kind == nil {
		return c.r.Method
	}
	var name strings.Builder
	name.WriteString(c.r.Method)
	if c.kind.Group == "" {
		name.WriteString(" /api/")
	} else {
		name.WriteString(" /apis/" + c.kind.Group + "/")
	}
	name.WriteString(c.kind.Version)
	if c.target.namespace != "" {
		name.WriteString("/namespaces/{:namespace}")
	}
	name.WriteString("/" + c.kind.Resource)
	if c.target.name != "" {
		name.WriteString("/{:name}")
	}
	if subresource := measure.Subresource(c.target.subresource); subresource != "" {
		name.WriteString("/" + subresource)
	}
	return name.String()
}
