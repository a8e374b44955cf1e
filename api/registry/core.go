package registry

//lint:file-ignore SA1019 the API serves deprecated fields as upstream does

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

func namespaces() *Kind {
	return &Kind{
		Version: "v1", Kind: "Namespace", Resource: "namespaces", Singular: "namespace", ShortNames: []string{"ns"},
		ReturnDeleted: true, NoDeleteCollection: true,
		New:         func() Object { return &corev1.Namespace{} },
		NewList:     func() runtime.Object { return &corev1.NamespaceList{} },
		NewInternal: func() runtime.Object { return &core.Namespace{} },
		PrepareCreate: preparer(func(ns *core.Namespace) {
			ns.Status = core.NamespaceStatus{Phase: core.NamespaceActive}
			if !slices.Contains(ns.Spec.Finalizers, core.FinalizerKubernetes) {
				ns.Spec.Finalizers = append(ns.Spec.Finalizers, core.FinalizerKubernetes)
			}
			labelNamespace(ns)
		}),
		Validate: checker(validation.ValidateNamespace),
		Strategy: Strategy{
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
		Status: &Strategy{
			PrepareUpdate:  updater(func(ns, old *core.Namespace) { ns.Spec = old.Spec }),
			ValidateUpdate: changer(validation.ValidateNamespaceStatusUpdate),
			ResetFields:    []string{"spec"},
		},
		Subresources: map[string]*Strategy{"finalize": {
			PrepareUpdate:  updater(func(ns, old *core.Namespace) { ns.Status = old.Status }),
			ValidateUpdate: changer(validation.ValidateNamespaceFinalizeUpdate),
			ResetFields:    []string{"status"},
		}},
		AllowUnconditionalUpdate: true,
		Fields: func(obj Object) fields.Set {
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

func nodes() *Kind {
	return &Kind{
		Version: "v1", Kind: "Node", Resource: "nodes", Singular: "node", ShortNames: []string{"no"},
		New:         func() Object { return &corev1.Node{} },
		NewList:     func() runtime.Object { return &corev1.NodeList{} },
		NewInternal: func() runtime.Object { return &core.Node{} },
		PrepareCreate: preparer(func(n *core.Node) {
			n.Spec.ConfigSource = nil
			n.Status.Config = nil
		}),
		Validate:   checker(validation.ValidateNode),
		WarnCreate: warner(func(_ context.Context, n *core.Node) []string { return nodeWarnings(n) }),
		Strategy: Strategy{
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
		Status: &Strategy{
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
		Fields: func(obj Object) fields.Set {
			return fields.Set{"spec.unschedulable": fmt.Sprint(obj.(*corev1.Node).Spec.Unschedulable)}
		},
		FieldNames: []string{"spec.unschedulable"},
	}
}

func configMaps() *Kind {
	return &Kind{
		Version: "v1", Kind: "ConfigMap", Resource: "configmaps", Singular: "configmap", ShortNames: []string{"cm"}, Namespaced: true,
		New:                      func() Object { return &corev1.ConfigMap{} },
		NewList:                  func() runtime.Object { return &corev1.ConfigMapList{} },
		NewInternal:              func() runtime.Object { return &core.ConfigMap{} },
		Validate:                 checker(validation.ValidateConfigMap),
		Strategy:                 Strategy{ValidateUpdate: changer(validation.ValidateConfigMapUpdate)},
		AllowUnconditionalUpdate: true,
	}
}

func secrets() *Kind {
	return &Kind{
		Version: "v1", Kind: "Secret", Resource: "secrets", Singular: "secret", Namespaced: true,
		New:         func() Object { return &corev1.Secret{} },
		NewList:     func() runtime.Object { return &corev1.SecretList{} },
		NewInternal: func() runtime.Object { return &core.Secret{} },
		Validate:    checker(validation.ValidateSecret),
		WarnCreate:  warner(func(_ context.Context, s *core.Secret) []string { return secretWarnings(s) }),
		Strategy: Strategy{
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
		Fields: func(obj Object) fields.Set {
			return fields.Set{"type": string(obj.(*corev1.Secret).Type)}
		},
		FieldNames: []string{"type"},
	}
}

func serviceAccounts() *Kind {
	clean := func(sa *core.ServiceAccount) {
		for i, secret := range sa.Secrets {
			sa.Secrets[i] = core.ObjectReference{Name: secret.Name}
		}
	}
	return &Kind{
		Version: "v1", Kind: "ServiceAccount", Resource: "serviceaccounts", Singular: "serviceaccount", ShortNames: []string{"sa"}, Namespaced: true,
		ReturnDeleted: true,
		New:           func() Object { return &corev1.ServiceAccount{} },
		NewList:       func() runtime.Object { return &corev1.ServiceAccountList{} },
		NewInternal:   func() runtime.Object { return &core.ServiceAccount{} },
		PrepareCreate: preparer(clean),
		Validate:      checker(validation.ValidateServiceAccount),
		Strategy: Strategy{
			PrepareUpdate:  updater(func(sa, _ *core.ServiceAccount) { clean(sa) }),
			ValidateUpdate: changer(validation.ValidateServiceAccountUpdate),
		},
		AllowUnconditionalUpdate: true,
	}
}
