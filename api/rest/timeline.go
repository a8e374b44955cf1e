package rest

import (
	"context"
	"net/http"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
)

// TimelinePath is the prefix of the paths that say where a pod's time to start went: below it are a pod's namespace and name.
const TimelinePath = "/kontiki/v1/timeline/pods/"

// serveTimeline responds with what is known of a pod's start. The caller must be allowed to get the pod; no rule has to name the path.
func (c *call) serveTimeline() error {
	namespace, name, ok := strings.Cut(strings.TrimPrefix(c.r.URL.Path, TimelinePath), "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") || c.Timeline == nil {
		return noSuchPath(c.r)
	}
	if c.r.Method != http.MethodGet {
		return apierrors.NewMethodNotSupported(schema.GroupResource{Group: "kontiki", Resource: "timelines"}, c.r.Method)
	}
	if auth.IsAnonymous(c.user) {
		return apierrors.NewUnauthorized("Unauthorized")
	}
	ctx, cancel := context.WithTimeout(c.r.Context(), c.timeout())
	defer cancel()
	a := &authorizer.AttributesRecord{User: c.user, Verb: "get", APIVersion: "v1", Resource: "pods", Namespace: namespace, Name: name, ResourceRequest: true}
	if err := c.as.On(ctx, c.Authorizer, c.sender, a); err != nil {
		return err
	}
	if err := audit.Authorize(c.r.Context(), c.Authorizer, a); err != nil {
		return err
	}
	kind, _ := c.Objects.Kinds().ByGroupResource("", "pods")
	v, err := c.Objects.Get(ctx, &objects.Request{User: c.user, Kind: kind, Namespace: namespace, Name: name}, "")
	if err != nil {
		return err
	}
	obj, err := c.Objects.Decode(kind, v)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	writeJSON(c.w, http.StatusOK, c.Timeline(ctx, obj.(*corev1.Pod)))
	return nil
}
