package rest

import (
	"context"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/auth"
)

// AdvicePath is the path that says which requests would fit the workloads of ?namespace=, without it all.
const AdvicePath = "/kontiki/v1/advice"

// serveAdvice responds with the advice for workloads. The caller must be allowed to list the metrics of the namespace's pods, as for kubectl top; no
// rule has to name the path.
func (c *call) serveAdvice() error {
	if c.Advice == nil {
		return noSuchPath(c.r)
	}
	if c.r.Method != http.MethodGet {
		return apierrors.NewMethodNotSupported(schema.GroupResource{Group: "kontiki", Resource: "advice"}, c.r.Method)
	}
	if auth.IsAnonymous(c.user) {
		return apierrors.NewUnauthorized("Unauthorized")
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), c.timeout())
	defer cancel()
	namespace := c.r.URL.Query().Get("namespace")
	a := &authorizer.AttributesRecord{User: c.user, Verb: "list", APIGroup: "metrics.k8s.io", APIVersion: "v1", Resource: "pods", Namespace: namespace, ResourceRequest: true}
	if err := c.as.On(ctx, c.Authorizer, c.sender, a); err != nil {
		return err
	}
	if err := audit.Authorize(c.r.Context(), c.Authorizer, a); err != nil {
		return err
	}
	writeJSON(c.w, http.StatusOK, c.Advice(namespace))
	return nil
}
