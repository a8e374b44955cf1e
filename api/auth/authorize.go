package auth

import (
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Attributes is what a request wants to do. For a request that is not for a resource only Verb and Path are set.
type Attributes struct {
	User                         user.Info
	Verb                         string
	Group, Resource, Subresource string
	Namespace, Name              string
	Path                         string
}

// Authorizer decides if a request may go on. reason is for the answer of a refused one.
type Authorizer interface {
	Authorize(a Attributes) (allowed bool, reason string)
}

// Coarse is what an Authorizer may tell before a request is read: whether there is anything at all that a user may change.
type Coarse interface {
	MayChange(user user.Info) (allowed bool, reason string)
}

// MayChange answers nil if a user may perhaps change something. It is asked before a request's body is read that names what
// it is about; a is the request as far as it is known.
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

// publicPaths are open to everybody, as upstream's system:public-info-viewer is.
var publicPaths = []string{"/healthz", "/livez", "/readyz", "/version"}

// discoveryPaths are open to everybody who is authenticated, as upstream's system:discovery is.
var discoveryPaths = []string{"/api", "/apis", "/openapi", "/.well-known/openid-configuration", "/openid/v1/jwks"}

// Groups is the authorizer without role objects: members of system:masters may do everything; everybody else may read
// health, version and, when authenticated, discovery.
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

// Check answers nil if a request may go on, and otherwise the error to answer.
func Check(authorizer Authorizer, a Attributes) error {
	allowed, reason := authorizer.Authorize(a)
	if allowed {
		return nil
	}
	return Refused(a, reason)
}

// Refused is the error to answer a request that may not go on.
func Refused(a Attributes, reason string) error {
	if a.User.GetName() == user.Anonymous {
		// Nothing was presented: asking for a credential helps more than saying that nobody may do nothing.
		return apierrors.NewUnauthorized("Unauthorized")
	}
	refusal := apierrors.NewForbidden(schema.GroupResource{Group: a.Group, Resource: a.Resource}, a.Name, errors.New(Refusal(a, reason)))
	if a.Path != "" {
		refusal.ErrStatus.Message = "forbidden: " + Refusal(a, reason)
	}
	return refusal
}

// Refusal words a refused request as upstream does.
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
