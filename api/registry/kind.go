package registry

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Object is a versioned Kubernetes object.
type Object interface {
	metav1.Object
	runtime.Object
}

// Strategy says how one kind of write (of the main resource, or the status) prepares and checks an object. Objects have the
// internal type. Nil functions do nothing.
type Strategy struct {
	// PrepareUpdate restores the fields of old in obj that this kind of write may not change, and sets derived ones.
	PrepareUpdate func(obj, old runtime.Object)
	// ValidateUpdate refuses changes that are not allowed.
	ValidateUpdate func(obj, old runtime.Object) field.ErrorList
	// WarnUpdate returns warnings for people about a change.
	WarnUpdate func(ctx context.Context, obj, old runtime.Object) []string
	// ResetFields are the top-level paths ("status", "metadata.labels") that this kind of write ignores, so that their ownership is
	// not recorded either. If OnlyFields is set, it ignores all others instead.
	ResetFields, OnlyFields []string
}

// Kind is one row: everything that the object service needs to know about a kind. Rows are immutable once they are in a Table.
type Kind struct {
	Group, Version, Kind string
	Resource, Singular   string
	ShortNames           []string
	Categories           []string
	Namespaced           bool

	// New and NewList return empty versioned objects; NewInternal returns an empty internal one.
	New         func() Object
	NewList     func() runtime.Object
	NewInternal func() runtime.Object

	// PrepareCreate and Validate get the internal type.
	PrepareCreate func(obj runtime.Object)
	Validate      func(obj runtime.Object) field.ErrorList
	// WarnGiven returns warnings about a new object as the client sent it, before it is prepared.
	WarnGiven func(obj runtime.Object) []string
	// WarnCreate returns warnings for people about a new object.
	WarnCreate func(ctx context.Context, obj runtime.Object) []string
	Strategy

	// Status is the status subresource, nil if there is none.
	Status *Strategy
	// Subresources are further ways of updating the whole object (finalize, ephemeralcontainers, resize).
	Subresources map[string]*Strategy
	// Scale reads and writes the scale subresource, nil if there is none.
	Scale *Scale

	AllowCreateOnUpdate      bool
	AllowUnconditionalUpdate bool
	// DeleteGrace returns the grace period of a deleted object in seconds; nil means that deletion is immediate.
	DeleteGrace func(obj Object, options *metav1.DeleteOptions) int64
	// OrphanByDefault makes deletions without a propagation policy leave dependents in place.
	OrphanByDefault bool

	// Fields returns the selectable fields beyond metadata.name and metadata.namespace.
	Fields func(obj Object) fields.Set
	// FieldNames are the names of these fields, so that unsupported selectors are refused.
	FieldNames []string

	// NoDeleteCollection refuses the deletion of a whole collection in one request.
	NoDeleteCollection bool
	// StoredAs is the row as which the objects are stored, in another group or version; nil if they are stored as this one.
	StoredAs *Kind

	// ReturnDeleted makes a deletion return the object rather than a Status.
	ReturnDeleted bool
	// deprecated is the warning that every request for the kind gets; "" for none.
	deprecated string
	// Sealed values are encrypted before they are proposed.
	Sealed bool
}

// Scale maps a kind onto autoscaling/v1 Scale.
type Scale struct {
	Get func(obj Object) (replicas, statusReplicas int32, selector string)
	Set func(obj Object, replicas int32)
}

// Deprecated returns the warning for every request for the kind, in upstream's words; "" if the kind is not deprecated.
func (k *Kind) Deprecated() string { return k.deprecated }

// deprecation returns that warning, from the deprecation methods of the type.
func (k *Kind) deprecation() string {
	obj := k.New()
	deprecated, ok := obj.(interface{ APILifecycleDeprecated() (major, minor int) })
	if !ok {
		return ""
	}
	major, minor := deprecated.APILifecycleDeprecated()
	text := fmt.Sprintf("%s %s is deprecated in v%d.%d+", k.GroupVersion(), k.Kind, major, minor)
	if removed, ok := obj.(interface{ APILifecycleRemoved() (major, minor int) }); ok {
		major, minor := removed.APILifecycleRemoved()
		text += fmt.Sprintf(", unavailable in v%d.%d+", major, minor)
	}
	if replaced, ok := obj.(interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}); ok {
		by := replaced.APILifecycleReplacement()
		text += fmt.Sprintf("; use %s %s", by.GroupVersion(), by.Kind)
	}
	return text
}

// GroupVersion returns the kind's group and version.
func (k *Kind) GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: k.Group, Version: k.Version}
}

// GVK returns the kind's group, version and kind.
func (k *Kind) GVK() schema.GroupVersionKind { return k.GroupVersion().WithKind(k.Kind) }

// GroupResource returns the kind's group and plural name.
func (k *Kind) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: k.Group, Resource: k.Resource}
}

// Prefix returns the key prefix of all objects of the kind.
func (k *Kind) Prefix() string {
	if k.StoredAs != nil {
		return k.StoredAs.Prefix()
	}
	group := k.Group
	if group == "" {
		group = "core"
	}
	return "/" + group + "/" + k.Resource + "/"
}

// NamespacePrefix returns the key prefix of the kind's objects in a namespace, or of all if namespace is empty.
func (k *Kind) NamespacePrefix(namespace string) string {
	if namespace == "" || !k.Namespaced {
		return k.Prefix()
	}
	return k.Prefix() + namespace + "/"
}

// Key returns an object's key: /<group>/<resource>/<namespace>/<name>, with an empty namespace for cluster-scoped kinds.
func (k *Kind) Key(namespace, name string) string {
	if !k.Namespaced {
		namespace = ""
	}
	return k.Prefix() + namespace + "/" + name
}

// SplitKey returns the namespace and name in a key of the kind.
func (k *Kind) SplitKey(key string) (namespace, name string) {
	namespace, name, _ = strings.Cut(strings.TrimPrefix(key, k.Prefix()), "/")
	return namespace, name
}

// StrategyFor returns the strategy of a subresource ("" for the main resource); ok is false if there is no such subresource.
func (k *Kind) StrategyFor(subresource string) (*Strategy, bool) {
	switch subresource {
	case "":
		return &k.Strategy, true
	case "status":
		return k.Status, k.Status != nil
	}
	s, ok := k.Subresources[subresource]
	return s, ok
}

// SelectableFields returns the fields of an object that field selectors can use.
func (k *Kind) SelectableFields(obj Object) fields.Set {
	set := fields.Set{}
	if k.Fields != nil {
		set = k.Fields(obj)
	}
	set["metadata.name"] = obj.GetName()
	if k.Namespaced {
		set["metadata.namespace"] = obj.GetNamespace()
	}
	return set
}

// CheckFieldSelector refuses a selector that uses a field which the kind does not support.
func (k *Kind) CheckFieldSelector(selector fields.Selector) error {
	for _, r := range selector.Requirements() {
		if r.Field == "metadata.name" || (r.Field == "metadata.namespace" && k.Namespaced) {
			continue
		}
		known := false
		for _, name := range k.FieldNames {
			known = known || name == r.Field
		}
		if !known {
			return fmt.Errorf("field label not supported: %s", r.Field)
		}
	}
	return nil
}

// ToInternal converts a versioned object.
func (k *Kind) ToInternal(obj runtime.Object) (runtime.Object, error) {
	internal := k.NewInternal()
	if err := Scheme.Convert(obj, internal, nil); err != nil {
		return nil, fmt.Errorf("convert %s to its internal form: %w", k.Kind, err)
	}
	return internal, nil
}

// FromInternal converts an internal object to a new versioned one with its type set.
func (k *Kind) FromInternal(internal runtime.Object) (Object, error) {
	obj := k.New()
	if err := Scheme.Convert(internal, obj, nil); err != nil {
		return nil, fmt.Errorf("convert %s from its internal form: %w", k.Kind, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(k.GVK())
	return obj, nil
}

// declarative adds the errors of upstream's generated (declarative) validation that hand-written validation did not
// already report for the same field.
func declarative(errs field.ErrorList, more field.ErrorList) field.ErrorList {
	type place struct {
		kind field.ErrorType
		path string
	}
	if len(more) == 0 {
		return errs
	}
	seen := make(map[place]bool, len(errs)+len(more))
	for _, e := range errs {
		seen[place{e.Type, e.Field}] = true
	}
	for _, e := range more {
		if at := (place{e.Type, e.Field}); !seen[at] {
			seen[at] = true
			errs = append(errs, e)
		}
	}
	return errs
}

// ValidateCreate runs hand-written and declarative validation of a new object, given in both forms.
func (k *Kind) ValidateCreate(ctx context.Context, internal runtime.Object, obj Object) field.ErrorList {
	var errs field.ErrorList
	if k.Validate != nil {
		errs = k.Validate(internal)
	}
	if len(errs) == 0 {
		// After the kind's own validation, whose messages are more specific.
		errs = apivalidation.ValidateObjectMetaAccessor(obj, k.Namespaced, pathSegment, field.NewPath("metadata"))
	}
	return declarative(errs, Scheme.Validate(ctx, declarativeOptions, obj))
}

// ValidateChange runs hand-written and declarative validation of an update through a subresource ("" for none).
func (k *Kind) ValidateChange(ctx context.Context, s *Strategy, subresource string, internal, oldInternal runtime.Object, obj, old Object) field.ErrorList {
	metadata := field.NewPath("metadata")
	errs := apivalidation.ValidateObjectMetaAccessor(obj, k.Namespaced, pathSegment, metadata)
	errs = append(errs, apivalidation.ValidateObjectMetaAccessorUpdate(obj, old, metadata)...)
	if s.ValidateUpdate != nil {
		errs = append(errs, s.ValidateUpdate(internal, oldInternal)...)
	}
	var sub []string
	if subresource != "" {
		sub = []string{subresource}
	}
	return declarative(errs, Scheme.ValidateUpdate(ctx, declarativeOptions, obj, old, sub...))
}

// pathSegment returns the minimal requirements for every name.
func pathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}

// Table is a set of kinds, found by resource, kind or Go type. It is immutable.
type Table struct {
	kinds      []*Kind
	byResource map[schema.GroupVersionResource]*Kind
	byGroupRes map[schema.GroupResource]*Kind
	byGVK      map[schema.GroupVersionKind]*Kind
	byType     map[reflect.Type]*Kind
}

// NewTable builds the look-ups over rows.
func NewTable(kinds ...*Kind) *Table {
	t := &Table{
		kinds:      kinds,
		byResource: map[schema.GroupVersionResource]*Kind{},
		byGroupRes: map[schema.GroupResource]*Kind{},
		byGVK:      map[schema.GroupVersionKind]*Kind{},
		byType:     map[reflect.Type]*Kind{},
	}
	for _, k := range kinds {
		k.deprecated = k.deprecation()
		t.byResource[k.GroupVersion().WithResource(k.Resource)] = k
		t.byGroupRes[k.GroupResource()] = k
		t.byGVK[k.GVK()] = k
		t.byType[reflect.TypeOf(k.New())] = k
	}
	return t
}

// Kinds returns all rows, in the table's order.
func (t *Table) Kinds() []*Kind { return t.kinds }

// ByResource finds a row by group, version and plural name.
func (t *Table) ByResource(group, version, resource string) (*Kind, bool) {
	k, ok := t.byResource[schema.GroupVersionResource{Group: group, Version: version, Resource: resource}]
	return k, ok
}

// ByGroupResource finds a row by group and plural name.
func (t *Table) ByGroupResource(group, resource string) (*Kind, bool) {
	k, ok := t.byGroupRes[schema.GroupResource{Group: group, Resource: resource}]
	return k, ok
}

// ByGVK finds a row by group, version and kind.
func (t *Table) ByGVK(gvk schema.GroupVersionKind) (*Kind, bool) {
	k, ok := t.byGVK[gvk]
	return k, ok
}

// ByObject finds the row of an object's Go type.
func (t *Table) ByObject(obj runtime.Object) (*Kind, bool) {
	k, ok := t.byType[reflect.TypeOf(obj)]
	return k, ok
}

// ByType finds the row of a Go type such as *corev1.Pod.
func (t *Table) ByType(typ reflect.Type) (*Kind, bool) {
	k, ok := t.byType[typ]
	return k, ok
}

// checker and changer convert typed functions to a row's untyped ones.
func checker[T runtime.Object](f func(T) field.ErrorList) func(runtime.Object) field.ErrorList {
	return func(obj runtime.Object) field.ErrorList { return f(obj.(T)) }
}

func changer[T runtime.Object](f func(obj, old T) field.ErrorList) func(obj, old runtime.Object) field.ErrorList {
	return func(obj, old runtime.Object) field.ErrorList { return f(obj.(T), old.(T)) }
}

func warner[T runtime.Object](f func(ctx context.Context, obj T) []string) func(context.Context, runtime.Object) []string {
	return func(ctx context.Context, obj runtime.Object) []string { return f(ctx, obj.(T)) }
}

func changeWarner[T runtime.Object](f func(ctx context.Context, obj, old T) []string) func(ctx context.Context, obj, old runtime.Object) []string {
	return func(ctx context.Context, obj, old runtime.Object) []string { return f(ctx, obj.(T), old.(T)) }
}

func preparer[T runtime.Object](f func(T)) func(runtime.Object) {
	return func(obj runtime.Object) { f(obj.(T)) }
}

func updater[T runtime.Object](f func(obj, old T)) func(obj, old runtime.Object) {
	return func(obj, old runtime.Object) { f(obj.(T), old.(T)) }
}
