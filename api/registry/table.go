package registry

import (
	"reflect"
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
	byType     map[reflect.Type]*Kind
}

// NewTable builds the kinds of rows, and the look-ups over them. It completes the rows, which must not be changed afterwards.
func NewTable(resources ...*Resource) *Table {
	t := &Table{
		byResource: map[schema.GroupVersionResource]*Kind{},
		byGroupRes: map[schema.GroupResource]*Kind{},
		byGVK:      map[schema.GroupVersionKind]*Kind{},
		byType:     map[reflect.Type]*Kind{},
	}
	forms := map[*Kind]int{} // how many kinds share the objects that are stored as a kind
	for _, r := range resources {
		r.complete()
		var first *Kind
		for i, version := range r.Versions {
			k := &Kind{definition: r, Version: version}
			switch {
			case r.StoredAs != nil:
				k.StoredAs = t.byGroupRes[r.StoredAs.GroupResource()]
			case i > 0:
				k.StoredAs = first
			}
			k.Form = forms[k.Storage()]
			forms[k.Storage()]++
			if typed, ok := r.Codec.(goTypes); ok {
				k.goType = typed.goType(k.GVK())
				t.byType[k.goType] = k
			}
			k.deprecated = deprecation(k)
			t.kinds = append(t.kinds, k)
			t.byResource[k.GroupVersion().WithResource(k.Resource)] = k
			t.byGVK[k.GVK()] = k
			if i == 0 {
				first = k
				t.byGroupRes[k.GroupResource()] = k
			}
		}
	}
	return t
}

// Kinds returns all kinds, in the order of the rows and of their versions.
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
