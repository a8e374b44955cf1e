package registry

import (
	"context"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

func deployments() *Kind {
	return &Kind{
		Group: "apps", Version: "v1", Kind: "Deployment", Resource: "deployments", Singular: "deployment",
		ShortNames: []string{"deploy"}, Categories: []string{"all"}, Namespaced: true,
		New:         func() Object { return &appsv1.Deployment{} },
		NewList:     func() runtime.Object { return &appsv1.DeploymentList{} },
		NewInternal: func() runtime.Object { return &apps.Deployment{} },
		PrepareCreate: preparer(func(d *apps.Deployment) {
			d.Status = apps.DeploymentStatus{}
			d.Generation = 1
			podutil.DropDisabledTemplateFields(&d.Spec.Template, nil)
		}),
		WarnCreate: warner(func(ctx context.Context, d *apps.Deployment) []string {
			return append(podNameWarning(d.Name, inHostnames), templateWarnings(ctx, field.NewPath("spec", "template"), &d.Spec.Template, nil)...)
		}),
		Validate: checker(func(d *apps.Deployment) field.ErrorList {
			return appsvalidation.ValidateDeployment(d, podutil.GetValidationOptionsFromPodTemplate(&d.Spec.Template, nil))
		}),
		Strategy: Strategy{
			PrepareUpdate: updater(func(d, old *apps.Deployment) {
				d.Status = old.Status
				podutil.DropDisabledTemplateFields(&d.Spec.Template, &old.Spec.Template)
				// Annotations matter too: they are copied to replica sets.
				if !apiequality.Semantic.DeepEqual(d.Spec, old.Spec) || !apiequality.Semantic.DeepEqual(d.Annotations, old.Annotations) {
					d.Generation = old.Generation + 1
				}
			}),
			WarnUpdate: changeWarner(func(ctx context.Context, d, old *apps.Deployment) []string {
				if d.Generation == old.Generation {
					return nil
				}
				return templateWarnings(ctx, field.NewPath("spec", "template"), &d.Spec.Template, &old.Spec.Template)
			}),
			ValidateUpdate: changer(func(d, old *apps.Deployment) field.ErrorList {
				return appsvalidation.ValidateDeploymentUpdate(d, old, podutil.GetValidationOptionsFromPodTemplate(&d.Spec.Template, &old.Spec.Template))
			}),
			ResetFields: []string{"status"},
		},
		Status: &Strategy{
			PrepareUpdate: updater(func(d, old *apps.Deployment) {
				d.Spec = old.Spec
				d.Labels = old.Labels
			}),
			ValidateUpdate: changer(appsvalidation.ValidateDeploymentStatusUpdate),
			ResetFields:    []string{"spec", "metadata.labels"},
		},
		Scale: &Scale{
			Get: func(obj Object) (int32, int32, string) {
				d := obj.(*appsv1.Deployment)
				return value(d.Spec.Replicas), d.Status.Replicas, selectorString(d.Spec.Selector)
			},
			Set: func(obj Object, n int32) { obj.(*appsv1.Deployment).Spec.Replicas = &n },
		},
		AllowUnconditionalUpdate: true,
	}
}

func replicaSets() *Kind {
	return &Kind{
		Group: "apps", Version: "v1", Kind: "ReplicaSet", Resource: "replicasets", Singular: "replicaset",
		ShortNames: []string{"rs"}, Categories: []string{"all"}, Namespaced: true,
		New:         func() Object { return &appsv1.ReplicaSet{} },
		NewList:     func() runtime.Object { return &appsv1.ReplicaSetList{} },
		NewInternal: func() runtime.Object { return &apps.ReplicaSet{} },
		PrepareCreate: preparer(func(rs *apps.ReplicaSet) {
			rs.Status = apps.ReplicaSetStatus{}
			rs.Generation = 1
			podutil.DropDisabledTemplateFields(&rs.Spec.Template, nil)
		}),
		WarnCreate: warner(func(ctx context.Context, rs *apps.ReplicaSet) []string {
			return append(podNameWarning(rs.Name, inHostnames), templateWarnings(ctx, field.NewPath("spec", "template"), &rs.Spec.Template, nil)...)
		}),
		Validate: checker(func(rs *apps.ReplicaSet) field.ErrorList {
			return appsvalidation.ValidateReplicaSet(rs, podutil.GetValidationOptionsFromPodTemplate(&rs.Spec.Template, nil))
		}),
		Strategy: Strategy{
			PrepareUpdate: updater(func(rs, old *apps.ReplicaSet) {
				rs.Status = old.Status
				podutil.DropDisabledTemplateFields(&rs.Spec.Template, &old.Spec.Template)
				if !apiequality.Semantic.DeepEqual(rs.Spec, old.Spec) {
					rs.Generation = old.Generation + 1
				}
			}),
			WarnUpdate: changeWarner(func(ctx context.Context, rs, old *apps.ReplicaSet) []string {
				if rs.Generation == old.Generation {
					return nil
				}
				return templateWarnings(ctx, field.NewPath("spec", "template"), &rs.Spec.Template, &old.Spec.Template)
			}),
			ValidateUpdate: changer(func(rs, old *apps.ReplicaSet) field.ErrorList {
				return appsvalidation.ValidateReplicaSetUpdate(rs, old, podutil.GetValidationOptionsFromPodTemplate(&rs.Spec.Template, &old.Spec.Template))
			}),
			ResetFields: []string{"status"},
		},
		Status: &Strategy{
			PrepareUpdate:  updater(func(rs, old *apps.ReplicaSet) { rs.Spec = old.Spec }),
			ValidateUpdate: changer(appsvalidation.ValidateReplicaSetStatusUpdate),
			ResetFields:    []string{"spec"},
		},
		Scale: &Scale{
			Get: func(obj Object) (int32, int32, string) {
				rs := obj.(*appsv1.ReplicaSet)
				return value(rs.Spec.Replicas), rs.Status.Replicas, selectorString(rs.Spec.Selector)
			},
			Set: func(obj Object, n int32) { obj.(*appsv1.ReplicaSet).Spec.Replicas = &n },
		},
		AllowUnconditionalUpdate: true,
		Fields: func(obj Object) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(obj.(*appsv1.ReplicaSet).Status.Replicas))}
		},
		FieldNames: []string{"status.replicas"},
	}
}

func replicationControllers() *Kind {
	options := func(rc, old *core.ReplicationController) validation.PodValidationOptions {
		if old == nil {
			return podutil.GetValidationOptionsFromPodTemplate(rc.Spec.Template, nil)
		}
		return podutil.GetValidationOptionsFromPodTemplate(rc.Spec.Template, old.Spec.Template)
	}
	return &Kind{
		Version: "v1", Kind: "ReplicationController", Resource: "replicationcontrollers", Singular: "replicationcontroller",
		ShortNames: []string{"rc"}, Categories: []string{"all"}, Namespaced: true,
		New:         func() Object { return &corev1.ReplicationController{} },
		NewList:     func() runtime.Object { return &corev1.ReplicationControllerList{} },
		NewInternal: func() runtime.Object { return &core.ReplicationController{} },
		PrepareCreate: preparer(func(rc *core.ReplicationController) {
			rc.Status = core.ReplicationControllerStatus{}
			rc.Generation = 1
			podutil.DropDisabledTemplateFields(rc.Spec.Template, nil)
		}),
		WarnCreate: warner(func(ctx context.Context, rc *core.ReplicationController) []string {
			return append(podNameWarning(rc.Name, inHostnames), templateWarnings(ctx, field.NewPath("spec", "template"), rc.Spec.Template, nil)...)
		}),
		Validate: checker(func(rc *core.ReplicationController) field.ErrorList {
			return validation.ValidateReplicationController(rc, options(rc, nil))
		}),
		Strategy: Strategy{
			PrepareUpdate: updater(func(rc, old *core.ReplicationController) {
				rc.Status = old.Status
				podutil.DropDisabledTemplateFields(rc.Spec.Template, old.Spec.Template)
				if !apiequality.Semantic.DeepEqual(rc.Spec, old.Spec) {
					rc.Generation = old.Generation + 1
				}
			}),
			WarnUpdate: changeWarner(func(ctx context.Context, rc, old *core.ReplicationController) []string {
				if rc.Generation == old.Generation {
					return nil
				}
				return templateWarnings(ctx, field.NewPath("spec", "template"), rc.Spec.Template, old.Spec.Template)
			}),
			ValidateUpdate: changer(func(rc, old *core.ReplicationController) field.ErrorList {
				errs := validation.ValidateReplicationController(rc, options(rc, old))
				return append(errs, validation.ValidateReplicationControllerUpdate(rc, old, options(rc, old))...)
			}),
			ResetFields: []string{"status"},
		},
		Status: &Strategy{
			PrepareUpdate:  updater(func(rc, old *core.ReplicationController) { rc.Spec = old.Spec }),
			ValidateUpdate: changer(validation.ValidateReplicationControllerStatusUpdate),
			ResetFields:    []string{"spec"},
		},
		Scale: &Scale{
			Get: func(obj Object) (int32, int32, string) {
				rc := obj.(*corev1.ReplicationController)
				return value(rc.Spec.Replicas), rc.Status.Replicas, labels.SelectorFromSet(rc.Spec.Selector).String()
			},
			Set: func(obj Object, n int32) { obj.(*corev1.ReplicationController).Spec.Replicas = &n },
		},
		AllowUnconditionalUpdate: true,
		OrphanByDefault:          true,
		Fields: func(obj Object) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(obj.(*corev1.ReplicationController).Status.Replicas))}
		},
		FieldNames: []string{"status.replicas"},
	}
}

func podTemplates() *Kind {
	path := field.NewPath("template")
	return &Kind{
		Version: "v1", Kind: "PodTemplate", Resource: "podtemplates", Singular: "podtemplate", Namespaced: true,
		ReturnDeleted: true,
		New:           func() Object { return &corev1.PodTemplate{} },
		NewList:       func() runtime.Object { return &corev1.PodTemplateList{} },
		NewInternal:   func() runtime.Object { return &core.PodTemplate{} },
		PrepareCreate: preparer(func(t *core.PodTemplate) {
			t.Generation = 1
			podutil.DropDisabledTemplateFields(&t.Template, nil)
		}),
		Validate: checker(func(t *core.PodTemplate) field.ErrorList {
			return validation.ValidatePodTemplate(t, podutil.GetValidationOptionsFromPodTemplate(&t.Template, nil))
		}),
		WarnCreate: warner(func(ctx context.Context, t *core.PodTemplate) []string {
			return templateWarnings(ctx, path, &t.Template, nil)
		}),
		Strategy: Strategy{
			PrepareUpdate: updater(func(t, old *core.PodTemplate) {
				podutil.DropDisabledTemplateFields(&t.Template, &old.Template)
				if !apiequality.Semantic.DeepEqual(t.Template, old.Template) {
					t.Generation = old.Generation + 1
				}
			}),
			ValidateUpdate: changer(func(t, old *core.PodTemplate) field.ErrorList {
				return validation.ValidatePodTemplateUpdate(t, old, podutil.GetValidationOptionsFromPodTemplate(&t.Template, &old.Template))
			}),
			WarnUpdate: changeWarner(func(ctx context.Context, t, old *core.PodTemplate) []string {
				if t.Generation == old.Generation {
					return nil
				}
				return templateWarnings(ctx, path, &t.Template, &old.Template)
			}),
		},
		AllowUnconditionalUpdate: true,
	}
}

func value(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}

func selectorString(s *metav1.LabelSelector) string {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return ""
	}
	return selector.String()
}
