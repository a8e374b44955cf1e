package custom

import (
	"context"
	"fmt"
	"maps"
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
	if errs := r.validateDefaults(u); len(errs) > 0 {
		return errs
	}
	meta, wrong := metaOf(u)
	errs := v.validateMeta(ctx, operation.Create, meta, wrong, nil)
	errs = append(errs, validation.ValidateCustomResource(nil, u.Object, r.schema)...)
	errs = append(errs, v.validateScale(u, true)...)
	errs = append(errs, objectmeta.Validate(ctx, nil, u.Object, r.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, r.structural, u.Object)...)
	if errs = r.applyRules(ctx, errs, u, nil); len(errs) > 0 {
		return errs
	}
	return apivalidation.ValidateObjectMetaAccessor(meta, v.of.namespaced(), pathSegment, field.NewPath("metadata"))
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
	if errs := r.validateDefaults(now); len(errs) > 0 {
		return errs
	}
	meta, unreadable := metaOf(now)
	errs := v.validateChangedMeta(meta, now, then)
	correlated := common.NewCorrelatedObject(now.Object, then.Object, &model.Structural{Structural: r.structural})
	if wrong := v.validateType(now); len(wrong) > 0 {
		errs = append(errs, wrong...)
	} else {
		errs = append(errs, v.validateMeta(ctx, operation.Update, meta, unreadable, then)...)
		errs = append(errs, validation.ValidateCustomResourceUpdate(nil, now.Object, then.Object, r.schema, validation.WithRatcheting(correlated))...)
		errs = append(errs, v.validateScale(now, true)...)
	}
	errs = append(errs, objectmeta.Validate(ctx, nil, now.Object, r.structural, false)...)
	errs = append(errs, changedLists(r, now, then)...)
	errs = r.applyRules(ctx, errs, now, then.Object, cel.WithRatcheting(correlated))
	validation.Metrics.ObserveRatchetingTime(*correlated.Duration)
	return errs
}

func (v *versionOf) validateStatus(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	now, then := obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured)
	r, err := v.rules.get()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	if errs := r.validateDefaults(now); len(errs) > 0 {
		return errs
	}
	meta, unreadable := metaOf(now)
	errs := v.validateChangedMeta(meta, now, then)
	correlated := common.NewCorrelatedObject(now.Object, then.Object, &model.Structural{Structural: r.structural})
	if wrong := v.validateType(now); len(wrong) > 0 {
		errs = append(errs, wrong...)
	} else {
		errs = append(errs, v.validateMeta(ctx, operation.Update, meta, unreadable, then)...)
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
	errs = r.applyRules(ctx, errs, now, then.Object, cel.WithRatcheting(correlated))
	validation.Metrics.ObserveRatchetingTime(*correlated.Duration)
	return errs
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

// validateChangedMeta does what upstream does with the metadata of every update. meta is that of now; it is nil if it cannot be read.
func (v *versionOf) validateChangedMeta(meta *metav1.ObjectMeta, now, then *unstructured.Unstructured) (errs field.ErrorList) {
	at := field.NewPath("metadata")
	if meta != nil {
		errs = apivalidation.ValidateObjectMetaAccessor(meta, v.of.namespaced(), pathSegment, at)
	}
	return append(errs, apivalidation.ValidateObjectMetaAccessorUpdate(now, then, at)...)
}

// pathSegment returns the minimal requirements for every name.
func pathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

// validateMeta validates metadata as that of custom resources. unreadable is why meta could not be read.
func (v *versionOf) validateMeta(ctx context.Context, op operation.Type, meta *metav1.ObjectMeta, unreadable *field.Error, then *unstructured.Unstructured) field.ErrorList {
	if unreadable != nil {
		return field.ErrorList{unreadable}
	}
	var old *metav1.ObjectMeta
	name := apivalidation.ValidateNameFunc(apivalidation.NameIsDNSSubdomain)
	if then != nil {
		var err *field.Error
		if old, err = metaOf(then); err != nil {
			return field.ErrorList{err}
		}
		name = nil
	}
	return apivalidation.ValidateObjectMetaDeclaratively(ctx, op, meta, old, v.of.namespaced(), name, field.NewPath("metadata"), true)
}

// metaOf returns an object's metadata for its validation, which does not look at what fields a manager has: converting these would cost more than
// all others.
func metaOf(u *unstructured.Unstructured) (*metav1.ObjectMeta, *field.Error) {
	raw, ok := u.Object["metadata"].(map[string]any)
	if !ok {
		if u.Object["metadata"] == nil {
			return &metav1.ObjectMeta{}, nil
		}
		return nil, field.Invalid(field.NewPath("metadata"), u.Object["metadata"], fmt.Sprintf("expected map[string]interface{}, got %T", u.Object["metadata"]))
	}
	meta := &metav1.ObjectMeta{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(withoutFieldSets(raw), meta); err != nil {
		return nil, field.Invalid(field.NewPath("metadata"), raw, err.Error())
	}
	return meta, nil
}

// withoutFieldSets returns metadata that lacks the sets of fields in its managed fields, and shares everything else.
func withoutFieldSets(meta map[string]any) map[string]any {
	entries, ok := meta["managedFields"].([]any)
	if !ok {
		return meta
	}
	bare := make([]any, len(entries))
	for i, e := range entries {
		bare[i] = e
		entry, ok := e.(map[string]any)
		if !ok {
			continue
		}
		if _, ok := entry["fieldsV1"].(map[string]any); ok {
			entry = maps.Clone(entry)
			delete(entry, "fieldsV1")
			bare[i] = entry
		}
	}
	meta = maps.Clone(meta)
	meta["managedFields"] = bare
	return meta
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
