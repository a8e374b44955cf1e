package builtin

import (
	"context"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	appsvalidation "k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"

	"github.com/kontiki/kontiki/api/registry"
)

func deployments() *registry.Resource {
	return follow(&registry.Resource{
		Group: "apps", Kind: "Deployment", Resource: "deployments", ShortNames: []string{"deploy"}, Categories: []string{"all"},
		Scale: &registry.Scale{
			Get: func(obj registry.Object) (int32, int32, string) {
				d := obj.(*appsv1.Deployment)
				return value(d.Spec.Replicas), d.Status.Replicas, selectorString(d.Spec.Selector)
			},
			Set: func(obj registry.Object, n int32) { obj.(*appsv1.Deployment).Spec.Replicas = &n },
		},
	}, deployment.Strategy, deployment.StatusStrategy)
}

func statefulSets() *registry.Resource {
	return follow(&registry.Resource{
		Codec: registry.SchemeCodec("apps", claimTemplateTypes),
		Group: "apps", Kind: "StatefulSet", Resource: "statefulsets", ShortNames: []string{"sts"}, Categories: []string{"all"},
		Scale: &registry.Scale{
			Get: func(obj registry.Object) (int32, int32, string) {
				s := obj.(*appsv1.StatefulSet)
				return value(s.Spec.Replicas), s.Status.Replicas, selectorString(s.Spec.Selector)
			},
			Set: func(obj registry.Object, n int32) { obj.(*appsv1.StatefulSet).Spec.Replicas = &n },
		},
	}, statefulset.Strategy, statefulset.StatusStrategy)
}

// claimTemplateTypes sets the types of claim templates, which protobuf does not contain and upstream's conversion sets.
func claimTemplateTypes(obj registry.Object) {
	templates := obj.(*appsv1.StatefulSet).Spec.VolumeClaimTemplates
	for i := range templates {
		templates[i].APIVersion, templates[i].Kind = "v1", "PersistentVolumeClaim"
	}
}

func daemonSets() *registry.Resource {
	return follow(&registry.Resource{
		Group: "apps", Kind: "DaemonSet", Resource: "daemonsets", ShortNames: []string{"ds"}, Categories: []string{"all"},
	}, daemonset.Strategy, daemonset.StatusStrategy)
}

func controllerRevisions() *registry.Resource {
	return follow(&registry.Resource{Group: "apps", Kind: "ControllerRevision", Resource: "controllerrevisions"}, controllerrevision.Strategy, nil)
}

func replicaSets() *registry.Resource {
	return &registry.Resource{
		Group: "apps", Kind: "ReplicaSet", Resource: "replicasets",
		ShortNames: []string{"rs"}, Categories: []string{"all"}, Namespaced: true,
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
		Strategy: registry.Strategy{
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
		Status: &registry.Strategy{
			PrepareUpdate:  updater(func(rs, old *apps.ReplicaSet) { rs.Spec = old.Spec }),
			ValidateUpdate: changer(appsvalidation.ValidateReplicaSetStatusUpdate),
			ResetFields:    []string{"spec"},
		},
		Scale: &registry.Scale{
			Get: func(obj registry.Object) (int32, int32, string) {
				rs := obj.(*appsv1.ReplicaSet)
				return value(rs.Spec.Replicas), rs.Status.Replicas, selectorString(rs.Spec.Selector)
			},
			Set: func(obj registry.Object, n int32) { obj.(*appsv1.ReplicaSet).Spec.Replicas = &n },
		},
		AllowUnconditionalUpdate: true,
		Fields: func(obj registry.Object) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(obj.(*appsv1.ReplicaSet).Status.Replicas))}
		},
		FieldNames: []string{"status.replicas"},
	}
}

func replicationControllers() *registry.Resource {
	options := func(rc, old *core.ReplicationController) validation.PodValidationOptions {
		if old == nil {
			return podutil.GetValidationOptionsFromPodTemplate(rc.Spec.Template, nil)
		}
		return podutil.GetValidationOptionsFromPodTemplate(rc.Spec.Template, old.Spec.Template)
	}
	return &registry.Resource{
		Kind: "ReplicationController", Resource: "replicationcontrollers",
		ShortNames: []string{"rc"}, Categories: []string{"all"}, Namespaced: true,
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
		Strategy: registry.Strategy{
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
		Status: &registry.Strategy{
			PrepareUpdate:  updater(func(rc, old *core.ReplicationController) { rc.Spec = old.Spec }),
			ValidateUpdate: changer(validation.ValidateReplicationControllerStatusUpdate),
			ResetFields:    []string{"spec"},
		},
		Scale: &registry.Scale{
			Get: func(obj registry.Object) (int32, int32, string) {
				rc := obj.(*corev1.ReplicationController)
				return value(rc.Spec.Replicas), rc.Status.Replicas, labels.SelectorFromSet(rc.Spec.Selector).String()
			},
			Set: func(obj registry.Object, n int32) { obj.(*corev1.ReplicationController).Spec.Replicas = &n },
		},
		AllowUnconditionalUpdate: true,
		OrphanByDefault:          true,
		Fields: func(obj registry.Object) fields.Set {
			return fields.Set{"status.replicas": strconv.Itoa(int(obj.(*corev1.ReplicationController).Status.Replicas))}
		},
		FieldNames: []string{"status.replicas"},
	}
}

func podTemplates() *registry.Resource {
	return follow(&registry.Resource{Kind: "PodTemplate", Resource: "podtemplates", ReturnDeleted: true}, podtemplate.Strategy, nil)
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
