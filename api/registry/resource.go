package registry

import (
	"context"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/kontiki/kontiki/internal/kv"
)

// Object is a versioned Kubernetes object.
type Object interface {
	metav1.Object
	runtime.Object
}

// Strategy says how one kind of write (of the main resource, or the status) prepares and checks an object. Objects have the
// internal type. Nil functions do nothing. The context has upstream's request information (k8s.io/apiserver/pkg/endpoints/request).
type Strategy struct {
	// PrepareUpdate restores the fields of old in obj that this kind of write may not change, and sets derived ones.
	PrepareUpdate func(ctx context.Context, obj, old runtime.Object)
	// ValidateUpdate refuses changes that are not allowed.
	ValidateUpdate func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	// WarnUpdate returns warnings for people about a change.
	WarnUpdate func(ctx context.Context, obj, old runtime.Object) []string
	// ResetFields are the top-level paths ("status", "metadata.labels") that this kind of write ignores, so that their ownership is
	// not recorded either. If OnlyFields is set, it ignores all others instead; "*" there is any element of a list or map.
	ResetFields, OnlyFields []string
	// ValidateWhole means that ValidateUpdate does all of validation, that of the metadata and declarative validation included.
	ValidateWhole bool
}

// Resource is one row: everything that the object service needs to know about a resource of an API group, in all versions in which
// it is served. Rows are immutable once they are in a Table.
type Resource struct {
	// Group, Resource (the plural name) and Kind name the resource. Singular is the kind in lower case if it is empty.
	Group, Resource, Kind, Singular string
	ShortNames                      []string
	Categories                      []string
	Namespaced                      bool
	// Versions are the served versions, the preferred one first; none means v1. Objects are stored in the first one.
	Versions []string
	// Codec converts objects between their representations; nil means that of a built-in type in Scheme.
	Codec Codec
	// ListKind is the kind of the resource's lists; "" means Kind with "List" at its end.
	ListKind string
	// StoredAs is the resource of another group as which the objects are stored; nil if they are stored as this one.
	StoredAs *Resource
	// VersionOf is the row of the same resource in its preferred version, if this row is another version with rules of its own, as custom
	// resources have them: such a row has one version, and the same Codec, which converts between them.
	VersionOf *Resource
	// Verbs are the verbs of the resource itself; nil means all. What can only be created is not stored: a Creator of the object
	// service answers.
	Verbs []string
	// Discovered are the verbs that discovery shows, if these are not all that are served; nil means Verbs.
	Discovered []string
	// Deprecation is the warning for every request, beside that of the Go type; "" if there is none.
	Deprecation string
	// Unserved means that no request can name the row, but its objects are stored: no version of the resource is served.
	Unserved bool
	// Life is what the row comes from while the process runs, such as a CustomResourceDefinition; nil for a row that stays.
	Life *Life

	// PrepareCreate and Validate get the internal type.
	PrepareCreate func(ctx context.Context, obj runtime.Object)
	Validate      func(ctx context.Context, obj runtime.Object) field.ErrorList
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
	// BeginDelete changes an object whose deletion begins, in what the deletion has to wait for. It gets the versioned type.
	BeginDelete func(obj Object)
	// OrphanByDefault makes deletions without a propagation policy leave dependents in place.
	OrphanByDefault bool

	// Fields returns the selectable fields beyond metadata.name and metadata.namespace.
	Fields func(obj Object) fields.Set
	// FieldNames are the names of these fields, so that unsupported selectors are refused.
	FieldNames []string

	// Print returns a table with the columns and the row of an object, whose row does not include it; nil means upstream's columns. The
	// table is the caller's.
	Print func(ctx context.Context, obj runtime.Object, o *metav1.TableOptions) (*metav1.Table, error)

	// OpenAPI returns the schema of the objects, as documents of version 2 or 3 have it; nil means upstream's.
	OpenAPI func(v2 bool) (*spec.Schema, error)

	// ReturnDeleted makes a deletion return the object rather than a Status.
	ReturnDeleted bool
	// Sealed values are encrypted before they are proposed.
	Sealed bool
	// KeepDeleted says whether an object that is deleted is kept for a time, to be brought back. Nil means yes; objects with a
	// controller, which makes new ones, are never kept.
	KeepDeleted func(obj Object) bool

	// ValidateWhole means that Validate does all of validation, that of the metadata and declarative validation included.
	ValidateWhole bool
	prefix        string
}

// Scale maps a kind onto autoscaling/v1 Scale.
type Scale struct {
	Get func(obj Object) (replicas, statusReplicas int32, selector string)
	Set func(obj Object, replicas int32)
	// Check returns why an object has no scale; nil means that every object has one.
	Check func(obj Object) error
	// Path has the fields that lead to the replicas; nil means spec and replicas.
	Path []string
}

// Life is how long a row is in tables that replace each other.
type Life struct {
	// Generation distinguishes what is derived from this row and shared from what is derived from earlier rows of the resource.
	Generation uint32
	// Identity is the same for all rows, on all masters, that come from the same state of the same definition.
	Identity string
	// Over ends when the row is no longer in the present table.
	Over context.Context
	// Guard returns an operation that a command must contain which creates an object, so that none is created when what the row comes
	// from is going away.
	Guard func(view kv.View) (kv.Op, error)
}

// allVerbs are the verbs of a resource that is stored, in the order of discovery.
var allVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// GroupResource returns the group and the plural name, by which the whole program identifies a resource.
func (r *Resource) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.Group, Resource: r.Resource}
}

// GroupKind returns the group and the kind.
func (r *Resource) GroupKind() schema.GroupKind {
	return schema.GroupKind{Group: r.Group, Kind: r.Kind}
}

// Stored says whether objects are stored. Reviews, for example, are answered and forgotten.
func (r *Resource) Stored() bool { return r.Serves("watch") }

// Serves says whether the resource itself has a verb ("get", "deletecollection").
func (r *Resource) Serves(verb string) bool { return slices.Contains(r.ServedVerbs(), verb) }

// ServedVerbs returns the verbs of the resource itself, in alphabetic order. Read-only.
func (r *Resource) ServedVerbs() []string {
	if r.Verbs == nil {
		return allVerbs
	}
	return r.Verbs
}

// Prefix returns the key prefix of all objects of the resource.
func (r *Resource) Prefix() string { return r.prefix }

// NamespacePrefix returns the key prefix of the objects in a namespace, or of all if namespace is empty.
func (r *Resource) NamespacePrefix(namespace string) string {
	if namespace == "" || !r.Namespaced {
		return r.Prefix()
	}
	return r.Prefix() + namespace + "/"
}

// Key returns an object's key: /<group>/<resource>/<namespace>/<name>, with an empty namespace for cluster-scoped resources.
func (r *Resource) Key(namespace, name string) string {
	if !r.Namespaced {
		namespace = ""
	}
	return r.Prefix() + namespace + "/" + name
}

// SplitKey returns the namespace and name in a key of the resource.
func (r *Resource) SplitKey(key string) (namespace, name string) {
	namespace, name, _ = strings.Cut(strings.TrimPrefix(key, r.Prefix()), "/")
	return namespace, name
}

// DiscoveredVerbs returns the verbs of the resource itself that discovery shows. Read-only.
func (r *Resource) DiscoveredVerbs() []string {
	if r.Discovered != nil {
		return r.Discovered
	}
	return r.ServedVerbs()
}

// StrategyFor returns the strategy of a subresource ("" for the main resource); ok is false if there is no such subresource.
func (r *Resource) StrategyFor(subresource string) (*Strategy, bool) {
	switch subresource {
	case "":
		return &r.Strategy, true
	case "status":
		return r.Status, r.Status != nil
	}
	s, ok := r.Subresources[subresource]
	return s, ok
}

// complete fills in what a row leaves out.
func (r *Resource) complete() {
	if r.Singular == "" {
		r.Singular = strings.ToLower(r.Kind)
	}
	if r.ListKind == "" {
		r.ListKind = r.Kind + "List"
	}
	if len(r.Versions) == 0 {
		r.Versions = []string{"v1"}
	}
	if r.Codec == nil {
		r.Codec = SchemeCodec(r.Group, nil)
	}
	of := r
	if r.StoredAs != nil {
		of = r.StoredAs
	}
	group := of.Group
	if group == "" {
		group = "core"
	}
	r.prefix = "/" + group + "/" + of.Resource + "/"
}
