package objects

import (
	"context"
	"encoding/json"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/kontiki/kontiki/api/registry"
)

// maxPatchOperations bounds a JSON patch, as upstream does.
const maxPatchOperations = 10000

// Patch is a patch as a client sent it.
type Patch struct {
	Type types.PatchType
	Data []byte
	// Force takes fields over from other managers (apply only).
	Force bool
	// Validation is strict, warn or ignore ("" is ignore here; fronts choose the default): what to do with unknown and
	// duplicate fields.
	Validation string
}

// Patch changes an object as the patch says. created says that an apply made it.
func (s *Service) Patch(ctx context.Context, r *Request, p Patch) (obj registry.Object, created bool, err error) {
	if p.Type == types.ApplyYAMLPatchType {
		return s.apply(ctx, r, p)
	}
	if p.Force {
		return nil, false, apierrors.NewInvalid(patchOptionsKind, "", field.ErrorList{
			field.Forbidden(field.NewPath("force"), "may not be specified for non-apply patch")})
	}
	return s.modify(ctx, r, modification{change: func(old registry.Object) (registry.Object, error) {
		return s.patched(r, p, old)
	}})
}

var patchOptionsKind = unstructuredGroupKind("meta.k8s.io", "PatchOptions")

func (s *Service) patched(r *Request, p Patch, old registry.Object) (registry.Object, error) {
	var doc []byte
	before, err := runtime.Encode(jsonSerializer, old)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	switch p.Type {
	case types.JSONPatchType:
		patch, err := jsonpatch.DecodePatch(p.Data)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if len(patch) > maxPatchOperations {
			return nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(patch)))
		}
		if doc, err = patch.Apply(before); err != nil {
			return nil, apierrors.NewGenericServerResponse(422, "", r.Kind.GroupResource(), r.Name, err.Error(), 0, false)
		}
	case types.MergePatchType:
		var probe map[string]any
		if err := json.Unmarshal(p.Data, &probe); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
		if doc, err = jsonpatch.MergePatch(before, p.Data); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	case types.StrategicMergePatchType:
		if doc, err = strategicpatch.StrategicMergePatch(before, p.Data, r.Kind.New()); err != nil {
			switch err {
			case mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys,
				mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat:
				return nil, apierrors.NewBadRequest(err.Error())
			}
			return nil, apierrors.NewGenericServerResponse(422, "", r.Kind.GroupResource(), r.Name, err.Error(), 0, false)
		}
	default:
		return nil, apierrors.NewGenericServerResponse(415, "patch", r.Kind.GroupResource(), r.Name, fmt.Sprintf("unsupported patch type %q", p.Type), 0, false)
	}
	return s.DecodeJSON(r, doc, p.Validation)
}

// apply is server-side apply (KEP-555).
func (s *Service) apply(ctx context.Context, r *Request, p Patch) (registry.Object, bool, error) {
	if r.FieldManager == "" {
		return nil, false, apierrors.NewInvalid(patchOptionsKind, "", field.ErrorList{
			field.Required(field.NewPath("fieldManager"), "is required for apply patch")})
	}
	asJSON, err := yaml.YAMLToJSON(p.Data)
	if err != nil {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	patch := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(asJSON, &patch.Object); err != nil {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	if patch.GroupVersionKind() != r.Kind.GVK() {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf("apiVersion and kind: the applied object is %s, the URL is of %s", patch.GroupVersionKind(), r.Kind.GVK()))
	}
	if patch.GetName() != "" && patch.GetName() != r.Name {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf("metadata.name: the name of the object (%s) does not match the name on the URL (%s)", patch.GetName(), r.Name))
	}
	if len(patch.GetManagedFields()) > 0 {
		return nil, false, apierrors.NewBadRequest("metadata.managedFields must be nil")
	}
	if err := s.checkFields(r, p.Data, p.Validation); err != nil {
		return nil, false, err
	}
	return s.modify(ctx, r, modification{
		create: r.Subresource == "", applied: true,
		change: func(old registry.Object) (registry.Object, error) {
			if old == nil {
				old = s.empty(r.Kind)
				if uid := patch.GetUID(); uid != "" {
					return nil, apierrors.NewConflict(r.Kind.GroupResource(), r.Name, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
				}
			}
			obj, err := s.merge(r, old, patch.DeepCopy(), p.Force)
			if err != nil {
				return nil, err
			}
			if obj.GetName() == "" {
				obj.SetName(r.Name)
			}
			return obj, nil
		},
	})
}
