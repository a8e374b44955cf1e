package admission

import (
	"context"
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
)

// policyParameters decides what the strategies of admission policies decide upstream: only those may let a policy read parameters who
// may read these themselves, since what a policy refuses shows what it has read. It cannot be disabled.
func policyParameters(by auth.Authorizer) objects.Step {
	p := parameterRules{by}
	return objects.Step{
		Name: "PolicyParameters",
		Handles: func(a *objects.Attributes) bool {
			return !a.Trusted && a.Subresource == "" && a.Kind.Group == admissionv1.GroupName && (a.Operation == objects.OpCreate || a.Operation == objects.OpUpdate)
		},
		Validate: func(ctx context.Context, a *objects.Attributes) error {
			var refusal error
			path := field.NewPath("spec", "paramKind")
			if kind := parameterKind(a.Object); kind != nil {
				if old := parameterKind(a.Old); old == nil || *old != *kind {
					refusal = p.kind(ctx, a, kind)
				}
			} else if policy, ref := parameterRef(a.Object); ref != nil {
				path = field.NewPath("spec", "paramRef")
				if oldPolicy, old := parameterRef(a.Old); old == nil || oldPolicy != policy || !apiequality.Semantic.DeepEqual(old, ref) {
					refusal = p.ref(ctx, a, policy, ref)
				}
			}
			if refusal == nil {
				return nil
			}
			return objects.Invalid(a.Kind.GroupKind(), a.Object.(metav1.Object).GetName(), field.ErrorList{field.Forbidden(path, refusal.Error())})
		},
	}
}

type parameterRules struct{ authorizer auth.Authorizer }

// parameterKind returns the kind of a policy's parameters, nil if it has none.
func parameterKind(obj runtime.Object) *admissionv1.ParamKind {
	switch policy := obj.(type) {
	case *admissionv1.ValidatingAdmissionPolicy:
		return policy.Spec.ParamKind
	case *admissionv1.MutatingAdmissionPolicy:
		return policy.Spec.ParamKind
	}
	return nil
}

// parameterRef returns the name of a binding's policy, and the parameters that it refers to, nil if there are none.
func parameterRef(obj runtime.Object) (policy string, ref *admissionv1.ParamRef) {
	switch binding := obj.(type) {
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		return binding.Spec.PolicyName, binding.Spec.ParamRef
	case *admissionv1.MutatingAdmissionPolicyBinding:
		return binding.Spec.PolicyName, binding.Spec.ParamRef
	}
	return "", nil
}

// parameterResource returns what a kind of parameters is for the authorizer: as much of it as is known, "*" for the rest. err says what is not known.
func parameterResource(a *objects.Attributes, kind *admissionv1.ParamKind) (r schema.GroupVersionResource, err error) {
	r = schema.GroupVersionResource{Group: "*", Version: "*", Resource: "*"}
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		return r, fmt.Errorf("unable to parse paramKind %v", kind)
	}
	r.Group, r.Version = gv.Group, gv.Version
	known, ok := a.Kinds().ByGVK(gv.WithKind(kind.Kind))
	if !ok {
		return r, fmt.Errorf("unable to resolve paramKind %v", kind)
	}
	r.Resource = known.Resource
	return r, nil
}

// ask says whether the user may read parameters.
func (p parameterRules) ask(ctx context.Context, a *objects.Attributes, verb string, r schema.GroupVersionResource, namespace, name string) (bool, error) {
	decision, _, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.User, Verb: verb, APIGroup: r.Group, APIVersion: r.Version, Resource: r.Resource, Namespace: namespace, Name: name, ResourceRequest: true,
	})
	return decision == authorizer.DecisionAllow, err
}

func (p parameterRules) kind(ctx context.Context, a *objects.Attributes, kind *admissionv1.ParamKind) error {
	r, _ := parameterResource(a, kind) // what is not known is a wildcard
	allowed, err := p.ask(ctx, a, "get", r, "*", "*")
	if allowed || err != nil {
		return err
	}
	return fmt.Errorf(`user %v must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`, a.User, kind.Kind, kind.APIVersion)
}

func (p parameterRules) ref(ctx context.Context, a *objects.Attributes, policy string, ref *admissionv1.ParamRef) error {
	r := schema.GroupVersionResource{Group: "*", Version: "*", Resource: "*"}
	kind, unknown := p.policyKind(a, policy)
	if kind != nil {
		r, unknown = parameterResource(a, kind)
	}
	verb := "get"
	if ref.Name == "" {
		verb = "list"
	}
	allowed, err := p.ask(ctx, a, verb, r, ref.Namespace, ref.Name)
	switch {
	case err != nil:
		return fmt.Errorf("failed to authorize request: %w", err)
	case allowed:
		return nil
	case unknown != nil:
		return fmt.Errorf(`%w to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`, unknown, a.User, verb)
	}
	return fmt.Errorf(`user %v does not have "%v" permission on the object referenced by paramRef`, a.User, verb)
}

// policyKind returns the kind of the parameters of the policy to which a binding refers, nil if it has none. err says that there is no
// such policy.
func (p parameterRules) policyKind(a *objects.Attributes, name string) (kind *admissionv1.ParamKind, err error) {
	var policy runtime.Object
	var found bool
	if _, validating := a.Object.(*admissionv1.ValidatingAdmissionPolicyBinding); validating {
		policy, found, err = objects.Stored[*admissionv1.ValidatingAdmissionPolicy](a, "", name)
	} else {
		policy, found, err = objects.Stored[*admissionv1.MutatingAdmissionPolicy](a, "", name)
	}
	if err != nil || !found {
		return nil, fmt.Errorf("unable to get policy %s", name)
	}
	return parameterKind(policy), nil
}
