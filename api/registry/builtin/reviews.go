package builtin

import "github.com/kontiki/kontiki/api/registry"

// reviews are answered when they are created, and not stored.
func reviews() []*registry.Resource {
	const authorization, authentication = "authorization.k8s.io", "authentication.k8s.io"
	review := func(group, kind, resource string) *registry.Resource {
		return &registry.Resource{Group: group, Kind: kind, Resource: resource, Verbs: []string{"create"}}
	}
	local := review(authorization, "LocalSubjectAccessReview", "localsubjectaccessreviews")
	local.Namespaced = true
	return []*registry.Resource{
		review(authentication, "TokenReview", "tokenreviews"),
		review(authentication, "SelfSubjectReview", "selfsubjectreviews"),
		review(authorization, "SubjectAccessReview", "subjectaccessreviews"),
		review(authorization, "SelfSubjectAccessReview", "selfsubjectaccessreviews"),
		local,
		review(authorization, "SelfSubjectRulesReview", "selfsubjectrulesreviews"),
	}
}
