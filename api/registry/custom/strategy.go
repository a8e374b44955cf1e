package custom

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/operation"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
)

func (v *versionOf) prepareCreate(_ context.Context, obj runtime.Object) {
	u := obj.(*unstructured.Unstructured)
	if v.hasStatus() {
		delete(u.Object, "status")
	}
	u.SetGeneration(1)
}

func (v *versionOf) prepareUpdate(_ context.Context, obj, old runtime.Object) {
	now, then := obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)
	if v.hasStatus() {
		if status, ok := then.Object["status"]; ok {
			now.Object["status"] = status
		} else {
			delete(now.Object, "status")
		}
	}
	if !sameSpec(now.Object, then.Object) {
		now.SetGeneration(then.GetGeneration() + 1)
	}
}

// sameSpec says whether all but the metadata is equal.
func sameSpec(a, b map[string]any) bool {
	count := func(m map[string]any) int {
		if _, ok := m["metadata"]; ok {
			return len(m) - 1
		}
		return len(m)
	}
	if count(a) != count(b) {
		return false
	}
	for key, x := range a {
		if key == "metadata" {
			continue
		}
		if y, ok := b[key]; !ok || !apiequality.Semantic.DeepEqual(x, y) {
			return false
		}
	}
	return true
}

// prepareStatus takes all but the status and the managed fields from the old object.
func prepareStatus(_ context.Context, obj, old runtime.Object) {
	now := obj.(*unstructured.Unstructured)
	status, ok := now.Object["status"]
	managed := now.GetManagedFields()
	*now = *old.(*unstructured.Unstructured).DeepCopy()
	now.SetManagedFields(managed)
	if ok {
		now.Object["status"] = status
	} else {
		delete(now.Object, "status")
	}
}

func (v *versionOf) validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	u := obj.(*unstructured.Unstructured)
	r, err := v.rules.get()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	if errs := v.validateType(u); len(errs) > 0 {
		return errs
	}
	errs := v.validateMeta(ctx, operation.Create, u, nil)
	errs = append(errs, validation.ValidateCustomResource(nil, u.Object, r.schema)...)
	errs = append(errs, v.validateScale(u, true)...)
	errs = append(errs, objectmeta.Validate(ctx, nil, u.Object, r.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, r.structural, u.Object)...)
	if errs = r.applyRules(ctx, errs, u, nil); len(errs) > 0 {
		return errs
	}
	return apivalidation.ValidateObjectMetaAccessor(u, v.of.namespaced(), pathSegment, field.NewPath("metadata"))
}

// applyRules adds the problems that the rules in CEL find, unless the object is so wrong that they cannot be applied.
func (r *rules) applyRules(ctx context.Context, errs field.ErrorList, u *unstructured.Unstructured, old any, options ...cel.Option) field.ErrorList {
	if r.cel == nil {
		return errs
	}
	for _, err := range errs {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return append(errs, field.Invalid(nil, nil, "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"))
		}
	}
	found, _ := r.cel.Validate(ctx, nil, r.structural, u.Object, old, celconfig.RuntimeCELCostBudget, options...)
	return append(errs, found...)
}

func (v *versionOf) validateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	now, then := obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)
	r, err := v.rules.get()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	errs := v.validateChangedMeta(now, then)
	correlated := common.NewCorrelatedObject(now.Object, then.Object, &model.Structural{Structural: r.structural})
	if wrong := v.validateType(now); len(wrong) > 0 {
		errs = append(errs, wrong...)
	} else {
		errs = append(errs, v.validateMeta(ctx, operation.Update, now, then)...)
		errs = append(errs, validation.ValidateCustomResourceUpdate(nil, now.Object, then.Object, r.schema, validation.WithRatcheting(correlated))...)
		errs = append(errs, v.validateScale(now, true)...)
	}
	errs = append(errs, objectmeta.Validate(ctx, nil, now.Object, r.structural, false)...)
	errs = append(errs, changedLists(r, now, then)...)
	return r.applyRules(ctx, errs, now, then.Object, cel.WithRatcheting(correlated))
}

func (v *versionOf) validateStatus(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	now, then := obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)
	r, err := v.rules.get()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	errs := v.validateChangedMeta(now, then)
	correlated := common.NewCorrelatedObject(now.Object, then.Object, &model.Structural{Structural: r.structural})
	if wrong := v.validateType(now); len(wrong) > 0 {
		errs = append(errs, wrong...)
	} else {
		errs = append(errs, v.validateMeta(ctx, operation.Update, now, then)...)
		if status, ok := now.Object["status"]; ok {
			var options []validation.ValidationOption
			if r.structural != nil {
				options = append(options, validation.WithRatcheting(correlated.Key("status")))
			}
			errs = append(errs, validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, then.Object["status"], r.status, options...)...)
		}
		errs = append(errs, v.validateScale(now, false)...)
	}
	errs = append(errs, changedLists(r, now, then)...)
	return r.applyRules(ctx, errs, now, then.Object, cel.WithRatcheting(correlated))
}

// changedLists validates sets and maps in lists, unless those of the old object were wrong already.
func changedLists(r *rules, now, then *unstructured.Unstructured) field.ErrorList {
	errs := listtype.ValidateListSetsAndMaps(nil, r.structural, now.Object)
	if len(errs) > 0 && len(listtype.ValidateListSetsAndMaps(nil, r.structural, then.Object)) > 0 {
		return nil
	}
	return errs
}

func (d *definition) namespaced() bool { return d.crd.Spec.Scope == "Namespaced" }

// validateType refuses an object of another type, which only admission could have made of it.
func (v *versionOf) validateType(u *unstructured.Unstructured) (errs field.ErrorList) {
	if u.GetKind() != v.gvk.Kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), u.GetKind(), fmt.Sprintf("must be %v", v.gvk.Kind)))
	}
	if want := v.gvk.GroupVersion().String(); u.GetAPIVersion() != want {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), u.GetAPIVersion(), fmt.Sprintf("must be %v", want)))
	}
	return errs
}

// validateChangedMeta does what upstream does with the metadata of every update.
func (v *versionOf) validateChangedMeta(now, then *unstructured.Unstructured) field.ErrorList {
	at := field.NewPath("metadata")
	errs := apivalidation.ValidateObjectMetaAccessor(now, v.of.namespaced(), pathSegment, at)
	return append(errs, apivalidation.ValidateObjectMetaAccessorUpdate(now, then, at)...)
}

// pathSegment returns the minimal requirements for every name.
func pathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

// validateMeta validates metadata as that of custom resources.
func (v *versionOf) validateMeta(ctx context.Context, op operation.Type, now, then *unstructured.Unstructured) field.ErrorList {
	meta, err := metaOf(now)
	if err != nil {
		return field.ErrorList{err}
	}
	var old *metav1.ObjectMeta
	name := apivalidation.ValidateNameFunc(apivalidation.NameIsDNSSubdomain)
	if then != nil {
		if old, err = metaOf(then); err != nil {
			return field.ErrorList{err}
		}
		name = nil
	}
	return apivalidation.ValidateObjectMetaDeclaratively(ctx, op, meta, old, v.of.namespaced(), name, field.NewPath("metadata"), true)
}

func metaOf(u *unstructured.Unstructured) (*metav1.ObjectMeta, *field.Error) {
	meta := &metav1.ObjectMeta{}
	raw, ok := u.Object["metadata"].(map[string]any)
	if !ok {
		if u.Object["metadata"] == nil {
			return meta, nil
		}
		return nil, field.Invalid(field.NewPath("metadata"), u.Object["metadata"], fmt.Sprintf("expected map[string]interface{}, got %T", u.Object["metadata"]))
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(raw, meta); err != nil {
		return nil, field.Invalid(field.NewPath("metadata"), raw, err.Error())
	}
	return meta, nil
}

func warnCreate(_ context.Context, obj runtime.Object) []string {
	return finalizerWarnings(obj.(*unstructured.Unstructured), nil)
}

func warnUpdate(_ context.Context, obj, old runtime.Object) []string {
	return finalizerWarnings(obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured).GetFinalizers())
}

// standardFinalizers have no domain.
var standardFinalizers = []string{metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents, "kubernetes"}

func finalizerWarnings(u *unstructured.Unstructured, known []string) (warnings []string) {
	at := field.NewPath("metadata", "finalizers")
	added := slices.Clone(u.GetFinalizers())
	slices.Sort(added)
	for _, name := range slices.Compact(added) {
		if slices.Contains(known, name) {
			continue
		}
		for _, problem := range utilvalidation.IsQualifiedName(name) {
			warnings = append(warnings, fmt.Sprintf("%s: %q: %s", at, name, problem))
		}
		switch {
		case strings.Contains(name, "/") || slices.Contains(standardFinalizers, name):
		case strings.Contains(name, "."):
			warnings = append(warnings, fmt.Sprintf("%s: %q: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers", at, name))
		default:
			warnings = append(warnings, fmt.Sprintf("%s: %q: prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers", at, name))
		}
	}
	return warnings
}
