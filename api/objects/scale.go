package objects

import (
	"context"
	"encoding/json"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/kontiki/kontiki/api/registry"
)

// ScaleKind is the kind of the scale subresource.
var ScaleKind = schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}

// ScaleOf is the scale subresource of an object.
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

// UpdateScale sets an object's scale to what change makes of the present one.
func (s *Service) UpdateScale(ctx context.Context, r *Request, change func(*autoscalingv1.Scale) (*autoscalingv1.Scale, error)) (*autoscalingv1.Scale, error) {
	obj, _, err := s.modify(ctx, r, modification{strategy: &r.Kind.Strategy, change: func(old registry.Object) (registry.Object, error) {
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
			return nil, apierrors.NewInvalid(ScaleKind.GroupKind(), r.Name, field.ErrorList{field.Invalid(
				field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0")})
		}
		r.Kind.Scale.Set(old, scale.Spec.Replicas)
		return old, nil
	}})
	if err != nil {
		return nil, err
	}
	return ScaleOf(r.Kind, obj), nil
}

// PatchScale applies a patch to an object's scale. An apply patch is merged like a merge patch, and owned by its
// manager as an update of the scale.
func (s *Service) PatchScale(ctx context.Context, r *Request, p Patch) (*autoscalingv1.Scale, error) {
	return s.UpdateScale(ctx, r, func(scale *autoscalingv1.Scale) (*autoscalingv1.Scale, error) {
		before, err := json.Marshal(scale)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		var after []byte
		switch p.Type {
		case types.JSONPatchType:
			var patch jsonpatch.Patch
			if patch, err = jsonpatch.DecodePatch(p.Data); err == nil {
				after, err = patch.Apply(before)
			}
		case types.StrategicMergePatchType:
			after, err = strategicpatch.StrategicMergePatch(before, p.Data, autoscalingv1.Scale{})
		case types.ApplyYAMLPatchType:
			var data []byte
			if data, err = yaml.YAMLToJSON(p.Data); err == nil {
				after, err = jsonpatch.MergePatch(before, data)
			}
		default:
			after, err = jsonpatch.MergePatch(before, p.Data)
		}
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		return decodeInto(r, after, JSON, p.Validation, &autoscalingv1.Scale{}, ScaleKind)
	})
}
