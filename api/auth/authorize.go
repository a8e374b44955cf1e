package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Authorizer decides whether a request is allowed. It is upstream's interface without conditions.
type Authorizer = authorizer.UnconditionalAuthorizer

// Coarse is implemented by authorizers that can tell, before a request has been read, whether a user may change anything at all.
type Coarse interface {
	MayChange(ctx context.Context, user user.Info) (allowed bool, reason string)
}

// MayChange returns nil if a user might be allowed to change something. It is called before a request's body, which names the
// object, is read; a is what is known of the request.
func MayChange(ctx context.Context, by Authorizer, a authorizer.Attributes) error {
	coarse, ok := by.(Coarse)
	if !ok {
		return nil
	}
	if allowed, reason := coarse.MayChange(ctx, a.GetUser()); !allowed {
		return Refused(a, reason)
	}
	return nil
}

// Privileged says whether a user is a member of system:masters, who may do everything.
func Privileged(u user.Info) bool {
	return u != nil && slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup)
}

// IsAnonymous says whether a request had no credential, rather than one of a user who impersonates the anonymous one.
func IsAnonymous(u user.Info) bool { return u == user.Info(Anonymous) }

// Check returns nil if a request is allowed, and otherwise the error to respond with. An error of the authorizer matters only if
// the request is not allowed.
func Check(ctx context.Context, by Authorizer, a authorizer.Attributes) error {
	decision, reason, err := by.Authorize(ctx, a)
	return Outcome(a, decision, reason, err)
}

// Outcome returns the error to respond with for an authorizer's answer, nil if the request is allowed.
func Outcome(a authorizer.Attributes, decision authorizer.Decision, reason string, err error) error {
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil:
		return apierrors.NewInternalError(fmt.Errorf("authorization: %w", err))
	}
	return Refused(a, reason)
}

// Refused returns the error for a request that is not allowed.
func Refused(a authorizer.Attributes, reason string) error {
	if IsAnonymous(a.GetUser()) {
		// The request had no credential: asking for one is more helpful than saying what anonymous users may not do.
		return apierrors.NewUnauthorized("Unauthorized")
	}
	text := refusal(a)
	if reason != "" {
		text += ": " + reason
	}
	return apierrors.NewForbidden(schema.GroupResource{Group: a.GetAPIGroup(), Resource: a.GetResource()}, a.GetName(), errors.New(text))
}

// noHTML keeps upstream's errors from looking like valid HTML.
var noHTML = strings.NewReplacer(`&`, "&amp;", `<`, "&lt;", `>`, "&gt;")

// refusal returns upstream's message for a request that is not allowed.
func refusal(a authorizer.Attributes) string {
	text := fmt.Sprintf("User %q cannot %s", a.GetUser().GetName(), a.GetVerb())
	resource := a.GetResource()
	if a.GetSubresource() != "" {
		resource += "/" + a.GetSubresource()
	}
	switch {
	case !a.IsResourceRequest():
		text += fmt.Sprintf(" path %q", a.GetPath())
	case a.GetNamespace() != "":
		text += fmt.Sprintf(" resource %q in API group %q in the namespace %q", resource, a.GetAPIGroup(), a.GetNamespace())
	default:
		text += fmt.Sprintf(" resource %q in API group %q at the cluster scope", resource, a.GetAPIGroup())
	}
	return noHTML.Replace(text)
}
