package admission

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
)

// ownerReferences lets only those who may delete an object give it owners, because then it is deleted with them, and only those who may
// set finalizers of an owner block its deletion. Rules and words are upstream's. It is off by default, as upstream.
func ownerReferences(by auth.Authorizer) objects.Step {
	o := owners{by}
	return objects.Step{
		Name: "OwnerReferencesPermissionEnforcement",
		Handles: func(a *objects.Attributes) bool {
			if a.Operation != objects.OpCreate && a.Operation != objects.OpUpdate || a.Trusted {
				return false
			}
			return !a.Is(pods, "status") && !a.Is(corev1.Resource("nodes"), "status") // their strategies keep owners as they are
		},
		Validate: o.validate,
	}
}

type owners struct{ authorizer auth.Authorizer }

func (o owners) validate(ctx context.Context, a *objects.Attributes) error {
	now, then := ownersOf(a.Object), ownersOf(a.Old)
	if apiequality.Semantic.DeepEqual(now, then) || len(now) == 0 && len(then) == 0 {
		return nil
	}
	if a.Operation != objects.OpCreate {
		if reason, err := o.ask(ctx, a.Attributes("delete")); err != nil {
			return a.Forbid("cannot set an ownerRef on a resource you can't delete: %v, %v", reason, emptyIfDenied(err))
		}
	}
	blocking := newlyBlocking(now, then)
	if len(blocking) == 0 {
		return nil
	}
	anything := &authorizer.AttributesRecord{User: a.User, Verb: "update", APIGroup: "*", APIVersion: "*", Resource: "*", Subresource: "finalizers", Name: "*", ResourceRequest: true}
	if _, err := o.ask(ctx, anything); err == nil {
		return nil
	}
	for _, ref := range blocking {
		finalizers, err := finalizersOf(a, ref)
		if err != nil {
			return a.Forbid("cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %s Kind %s: %v", ref.APIVersion, ref.Kind, err)
		}
		if reason, err := o.ask(ctx, finalizers); err != nil {
			return a.Forbid("cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: %v, %v", reason, emptyIfDenied(err))
		}
	}
	return nil
}

var errDenied = errors.New("denied")

// ask returns an error unless the authorizer allows a request: its own one, or errDenied.
func (o owners) ask(ctx context.Context, a *authorizer.AttributesRecord) (reason string, err error) {
	decision, reason, err := o.authorizer.Authorize(ctx, a)
	if decision == authorizer.DecisionAllow {
		return "", nil
	}
	if err == nil {
		err = errDenied
	}
	return reason, err
}

// emptyIfDenied returns the error as upstream prints it: there is none if the request was only not allowed.
func emptyIfDenied(err error) any {
	if errors.Is(err, errDenied) {
		return nil
	}
	return err
}

func ownersOf(obj runtime.Object) []metav1.OwnerReference {
	if owned, ok := obj.(metav1.Object); ok {
		return owned.GetOwnerReferences()
	}
	return nil
}

// newlyBlocking returns the references that block the deletion of their owner, and did not before.
func newlyBlocking(now, then []metav1.OwnerReference) (out []metav1.OwnerReference) {
	blocks := func(ref *metav1.OwnerReference) bool {
		return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
	}
	before := map[string]bool{}
	for i := range then {
		before[string(then[i].UID)] = blocks(&then[i])
	}
	for i := range now {
		if blocks(&now[i]) && !before[string(now[i].UID)] {
			out = append(out, now[i])
		}
	}
	return out
}

// finalizersOf returns the request to set finalizers of an owner.
func finalizersOf(a *objects.Attributes, ref metav1.OwnerReference) (*authorizer.AttributesRecord, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	kind, ok := a.Kinds().ByGVK(gv.WithKind(ref.Kind))
	if !ok {
		return nil, fmt.Errorf("no matches for kind %q in version %q", ref.Kind, ref.APIVersion)
	}
	out := &authorizer.AttributesRecord{User: a.User, Verb: "update", APIGroup: kind.Group, APIVersion: kind.Version, Resource: kind.Resource,
		Subresource: "finalizers", Name: ref.Name, ResourceRequest: true}
	if kind.Namespaced {
		out.Namespace = a.Namespace
	}
	return out, nil
}
