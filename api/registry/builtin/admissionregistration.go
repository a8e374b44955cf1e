package builtin

import (
	"errors"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingwebhookconfiguration"

	"github.com/kontiki/kontiki/api/registry"
)

// Who may refer to parameters of policies is decided in admission, so the strategies get no authorizer.

func admissionRow(kind, resource string) *registry.Resource {
	return &registry.Resource{Group: "admissionregistration.k8s.io", Kind: kind, Resource: resource, Categories: []string{"api-extensions"}}
}

func mutatingWebhookConfigurations() *registry.Resource {
	return follow(admissionRow("MutatingWebhookConfiguration", "mutatingwebhookconfigurations"), mutatingwebhookconfiguration.Strategy, nil)
}

func validatingWebhookConfigurations() *registry.Resource {
	return follow(admissionRow("ValidatingWebhookConfiguration", "validatingwebhookconfigurations"), validatingwebhookconfiguration.Strategy, nil)
}

func validatingAdmissionPolicies() *registry.Resource {
	strategy := validatingadmissionpolicy.NewStrategy(nil, unresolved{})
	return follow(admissionRow("ValidatingAdmissionPolicy", "validatingadmissionpolicies"), strategy, validatingadmissionpolicy.NewStatusStrategy(strategy))
}

func validatingAdmissionPolicyBindings() *registry.Resource {
	strategy := validatingadmissionpolicybinding.NewStrategy(nil, nil, unresolved{})
	return follow(admissionRow("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings"), strategy, nil)
}

func mutatingAdmissionPolicies() *registry.Resource {
	strategy := mutatingadmissionpolicy.NewStrategy(nil, unresolved{})
	return follow(admissionRow("MutatingAdmissionPolicy", "mutatingadmissionpolicies"), strategy, nil)
}

func mutatingAdmissionPolicyBindings() *registry.Resource {
	strategy := mutatingadmissionpolicybinding.NewStrategy(nil, nil, unresolved{})
	return follow(admissionRow("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings"), strategy, nil)
}

// unresolved is required by the strategies, and is not asked as they have no authorizer.
type unresolved struct{}

func (unresolved) Resolve(schema.GroupVersionKind) (schema.GroupVersionResource, error) {
	return schema.GroupVersionResource{}, errors.New("resources are resolved in admission")
}
