package registry

import (
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/internal/broadcast"
)

// Table is a set of resources, found by resource, kind or Go type. It is immutable.
type Table struct {
	kinds      []*Kind
	byResource map[schema.GroupVersionResource]*Kind
	byGroupRes map[schema.GroupResource]*Kind
	byGVK      map[schema.GroupVersionKind]*Kind
	stored     map[schema.GroupKind]*Kind
	byType     map[reflect.Type]*Kind
}

// NewTable builds the kinds of rows, and the look-ups over them. It completes the rows, which must not be changed afterwards.
func NewTable(resources ...*Resource) *Table {
	t := &Table{
		byResource: map[schema.GroupVersionResource]*Kind{},
		byGroupRes: map[schema.GroupResource]*Kind{},
		byGVK:      map[schema.GroupVersionKind]*Kind{},
		stored:     map[schema.GroupKind]*Kind{},
		byType:     map[reflect.Type]*Kind{},
	}
	t.add(NewKinds(resources...))
	return t
}

// With returns a table that has further kinds, made by NewKinds. A kind whose name is taken is left out.
func (t *Table) With(kinds []*Kind) *Table {
	more := &Table{
		kinds:      slices.Clip(t.kinds),
		byResource: maps.Clone(t.byResource),
		byGroupRes: maps.Clone(t.byGroupRes),
		byGVK:      maps.Clone(t.byGVK),
		stored:     maps.Clone(t.stored),
		byType:     t.byType,
	}
	more.add(slices.DeleteFunc(slices.Clone(kinds), func(k *Kind) bool {
		_, taken := t.byGroupRes[k.GroupResource()]
		_, known := t.byGVK[k.GVK()]
		return taken || known
	}))
	return more
}

func (t *Table) add(kinds []*Kind) {
	for _, k := range kinds {
		if k.Form == 0 && k.Stored() {
			t.stored[k.GroupKind()] = k
		}
		if k.Unserved {
			continue
		}
		t.kinds = append(t.kinds, k)
		if k.goType != nil {
			t.byType[k.goType] = k
		}
		t.byResource[k.GroupVersion().WithResource(k.Resource)] = k
		t.byGVK[k.GVK()] = k
		if _, further := t.byGroupRes[k.GroupResource()]; !further {
			t.byGroupRes[k.GroupResource()] = k
		}
	}
}

// NewKinds builds the kinds of rows, in the order of the rows and of their versions. It completes the rows, which must not be changed
// afterwards.
func NewKinds(resources ...*Resource) (kinds []*Kind) {
	forms := map[string]int{} // how many kinds share the objects that are stored with a prefix
	first := map[schema.GroupResource]*Kind{}
	for _, r := range resources {
		r.complete()
		for i, version := range r.Versions {
			k := &Kind{definition: r, Version: version}
			switch {
			case r.StoredAs != nil:
				k.StoredAs = first[r.StoredAs.GroupResource()]
			case i > 0:
				k.StoredAs = first[r.GroupResource()]
			}
			k.Form = forms[r.prefix]
			forms[r.prefix]++
			if typed, ok := r.Codec.(goTypes); ok {
				k.goType = typed.goType(k.GVK())
			}
			k.deprecated = deprecation(k)
			kinds = append(kinds, k)
			if first[k.GroupResource()] == nil {
				first[k.GroupResource()] = k
			}
		}
	}
	return kinds
}

// Stored returns one kind for each resource whose objects are stored, by group and kind, also for resources that are not served. Read-only.
func (t *Table) Stored() map[schema.GroupKind]*Kind { return t.stored }

// Kinds returns all kinds that are served, in the order of the rows and of their versions.
func (t *Table) Kinds() []*Kind { return t.kinds }

// ByResource finds a kind by group, version and plural name.
func (t *Table) ByResource(group, version, resource string) (*Kind, bool) {
	k, ok := t.byResource[schema.GroupVersionResource{Group: group, Version: version, Resource: resource}]
	return k, ok
}

// ByGroupResource finds a resource's preferred kind by group and plural name.
func (t *Table) ByGroupResource(group, resource string) (*Kind, bool) {
	k, ok := t.byGroupRes[schema.GroupResource{Group: group, Resource: resource}]
	return k, ok
}

// ByGVK finds a kind by group, version and kind.
func (t *Table) ByGVK(gvk schema.GroupVersionKind) (*Kind, bool) {
	k, ok := t.byGVK[gvk]
	return k, ok
}

// ByObject finds the kind of an object's Go type.
func (t *Table) ByObject(obj runtime.Object) (*Kind, bool) { return t.ByType(reflect.TypeOf(obj)) }

// ByType finds the kind of a Go type such as *corev1.Pod.
func (t *Table) ByType(typ reflect.Type) (*Kind, bool) {
	k, ok := t.byType[typ]
	return k, ok
}

// Catalog holds the present Table, which changes when resources are added and removed while the process runs. A request uses one
// Table from beginning to end. Safe for concurrent use.
type Catalog struct {
	now     atomic.Pointer[Table]
	mu      sync.Mutex
	changed broadcast.Signal
}

// NewCatalog returns a Catalog that holds a table.
func NewCatalog(t *Table) *Catalog {
	c := &Catalog{}
	c.now.Store(t)
	return c
}

// Table returns the present table.
func (c *Catalog) Table() *Table { return c.now.Load() }

// Changed returns a channel that is closed when the table is replaced the next time. To miss no table, call Changed before Table.
func (c *Catalog) Changed() <-chan struct{} { return c.changed.Next() }

// Update replaces the table by what change returns for the present one.
func (c *Catalog) Update(change func(*Table) *Table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now.Store(change(c.now.Load()))
	c.changed.Tell()
}
