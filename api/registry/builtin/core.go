package builtin

//lint:file-ignore SA1019 the API serves deprecated fields as upstream does

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"

	"github.com/kontiki/kontiki/api/registry"
)

func namespaces() *registry.Resource {
	return &registry.Resource{
		Kind: "Namespace", Resource: "namespaces", ShortNames: []string{"ns"},
		ReturnDeleted: true, Verbs: []string{"create", "delete", "get", "list", "patch", "update", "watch"},
		PrepareCreate: preparer(func(ns *core.Namespace) {
			ns.Status = core.NamespaceStatus{Phase: core.NamespaceActive}
			if !slices.Contains(ns.Spec.Finalizers, core.FinalizerKubernetes) {
				ns.Spec.Finalizers = append(ns.Spec.Finalizers, core.FinalizerKubernetes)
			}
			labelNamespace(ns)
		}),
		Validate: checker(validation.ValidateNamespace),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(ns, old *core.Namespace) {
				ns.Spec.Finalizers = old.Spec.Finalizers
				ns.Status = old.Status
				labelNamespace(ns)
			}),
			ValidateUpdate: changer(func(ns, old *core.Namespace) field.ErrorList {
				return append(validation.ValidateNamespace(ns), validation.ValidateNamespaceUpdate(ns, old)...)
			}),
			ResetFields: []string{"status"},
		},
		Status: &registry.Strategy{
			PrepareUpdate:  updater(func(ns, old *core.Namespace) { ns.Spec = old.Spec }),
			ValidateUpdate: changer(validation.ValidateNamespaceStatusUpdate),
			ResetFields:    []string{"spec"},
		},
		Subresources: map[string]*registry.Strategy{"finalize": {
			PrepareUpdate:  updater(func(ns, old *core.Namespace) { ns.Status = old.Status }),
			ValidateUpdate: changer(validation.ValidateNamespaceFinalizeUpdate),
			ResetFields:    []string{"status"},
		}},
		AllowUnconditionalUpdate: true,
		Fields: func(obj registry.Object) fields.Set {
			ns := obj.(*corev1.Namespace)
			return fields.Set{"status.phase": string(ns.Status.Phase), "name": ns.Name}
		},
		FieldNames: []string{"status.phase", "name"},
	}
}

func labelNamespace(ns *core.Namespace) {
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}

func nodes() *registry.Resource {
	return &registry.Resource{
		Kind: "Node", Resource: "nodes", ShortNames: []string{"no"}, KeepDeleted: never,
		PrepareCreate: preparer(func(n *core.Node) {
			n.Spec.ConfigSource = nil
			n.Status.Config = nil
		}),
		Validate:   checker(validation.ValidateNode),
		WarnCreate: warner(func(_ context.Context, n *core.Node) []string { return nodeWarnings(n) }),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(n, old *core.Node) {
				n.Status = old.Status
				if old.Spec.ConfigSource == nil {
					n.Spec.ConfigSource = nil
				}
			}),
			WarnUpdate: changeWarner(func(_ context.Context, n, _ *core.Node) []string { return nodeWarnings(n) }),
			ValidateUpdate: changer(func(n, old *core.Node) field.ErrorList {
				return append(validation.ValidateNode(n), validation.ValidateNodeUpdate(n, old)...)
			}),
			ResetFields: []string{"status"},
		},
		Status: &registry.Strategy{
			PrepareUpdate: updater(func(n, old *core.Node) {
				n.Spec = old.Spec
				if old.Status.Config == nil {
					n.Status.Config = nil
				}
			}),
			ValidateUpdate: changer(validation.ValidateNodeUpdate),
			ResetFields:    []string{"spec"},
		},
		AllowUnconditionalUpdate: true,
		Fields: func(obj registry.Object) fields.Set {
			return fields.Set{"spec.unschedulable": fmt.Sprint(obj.(*corev1.Node).Spec.Unschedulable)}
		},
		FieldNames: []string{"spec.unschedulable"},
	}
}

// bindings are not stored: creating one changes its pod.
func bindings() *registry.Resource {
	return &registry.Resource{Kind: "Binding", Resource: "bindings", Namespaced: true, Verbs: []string{"create"}}
}

// componentStatuses are computed when they are read.
func componentStatuses() *registry.Resource {
	return &registry.Resource{Kind: "ComponentStatus", Resource: "componentstatuses", ShortNames: []string{"cs"}, Verbs: []string{"get", "list"}}
}

func configMaps() *registry.Resource {
	return &registry.Resource{
		Kind: "ConfigMap", Resource: "configmaps", ShortNames: []string{"cm"}, Namespaced: true,
		Validate:                 checker(validation.ValidateConfigMap),
		Strategy:                 registry.Strategy{ValidateUpdate: changer(validation.ValidateConfigMapUpdate)},
		AllowUnconditionalUpdate: true,
	}
}

func secrets() *registry.Resource {
	return &registry.Resource{
		Kind: "Secret", Resource: "secrets", Namespaced: true,
		Validate:   checker(validation.ValidateSecret),
		WarnCreate: warner(func(_ context.Context, s *core.Secret) []string { return secretWarnings(s) }),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(s, old *core.Secret) {
				if s.Type == "" {
					s.Type = old.Type
				}
			}),
			ValidateUpdate: changer(validation.ValidateSecretUpdate),
			WarnUpdate:     changeWarner(func(_ context.Context, s, _ *core.Secret) []string { return secretWarnings(s) }),
		},
		AllowUnconditionalUpdate: true,
		Sealed:                   true,
		KeepDeleted:              keepSecret,
		Fields: func(obj registry.Object) fields.Set {
			return fields.Set{"type": string(obj.(*corev1.Secret).Type)}
		},
		FieldNames: []string{"type"},
	}
}

func serviceAccounts() *registry.Resource {
	clean := func(sa *core.ServiceAccount) {
		for i, secret := range sa.Secrets {
			sa.Secrets[i] = core.ObjectReference{Name: secret.Name}
		}
	}
	return &registry.Resource{
		Kind: "ServiceAccount", Resource: "serviceaccounts", ShortNames: []string{"sa"}, Namespaced: true,
		ReturnDeleted: true,
		PrepareCreate: preparer(clean),
		Validate:      checker(validation.ValidateServiceAccount),
		Strategy: registry.Strategy{
			PrepareUpdate:  updater(func(sa, _ *core.ServiceAccount) { clean(sa) }),
			ValidateUpdate: changer(validation.ValidateServiceAccountUpdate),
		},
		AllowUnconditionalUpdate: true,
	}
}
