package auth

import (
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Attributes describe what a request wants to do. For non-resource requests only Verb and Path are set.
type Attributes struct {
	User                         user.Info
	Verb                         string
	Group, Resource, Subresource string
	Namespace, Name              string
	Path                         string
}

// Authorizer decides whether a request is allowed. reason is for the response to a refused one.
type Authorizer interface {
	Authorize(a Attributes) (allowed bool, reason string)
}

// Coarse is implemented by authorizers that can tell, before a request has been read, whether a user may change anything at all.
type Coarse interface {
	MayChange(user user.Info) (allowed bool, reason string)
}

// MayChange returns nil if a user might be allowed to change something. It is called before a request's body, which names the
// object, is read; a is what is known of the request.
func MayChange(authorizer Authorizer, a Attributes) error {
	coarse, ok := authorizer.(Coarse)
	if !ok {
		return nil
	}
	if allowed, reason := coarse.MayChange(a.User); !allowed {
		return Refused(a, reason)
	}
	return nil
}

// publicPaths may be read by everyone, as with upstream's system:public-info-viewer.
var publicPaths = []string{"/healthz", "/livez", "/readyz", "/version"}

// discoveryPaths may be read by every authenticated user, as with upstream's system:discovery.
var discoveryPaths = []string{"/api", "/apis", "/openapi", "/.well-known/openid-configuration", "/openid/v1/jwks"}

// Groups is the authorizer without RBAC: members of system:masters may do everything; all others may read health, version and, if
// authenticated, discovery.
type Groups struct{}

const onlyMasters = "RBAC roles are not served yet, only members of the group system:masters have access"

// MayChange implements Coarse.
func (Groups) MayChange(u user.Info) (bool, string) {
	return slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup), onlyMasters
}

// Authorize implements Authorizer.
func (Groups) Authorize(a Attributes) (bool, string) {
	groups := a.User.GetGroups()
	if slices.Contains(groups, user.SystemPrivilegedGroup) {
		return true, ""
	}
	if a.Path != "" && a.Verb == "get" {
		if underAny(a.Path, publicPaths) {
			return true, ""
		}
		if slices.Contains(groups, user.AllAuthenticated) && underAny(a.Path, discoveryPaths) {
			return true, ""
		}
	}
	return false, onlyMasters
}

func underAny(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || (len(path) > len(root) && path[:len(root)] == root && path[len(root)] == '/')
	})
}

// Check returns nil if a request is allowed, and otherwise the error to respond with.
func Check(authorizer Authorizer, a Attributes) error {
	allowed, reason := authorizer.Authorize(a)
	if allowed {
		return nil
	}
	return Refused(a, reason)
}

// Refused returns the error for a request that is not allowed.
func Refused(a Attributes, reason string) error {
	if a.User.GetName() == user.Anonymous {
		// The request had no credential: asking for one is more helpful than saying what anonymous users may not do.
		return apierrors.NewUnauthorized("Unauthorized")
	}
	refusal := apierrors.NewForbidden(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Name, errors.New(Refusal(a, reason)))
	if a.Path != "" {
		refusal.ErrStatus.Message = "forbidden: " + Refusal(a, reason)
	}
	return refusal
}

// Refusal returns upstream's message for a request that is not allowed.
func Refusal(a Attributes, reason string) string {
	who := fmt.Sprintf("User %q cannot", a.User.GetName())
	if a.Path != "" {
		return fmt.Sprintf("%s %s path %q: %s", who, a.Verb, a.Path, reason)
	}
	resource := a.Resource
	if a.Subresource != "" {
		resource += "/" + a.Subresource
	}
	if a.Namespace != "" {
		return fmt.Sprintf("%s %s resource %q in API group %q in the namespace %q: %s", who, a.Verb, resource, a.Group, a.Namespace, reason)
	}
	return fmt.Sprintf("%s %s resource %q in API group %q at the cluster scope: %s", who, a.Verb, resource, a.Group, reason)
}
