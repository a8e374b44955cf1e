// Package authz decides what users may do.
package authz

import (
	"context"
	"slices"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
)

// publicPaths may be read by everyone, as with upstream's system:public-info-viewer.
var publicPaths = []string{"/healthz", "/livez", "/readyz", "/version"}

// discoveryPaths may be read by every authenticated user, as with upstream's system:discovery.
var discoveryPaths = []string{"/api", "/apis", "/openapi", "/.well-known/openid-configuration", "/openid/v1/jwks"}

// Groups is the authorizer without RBAC: members of system:masters may do everything; all others may read health, version and, if
// authenticated, discovery.
type Groups struct{}

const onlyMasters = "RBAC roles are not served yet, only members of the group system:masters have access"

// MayChange implements auth.Coarse.
func (Groups) MayChange(_ context.Context, u user.Info) (bool, string) {
	return auth.Privileged(u), onlyMasters
}

// Authorize implements auth.Authorizer.
func (Groups) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	switch {
	case auth.Privileged(a.GetUser()):
		return authorizer.DecisionAllow, "", nil
	case a.IsResourceRequest() || a.GetVerb() != "get":
	case underAny(a.GetPath(), publicPaths), slices.Contains(a.GetUser().GetGroups(), user.AllAuthenticated) && underAny(a.GetPath(), discoveryPaths):
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, onlyMasters, nil
}

func underAny(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		return path == root || (len(path) > len(root) && path[:len(root)] == root && path[len(root)] == '/')
	})
}
