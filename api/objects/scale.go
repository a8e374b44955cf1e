package objects

import (
	"context"
	"encoding/json"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kontiki/kontiki/api/registry"
)

// ScaleKind is the kind of the scale subresource.
var ScaleKind = schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}

// ScaleOf returns the scale subresource of an object.
func ScaleOf(kind *registry.Kind, obj registry.Object) *autoscalingv1.Scale {
	replicas, current, selector := kind.Scale.Get(obj)
	return &autoscalingv1.Scale{
		TypeMeta: metav1.TypeMeta{Kind: ScaleKind.Kind, APIVersion: ScaleKind.GroupVersion().String()},
		ObjectMeta: metav1.ObjectMeta{Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp()},
		Spec:   autoscalingv1.ScaleSpec{Replicas: replicas},
		Status: autoscalingv1.ScaleStatus{Replicas: current, Selector: selector},
	}
}

// scaleOf is how admission sees a change of an object's scale.
func scaleOf(r *Request) *seen {
	return &seen{
		kind: ScaleKind,
		of:   func(obj registry.Object) runtime.Object { return ScaleOf(r.Kind, obj) },
		set: func(obj registry.Object, scale runtime.Object) error {
			replicas := scale.(*autoscalingv1.Scale).Spec.Replicas
			if replicas < 0 {
				return negativeReplicas(r, scale.(*autoscalingv1.Scale))
			}
			r.Kind.Scale.Set(obj, replicas)
			return nil
		},
	}
}

// UpdateScale replaces an object's scale by what change returns for the present one.
func (s *Service) UpdateScale(ctx context.Context, r *Request, change func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error)) (*autoscalingv1.Scale, error) {
	obj, _, err := s.modify(ctx, r, modification{strategy: &r.Kind.Strategy, seen: scaleOf(r), change: func(old registry.Object) (registry.Object, error) {
		scale, err := change(ScaleOf(r.Kind, old))
		if err != nil {
			return nil, err
		}
		if scale.ResourceVersion != "" && scale.ResourceVersion != old.GetResourceVersion() {
			return nil, conflict(r)
		}
		if scale.UID != "" && scale.UID != old.GetUID() {
			return nil, conflict(r)
		}
		if scale.Spec.Replicas < 0 {
			return nil, negativeReplicas(r, scale)
		}
		obj := old.DeepCopyObject().(registry.Object)
		r.Kind.Scale.Set(obj, scale.Spec.Replicas)
		return obj, nil
	}})
	if err != nil {
		return nil, err
	}
	return ScaleOf(r.Kind, obj), nil
}

// PatchScale applies a patch to an object's scale.
func (s *Service) PatchScale(ctx context.Context, r *Request, p Patch) (*autoscalingv1.Scale, error) {
	if p.Type == types.ApplyYAMLPatchType {
		return s.applyScale(ctx, r, p)
	}
	if p.Force {
		return nil, forceForbidden()
	}
	if err := p.check(r.Kind); err != nil {
		return nil, err
	}
	return s.UpdateScale(ctx, r, func(scale *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		before, err := json.Marshal(scale)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		after, strict, err := p.patch(before, autoscalingv1.Scale{})
		if err != nil {
			return nil, err
		}
		return decodePatched(r, p, after, strict, &autoscalingv1.Scale{}, bareKind(ScaleKind))
	})
}

// applyScale applies a scale as an apply of the object's replicas by the same manager, who becomes the field's owner.
func (s *Service) applyScale(ctx context.Context, r *Request, p Patch) (*autoscalingv1.Scale, error) {
	if r.FieldManager == "" {
		return nil, managerRequired()
	}
	patch, err := decodeApplied(r, p)
	if err != nil {
		return nil, err
	}
	if patch.GroupVersionKind() != ScaleKind {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("apiVersion and kind: the applied object is %s, the URL is of %s", patch.GroupVersionKind(), ScaleKind))
	}
	scale := &autoscalingv1.Scale{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(patch.Object, scale, true); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("failed to create typed patch object (%s/%s; %s): %v", r.Namespace, r.Name, ScaleKind, err))
	}
	_, given, err := unstructured.NestedFieldNoCopy(patch.Object, "spec", "replicas")
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	wish := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": r.Name, "namespace": r.Namespace}}}
	wish.SetGroupVersionKind(r.Kind.GVK())
	if given {
		if scale.Spec.Replicas < 0 {
			return nil, negativeReplicas(r, scale)
		}
		path := r.Kind.Scale.Path
		if path == nil {
			path = []string{"spec", "replicas"}
		}
		if err := unstructured.SetNestedField(wish.Object, int64(scale.Spec.Replicas), path...); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	obj, _, err := s.modify(ctx, r, modification{strategy: &r.Kind.Strategy, seen: scaleOf(r), applied: true, uid: scale.UID, change: func(old registry.Object) (registry.Object, error) {
		if scale.ResourceVersion != "" && scale.ResourceVersion != old.GetResourceVersion() {
			return nil, conflict(r)
		}
		return s.managed.Apply(r.managed(), old, wish.DeepCopy(), p.Force)
	}})
	if err != nil {
		return nil, err
	}
	return ScaleOf(r.Kind, obj), nil
}

func negativeReplicas(r *Request, scale *autoscalingv1.Scale) error {
	return Invalid(ScaleKind.GroupKind(), r.Name, field.ErrorList{field.Invalid(
		field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0")})
}
