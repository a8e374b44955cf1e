package admission

import (
	"context"
	"errors"
	"maps"
	"slices"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	podsecurity "k8s.io/pod-security-admission/admission"
	podsecurityconfig "k8s.io/pod-security-admission/admission/api"
	podsecurityapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/metrics"
	"k8s.io/pod-security-admission/policy"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/objects"
)

// newPodSecurity returns upstream's implementation of the pod security standards, with a configuration of defaults and exemptions. It
// reads namespaces and pods through the request that it checks (podSecurity).
func newPodSecurity(config *podsecurityconfig.PodSecurityConfiguration) (*podsecurity.Admission, error) {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return nil, err
	}
	checks := &podsecurity.Admission{
		Configuration: config, Evaluator: evaluator, Metrics: unmeasured{}, PodSpecExtractor: podsecurity.DefaultPodSpecExtractor{},
		NamespaceGetter: storedState{}, PodLister: storedState{},
	}
	if err := checks.CompleteConfiguration(); err != nil {
		return nil, err
	}
	return checks, checks.ValidateConfiguration()
}

// podSecurity refuses pods that the level of their namespace forbids, and warns of what controllers would fail to create.
func podSecurity(checks *podsecurity.Admission) objects.Step {
	namespaces := corev1.Resource("namespaces")
	return objects.Step{
		Name: "PodSecurity",
		Handles: func(a *objects.Attributes) bool {
			resource := a.Kind.GroupResource()
			return (a.Operation == objects.OpCreate || a.Operation == objects.OpUpdate) &&
				(resource == namespaces || checks.PodSpecExtractor.HasPodSpec(resource)) && a.ObjectKind == a.Kind.GVK()
		},
		Validate: func(ctx context.Context, a *objects.Attributes) error {
			request := *checks
			request.NamespaceGetter, request.PodLister = storedState{a}, storedState{a}
			response := request.Validate(ctx, &podsecurityapi.AttributesRecord{
				Name: a.Name, Namespace: a.Namespace, Kind: a.ObjectKind, Resource: a.Kind.GroupVersion().WithResource(a.Kind.Resource),
				Subresource: a.Subresource, Operation: admissionv1.Operation(a.Operation), Object: a.Object, OldObject: a.Old, Username: a.User.GetName(),
			})
			for _, text := range response.Warnings {
				a.Warn("%s", text)
			}
			record := audit.From(ctx)
			for _, key := range slices.Sorted(maps.Keys(response.AuditAnnotations)) {
				record.Annotate(podsecurityapi.AuditAnnotationPrefix+key, response.AuditAnnotations[key])
			}
			if response.Allowed {
				return nil
			}
			return refusal(a, response)
		},
	}
}

// refusal returns the error for a response that does not allow the request.
func refusal(a *objects.Attributes, response *admissionv1.AdmissionResponse) error {
	err := a.Forbid("Not allowed by PodSecurity")
	var status *apierrors.StatusError
	if said := response.Result; said != nil && errors.As(err, &status) {
		if said.Message != "" {
			status.ErrStatus.Message = said.Message
		}
		if said.Reason != "" {
			status.ErrStatus.Reason = said.Reason
		}
		if said.Details != nil {
			status.ErrStatus.Details = said.Details
		}
		if said.Code != 0 {
			status.ErrStatus.Code = said.Code
		}
	}
	return err
}

// storedState reads what the checks need from the state that a write is prepared against.
type storedState struct{ a *objects.Attributes }

// GetNamespace implements podsecurity.NamespaceGetter.
func (s storedState) GetNamespace(_ context.Context, name string) (*corev1.Namespace, error) {
	namespace, ok, err := objects.Stored[*corev1.Namespace](s.a, "", name)
	if err == nil && !ok {
		err = apierrors.NewNotFound(corev1.Resource("namespaces"), name)
	}
	return namespace, err
}

// ListPods implements podsecurity.PodLister.
func (s storedState) ListPods(_ context.Context, namespace string) (pods []*corev1.Pod, err error) {
	err = objects.EachStored(s.a, namespace, func(pod *corev1.Pod) bool {
		pods = append(pods, pod)
		return true
	})
	return pods, err
}

// unmeasured records no metrics.
type unmeasured struct{}

func (unmeasured) RecordEvaluation(metrics.Decision, podsecurityapi.LevelVersion, metrics.Mode, podsecurityapi.Attributes) {
}
func (unmeasured) RecordExemption(podsecurityapi.Attributes)   {}
func (unmeasured) RecordError(bool, podsecurityapi.Attributes) {}
