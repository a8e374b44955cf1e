// Package review answers the reviews of authentication.k8s.io and authorization.k8s.io: who a token or the caller is, and what
// somebody may do. They are created and not stored. Validation and answers are upstream's.
package review

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/kubernetes/pkg/apis/authorization"
	"k8s.io/kubernetes/pkg/apis/authorization/validation"
	"k8s.io/kubernetes/pkg/registry/authorization/util"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
)

// Config has what the answers come from.
type Config struct {
	Authorizer auth.Authorizer
	// Rules lists what a user may do.
	Rules authorizer.RuleResolver
	// Token returns whom a token authenticates for any of the audiences (none means the API server's), and for which of them.
	Token func(ctx context.Context, token string, audiences []string) (user.Info, []string, error)
}

// Creators returns the functions that answer reviews.
func Creators(c Config) map[schema.GroupResource]objects.Creator {
	of := func(group string, creators map[string]objects.Creator, into map[schema.GroupResource]objects.Creator) {
		for resource, creator := range creators {
			into[schema.GroupResource{Group: group, Resource: resource}] = creator
		}
	}
	out := map[schema.GroupResource]objects.Creator{}
	of(authenticationv1.GroupName, map[string]objects.Creator{"tokenreviews": c.token, "selfsubjectreviews": c.self}, out)
	of(authorizationv1.GroupName, map[string]objects.Creator{
		"subjectaccessreviews": c.access, "localsubjectaccessreviews": c.localAccess, "selfsubjectaccessreviews": c.selfAccess, "selfsubjectrulesreviews": c.selfRules,
	}, out)
	return out
}

// token answers a TokenReview.
func (c Config) token(ctx context.Context, _ *objects.Request, obj registry.Object) (registry.Object, error) {
	review := obj.(*authenticationv1.TokenReview)
	if review.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	review.Status = authenticationv1.TokenReviewStatus{}
	who, audiences, err := c.Token(ctx, review.Spec.Token, review.Spec.Audiences)
	if err != nil {
		review.Status.Error = err.Error()
		return review, nil
	}
	review.Status.Authenticated, review.Status.User, review.Status.Audiences = true, userInfo(who), audiences
	return review, nil
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	out := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for key, values := range u.GetExtra() {
		if out.Extra == nil {
			out.Extra = map[string]authenticationv1.ExtraValue{}
		}
		out.Extra[key] = values
	}
	return out
}

// self answers a SelfSubjectReview.
func (c Config) self(_ context.Context, r *objects.Request, obj registry.Object) (registry.Object, error) {
	return &authenticationv1.SelfSubjectReview{
		TypeMeta:   metav1.TypeMeta{Kind: r.Kind.Kind, APIVersion: r.Kind.GroupVersion().String()},
		ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(time.Now())},
		Status:     authenticationv1.SelfSubjectReviewStatus{UserInfo: userInfo(r.User)},
	}, nil
}

// access answers a SubjectAccessReview.
func (c Config) access(ctx context.Context, r *objects.Request, obj registry.Object) (registry.Object, error) {
	return answer(r, obj, func(review *authorization.SubjectAccessReview) error {
		if err := invalid(r, validation.ValidateSubjectAccessReviewCreate(ctx, registry.Scheme, review)); err != nil {
			return err
		}
		review.Status = c.decide(ctx, util.AuthorizationAttributesFrom(review.Spec))
		return nil
	})
}

// localAccess answers a LocalSubjectAccessReview.
func (c Config) localAccess(ctx context.Context, r *objects.Request, obj registry.Object) (registry.Object, error) {
	return answer(r, obj, func(review *authorization.LocalSubjectAccessReview) error {
		if err := invalid(r, validation.ValidateLocalSubjectAccessReviewCreate(ctx, registry.Scheme, review)); err != nil {
			return err
		}
		if r.Namespace != review.Namespace {
			return apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", r.Namespace))
		}
		review.Status = c.decide(ctx, util.AuthorizationAttributesFrom(review.Spec))
		return nil
	})
}

// selfAccess answers a SelfSubjectAccessReview.
func (c Config) selfAccess(ctx context.Context, r *objects.Request, obj registry.Object) (registry.Object, error) {
	return answer(r, obj, func(review *authorization.SelfSubjectAccessReview) error {
		if err := invalid(r, validation.ValidateSelfSubjectAccessReviewCreate(ctx, registry.Scheme, review)); err != nil {
			return err
		}
		if review.Spec.ResourceAttributes != nil {
			review.Status = c.decide(ctx, util.ResourceAttributesFrom(r.User, *review.Spec.ResourceAttributes))
		} else {
			review.Status = c.decide(ctx, util.NonResourceAttributesFrom(r.User, *review.Spec.NonResourceAttributes))
		}
		return nil
	})
}

// decide returns the authorizer's answer.
func (c Config) decide(ctx context.Context, a authorizer.AttributesRecord) authorization.SubjectAccessReviewStatus {
	decision, reason, err := c.Authorizer.Authorize(ctx, &a)
	return authorization.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow, Denied: decision == authorizer.DecisionDeny, Reason: reason,
		EvaluationError: util.BuildEvaluationError(err, a),
	}
}

// answer completes a review in its internal form.
func answer[T runtime.Object](r *objects.Request, obj registry.Object, complete func(T) error) (registry.Object, error) {
	internal, err := r.Kind.ToInternal(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if err := complete(internal.(T)); err != nil {
		return nil, err
	}
	out, err := r.Kind.FromInternal(internal)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return out, nil
}

func invalid(r *objects.Request, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return objects.Invalid(r.Kind.GroupKind(), "", errs)
}

// selfRules answers a SelfSubjectRulesReview.
func (c Config) selfRules(ctx context.Context, r *objects.Request, obj registry.Object) (registry.Object, error) {
	namespace := obj.(*authorizationv1.SelfSubjectRulesReview).Spec.Namespace
	if namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	resources, paths, incomplete, err := c.Rules.RulesFor(ctx, r.User, namespace)
	out := &authorizationv1.SelfSubjectRulesReview{
		TypeMeta: metav1.TypeMeta{Kind: r.Kind.Kind, APIVersion: r.Kind.GroupVersion().String()},
		Status:   authorizationv1.SubjectRulesReviewStatus{ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: incomplete},
	}
	for _, rule := range resources {
		out.Status.ResourceRules = append(out.Status.ResourceRules, authorizationv1.ResourceRule{
			Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames()})
	}
	for _, rule := range paths {
		out.Status.NonResourceRules = append(out.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs()})
	}
	if err != nil {
		out.Status.EvaluationError = err.Error()
	}
	return out, nil
}
