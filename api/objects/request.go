package objects

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/kontiki/kontiki/api/objects/managed"
	"github.com/kontiki/kontiki/api/registry"
)

// Request describes a request: its user, its target and its options.
type Request struct {
	User            user.Info
	Kind            *registry.Kind
	Namespace, Name string
	Subresource     string
	FieldManager    string
	DryRun          bool
	// Warn receives warnings for the client; if it is nil they are dropped.
	Warn func(string)
	// Trusted requests come from components in this process, which may do everything.
	Trusted bool

	// Received is when the request was received; zero for one of this process, which is received when it is made.
	Received time.Time

	memo *memo
	// again decodes once more what DecodeBody has decoded for this request; nil if the object did not come from a body.
	again func() (registry.Object, error)
}

// attempts returns a function that returns the object of a write for each attempt to carry it out, as an attempt changes its object. The
// first attempt gets obj itself if later ones can decode it again, and nearly all writes need only one: so it is rarely copied.
func (r *Request) attempts(obj registry.Object) func() (registry.Object, error) {
	if r.again == nil {
		return func() (registry.Object, error) { return obj.DeepCopyObject().(registry.Object), nil }
	}
	first := true
	return func() (registry.Object, error) {
		if first {
			first = false
			return obj, nil
		}
		return r.again()
	}
}

// managed returns what managed fields record of the request's write.
func (r *Request) managed() managed.Write {
	return managed.Write{Kind: r.Kind, Subresource: r.Subresource, Manager: r.FieldManager}
}

func (r *Request) warn(format string, args ...any) {
	if r.Warn != nil {
		r.Warn(fmt.Sprintf(format, args...))
	}
}

// serves refuses a verb that the request's resource does not have.
func (r *Request) serves(verb string) error {
	if r.Subresource == "" && !r.Kind.Serves(verb) {
		return apierrors.NewMethodNotSupported(r.Kind.GroupResource(), verb)
	}
	return nil
}

// context returns a context in which upstream's strategies find what they look for: who asks, and for what.
func (r *Request) context(ctx context.Context, verb string) context.Context {
	ctx = genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{
		IsResourceRequest: true, Verb: verb, APIGroup: r.Kind.Group, APIVersion: r.Kind.Version, Resource: r.Kind.Resource,
		Subresource: r.Subresource, Namespace: r.Namespace, Name: r.Name,
	})
	if r.User != nil {
		ctx = genericapirequest.WithUser(ctx, r.User)
	}
	return genericapirequest.WithNamespace(ctx, r.Namespace)
}

// Creator answers creations of a resource that is not stored, such as a review. obj has its defaults and belongs to the Creator. It
// is safe for concurrent use.
type Creator func(ctx context.Context, r *Request, obj registry.Object) (registry.Object, error)
