package objects

import (
	"context"

	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
)

// Attributes returns the request as authorizers see it, with a verb.
func (r *Request) Attributes(verb string) *authorizer.AttributesRecord {
	a := &authorizer.AttributesRecord{
		User: r.User, Verb: verb, APIGroup: r.Kind.Group, APIVersion: r.Kind.Version, Resource: r.Kind.Resource, Subresource: r.Subresource,
		Namespace: r.Namespace, Name: r.Name, ResourceRequest: true,
	}
	if a.Resource == "namespaces" && a.APIGroup == "" {
		a.Namespace = a.Name // a namespace counts as an object in it, as upstream has it
	}
	return a
}

// authorize checks whether the request's user may do what attributes describe, beside what its front has already authorized.
func (s *Service) authorize(ctx context.Context, r *Request, a authorizer.Attributes) error {
	if r.Trusted {
		return nil
	}
	return auth.Check(ctx, s.authorizer, a)
}
