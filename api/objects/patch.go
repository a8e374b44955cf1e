package objects

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/mergepatch"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	"github.com/kontiki/kontiki/api/objects/managed"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/aliases"
	"github.com/kontiki/kontiki/internal/contain"
)

// maxPatchOperations limits the operations of a JSON patch, as upstream does.
const maxPatchOperations = 10000

// maxPatchCopies limits the bytes that the copy operations of one JSON patch may add: each could double the object.
const maxPatchCopies = 3 << 20

// boundCopies sets jsonpatch's limit, a global that is read without a lock, before the first service is created.
var boundCopies = sync.OnceFunc(func() { jsonpatch.AccumulatedCopySizeLimit = maxPatchCopies })

// Patch is a patch from a client.
type Patch struct {
	Type types.PatchType
	Data []byte
	// Force takes over fields from other managers (apply only).
	Force bool
	// Validation is strict, warn or ignore ("" means ignore here; fronts choose the default): how unknown and duplicate fields are
	// treated.
	Validation string
}

// Patch patches an object. created means that an apply created it.
func (s *Service) Patch(ctx context.Context, r *Request, p Patch) (obj registry.Object, created bool, err error) {
	if p.Type == types.ApplyYAMLPatchType {
		return s.apply(ctx, r, p)
	}
	if p.Force {
		return nil, false, forceForbidden()
	}
	if err := p.check(r.Kind); err != nil {
		return nil, false, err
	}
	return s.modify(ctx, r, modification{verb: "patch", change: func(old registry.Object) (registry.Object, error) {
		return s.patched(r, p, old)
	}})
}

// check refuses strategic merges of kinds without a Go type, whose tags say how to merge.
func (p Patch) check(kind *registry.Kind) error {
	if p.Type != types.StrategicMergePatchType || kind.Codec.Protobuf() {
		return nil
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("the body of the request was in an unknown format - accepted media types include: %s, %s, %s",
			types.JSONPatchType, types.MergePatchType, types.ApplyYAMLPatchType),
	}}
}

var patchOptionsKind = unstructuredGroupKind("meta.k8s.io", "PatchOptions")

func forceForbidden() error {
	return Invalid(patchOptionsKind, "", field.ErrorList{
		field.Forbidden(field.NewPath("force"), "may not be specified for non-apply patch")})
}

func managerRequired() error {
	return Invalid(patchOptionsKind, "", field.ErrorList{
		field.Required(field.NewPath("fieldManager"), "is required for apply patch")})
}

// patched returns the patched object (old is only read). Errors and their codes are those of
// k8s.io/apiserver/pkg/endpoints/handlers/patch.go.
func (s *Service) patched(r *Request, p Patch, old registry.Object) (registry.Object, error) {
	before, err := runtime.Encode(jsonSerializer, old)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	after, strict, err := p.patch(before, r.Kind.New())
	if err != nil {
		return nil, err
	}
	obj, err := decodePatched(r, p, after, strict, r.Kind.New(), r.Kind)
	if err != nil {
		return nil, err
	}
	if err := checkScope(r, obj); err != nil {
		return nil, err
	}
	return obj, checkName(r, obj)
}

// patch applies the patch to a document, and also returns errors for the patch's duplicate fields. schema is an object of the type,
// for strategic merges.
func (p Patch) patch(before []byte, schema any) (after []byte, strict []error, err error) {
	checked := p.Validation == metav1.FieldValidationStrict || p.Validation == metav1.FieldValidationWarn
	switch p.Type {
	case types.JSONPatchType:
		if checked {
			var operations []struct {
				Op    string `json:"op"`
				Path  string `json:"path"`
				From  string `json:"from"`
				Value any    `json:"value"`
			}
			if strict, err = kjson.UnmarshalStrict(p.Data, &operations); err != nil {
				return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
			}
			for i, problem := range strict {
				strict[i] = fmt.Errorf("json patch %v", problem)
			}
		}
		patch, err := jsonpatch.DecodePatch(p.Data)
		if err != nil {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
		if len(patch) > maxPatchOperations {
			return nil, nil, apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("The allowed maximum operations in a JSON patch is %d, got %d", maxPatchOperations, len(patch)))
		}
		if after, err = patch.Apply(before); err != nil {
			return nil, nil, unprocessable(err)
		}
	case types.MergePatchType:
		var fields map[string]any
		if strict, err = kjson.UnmarshalStrict(p.Data, &fields); err != nil {
			return nil, nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
		}
		if after, err = jsonpatch.MergePatch(before, p.Data); err != nil {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
	case types.StrategicMergePatchType:
		var fields map[string]any
		if strict, err = kjson.UnmarshalStrict(p.Data, &fields); err != nil {
			return nil, nil, apierrors.NewBadRequest(err.Error())
		}
		// The library panics if a merge key of the patch is a list or an object.
		err = contain.Run(func() (err error) {
			after, err = strategicpatch.StrategicMergePatch(before, p.Data, schema)
			return err
		})
		if contain.Stack(err) != "" {
			return nil, nil, apierrors.NewBadRequest("the patch cannot be merged: the keys that identify elements of its lists must be strings, numbers or booleans")
		}
		if err != nil {
			switch err {
			case mergepatch.ErrBadJSONDoc, mergepatch.ErrBadPatchFormatForPrimitiveList, mergepatch.ErrBadPatchFormatForRetainKeys,
				mergepatch.ErrBadPatchFormatForSetElementOrderList, mergepatch.ErrUnsupportedStrategicMergePatchFormat:
				return nil, nil, apierrors.NewBadRequest(err.Error())
			}
			return nil, nil, unprocessable(err)
		}
	default:
		return nil, nil, apierrors.NewGenericServerResponse(415, "patch", resource{}, "", fmt.Sprintf("unsupported patch type %q", p.Type), 0, false)
	}
	if !checked {
		strict = nil
	}
	return after, strict, nil
}

type resource = schema.GroupResource

func unprocessable(err error) error {
	return apierrors.NewGenericServerResponse(422, "", resource{}, "", err.Error(), 0, false)
}

// shown returns what an error about a patched document contains, as upstream: for a strategic merge the patch, for others the
// patched document.
func (p Patch) shown(doc []byte) string {
	var fields map[string]any
	if p.Type != types.StrategicMergePatchType || kjson.UnmarshalCaseSensitivePreserveInts(p.Data, &fields) != nil {
		return string(doc)
	}
	return fmt.Sprintf("%+v", fields)
}

// decodePatched decodes a patched document; errors are reported as errors of the patch.
func decodePatched[T runtime.Object](r *Request, p Patch, doc []byte, strict []error, into T, kind expected) (T, error) {
	gvk := kind.GVK()
	checked := p.Validation == metav1.FieldValidationStrict || p.Validation == metav1.FieldValidationWarn
	decoder := laxJSON
	if checked {
		decoder = strictJSON
	}
	var none T
	if err := registry.CheckQuantities(doc, into); err != nil {
		return none, apierrors.NewBadRequest(err.Error())
	}
	out, actual, err := decodePruned(decoder, doc, into, kind, checked)
	if problems, ok := runtime.AsStrictDecodingError(err); ok {
		strict = append(strict, problems.Errors()...)
		err = nil
	}
	if err == nil && len(strict) > 0 {
		if p.Validation == metav1.FieldValidationWarn {
			for _, problem := range strict {
				r.warn("%s", problem.Error())
			}
		} else {
			err = runtime.NewStrictDecodingError(strict)
		}
	}
	if err != nil {
		return none, Invalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), p.shown(doc), err.Error())})
	}
	typed, ok := out.(T)
	if !ok || *actual != gvk {
		return none, Invalid(schema.GroupKind{}, "", field.ErrorList{field.Invalid(field.NewPath("patch"), p.shown(doc),
			fmt.Sprintf("%s cannot be handled as a %s", actual, gvk))})
	}
	return typed, nil
}

// apply is server-side apply (KEP-555).
func (s *Service) apply(ctx context.Context, r *Request, p Patch) (registry.Object, bool, error) {
	if r.FieldManager == "" {
		return nil, false, managerRequired()
	}
	patch, err := decodeApplied(r, p)
	if err != nil {
		return nil, false, err
	}
	if patch.GroupVersionKind() != r.Kind.GVK() {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf("apiVersion and kind: the applied object is %s, the URL is of %s", patch.GroupVersionKind(), r.Kind.GVK()))
	}
	if patch.GetManagedFields() != nil {
		return nil, false, InField("metadata.managedFields", apierrors.NewBadRequest("metadata.managedFields must be nil"))
	}
	return s.modify(ctx, r, modification{
		verb:   "patch",
		create: r.Subresource == "", applied: true,
		change: func(old registry.Object) (registry.Object, error) {
			if old == nil {
				old = managed.Empty(r.Kind)
				if uid := patch.GetUID(); uid != "" {
					return nil, InField("metadata.uid", apierrors.NewConflict(r.Kind.GroupResource(), r.Name, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid)))
				}
			}
			obj, err := s.managed.Apply(r.managed(), old, patch.DeepCopy(), p.Force)
			if err != nil {
				return nil, err
			}
			if err := checkScope(r, obj); err != nil {
				return nil, err
			}
			return obj, checkName(r, obj)
		},
	})
}

// decodeApplied decodes an applied configuration, which is YAML or JSON, and reports duplicate fields. Fields that the type does
// not have are refused when it is merged.
func decodeApplied(r *Request, p Patch) (*unstructured.Unstructured, error) {
	if err := aliases.Check(p.Data, MaxBodyBytes); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	patch := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.Unmarshal(p.Data, &patch.Object); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	// Convert numbers to the types that the rest of the machinery uses: int64 and float64.
	asJSON, err := json.Marshal(patch.Object)
	if err == nil {
		err = registry.CheckQuantities(asJSON, r.Kind.New())
	}
	if err == nil {
		err = utiljson.Unmarshal(asJSON, &patch.Object)
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding patch: %v", err))
	}
	if p.Validation == metav1.FieldValidationStrict || p.Validation == metav1.FieldValidationWarn {
		if err := yaml.UnmarshalStrict(p.Data, &map[string]any{}); err != nil {
			if p.Validation == metav1.FieldValidationStrict {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding patch: %v", err))
			}
			r.warn("%s", err.Error())
		}
	}
	return patch, nil
}
