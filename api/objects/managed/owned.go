package managed

import (
	"bytes"
	"reflect"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/recent"
)

// maxUpdateManagers is upstream's limit of entries for updates, above which it merges the oldest.
const maxUpdateManagers = 10

// owner is an entry of managed fields with its set of fields. It is the encoding of set, unless encoding is nil.
type owner struct {
	metav1.ManagedFieldsEntry
	set      *fieldpath.Set
	encoding *metav1.FieldsV1
}

// stripped are the fields that no manager owns.
var stripped = fieldpath.NewSet(
	fieldpath.MakePathOrDie("apiVersion"), fieldpath.MakePathOrDie("kind"), fieldpath.MakePathOrDie("metadata"),
	fieldpath.MakePathOrDie("metadata", "name"), fieldpath.MakePathOrDie("metadata", "namespace"),
	fieldpath.MakePathOrDie("metadata", "creationTimestamp"), fieldpath.MakePathOrDie("metadata", "selfLink"),
	fieldpath.MakePathOrDie("metadata", "uid"), fieldpath.MakePathOrDie("metadata", "clusterName"),
	fieldpath.MakePathOrDie("metadata", "generation"), fieldpath.MakePathOrDie("metadata", "managedFields"),
	fieldpath.MakePathOrDie("metadata", "resourceVersion"),
)

// updated returns the managed fields of an object that a manager has changed from old, as the field manager computes them, by comparing
// only the parts that differ and by decoding and encoding only the sets of fields that it has not seen or that change. ok is false in
// the cases that are left to the field manager: objects without a Go type, entries of other versions and invalid ones, and more entries
// than may be kept.
func (fm *fieldManager) updated(w Write, obj, old registry.Object) (entries []metav1.ManagedFieldsEntry, ok bool) {
	if _, generic := obj.(runtime.Unstructured); generic || fm.empty == nil || old.GetUID() == "" {
		return nil, false
	}
	given, reset := givenFields(w, obj, old)
	if reset {
		return nil, false
	}
	if len(given) == 0 {
		return nil, true // an object that is not tracked remains so
	}
	owners := make([]owner, 0, len(given)+1)
	for i := range given {
		o, ok := fm.decode(&given[i])
		if !ok || slices.ContainsFunc(owners, o.sameManager) {
			return nil, false
		}
		owners = append(owners, o)
	}
	changed, removed, err := fm.compare(w, obj, old)
	if err != nil {
		return nil, false
	}
	for i := range owners {
		owners[i].lose(changed)
		owners[i].lose(removed)
	}
	own := changed
	if fm.filter != nil {
		own = fm.filter.Filter(own)
	}
	if own = own.Difference(stripped); !own.Empty() {
		owners = fm.gain(owners, w, own)
	}
	updates := 0
	for _, o := range owners {
		if o.set.Empty() {
			continue
		}
		if o.Operation == metav1.ManagedFieldsOperationUpdate {
			updates++
		}
		if o.FieldsV1 = o.encoding; o.encoding == nil {
			if o.FieldsV1, err = fm.sets.encode(fm.key, o.set); err != nil {
				return nil, false
			}
		}
		entries = append(entries, o.ManagedFieldsEntry)
	}
	slices.SortFunc(entries, compareEntries)
	return entries, updates <= maxUpdateManagers
}

// givenFields returns the managed fields that a write begins with: those that its client sent, or those that are stored. reset means
// that the client wants them to begin anew.
func givenFields(w Write, obj, old registry.Object) (fields []metav1.ManagedFieldsEntry, reset bool) {
	if w.Subresource != "" {
		return old.GetManagedFields(), false
	}
	sent := obj.GetManagedFields()
	switch {
	case sent == nil:
		return old.GetManagedFields(), false
	case len(sent) == 0, len(sent) == 1 && reflect.DeepEqual(sent[0], metav1.ManagedFieldsEntry{}):
		return nil, true
	}
	return sent, false
}

// decode returns an entry with its set of fields; false if the field manager has to judge it.
func (fm *fieldManager) decode(e *metav1.ManagedFieldsEntry) (o owner, ok bool) {
	switch {
	case e.Operation != metav1.ManagedFieldsOperationApply && e.Operation != metav1.ManagedFieldsOperationUpdate,
		e.APIVersion != fm.version, e.FieldsType != "FieldsV1", e.FieldsV1 == nil:
		return o, false
	}
	o.ManagedFieldsEntry = *e
	o.set, o.encoding, ok = fm.sets.decode(fm.key, e.FieldsV1, func(set *fieldpath.Set) bool {
		// The set must be one for the fields' present types. The type alone decides that, not the object.
		reconciled, err := typed.ReconcileFieldSetWithSchema(set, fm.empty)
		return err == nil && reconciled == nil
	})
	return o, ok
}

// sameManager says whether an entry has the same manager, as which it is known in one list of entries.
func (o *owner) sameManager(other owner) bool {
	return o.Manager == other.Manager && o.Operation == other.Operation && o.Subresource == other.Subresource
}

// lose removes fields from the set.
func (o *owner) lose(fields *fieldpath.Set) {
	if fields.Empty() || o.set.Intersection(fields).Empty() {
		return
	}
	o.set, o.encoding = o.set.Difference(fields), nil
}

// gain adds fields to those of the request's manager.
func (fm *fieldManager) gain(owners []owner, w Write, fields *fieldpath.Set) []owner {
	now := metav1.NewTime(time.Now().UTC())
	self := owner{set: fields, ManagedFieldsEntry: metav1.ManagedFieldsEntry{Manager: w.manager(), Operation: metav1.ManagedFieldsOperationUpdate,
		APIVersion: fm.version, FieldsType: "FieldsV1", Subresource: w.Subresource, Time: &now}}
	at := slices.IndexFunc(owners, self.sameManager)
	if at < 0 {
		return append(owners, self)
	}
	owners[at].set, owners[at].encoding, owners[at].Time = owners[at].set.Union(fields), nil, &now
	return owners
}

// compareEntries is upstream's order of entries.
func compareEntries(a, b metav1.ManagedFieldsEntry) int {
	seconds := func(t *metav1.Time) int64 {
		if t == nil {
			return 0
		}
		return t.Unix()
	}
	if c := strings.Compare(string(a.Operation), string(b.Operation)); c != 0 {
		return c
	}
	if x, y := seconds(a.Time), seconds(b.Time); x != y {
		return int(min(max(x-y, -1), 1))
	}
	if c := strings.Compare(a.Manager, b.Manager); c != 0 {
		return c
	}
	return strings.Compare(a.Subresource, b.Subresource)
}

// compare returns the fields that a write changes or adds, and those that it removes, but for those that this kind of write ignores.
func (fm *fieldManager) compare(w Write, obj, old registry.Object) (changed, removed *fieldpath.Set, err error) {
	now, then := prune(w, obj), prune(w, old)
	now.SetManagedFields(nil)
	then.SetManagedFields(nil)
	dropEqual(reflect.ValueOf(now).Elem(), reflect.ValueOf(then).Elem())
	typedNow, err := fm.typed(now)
	if err != nil {
		return nil, nil, err
	}
	typedThen, err := fm.typed(then)
	if err != nil {
		return nil, nil, err
	}
	comparison, err := typedThen.Compare(typedNow)
	if err != nil {
		return nil, nil, err
	}
	comparison = comparison.FilterFields(fm.filter)
	return comparison.Modified.Union(comparison.Added), comparison.Removed, nil
}

func (fm *fieldManager) typed(obj registry.Object) (*typed.TypedValue, error) {
	v, err := value.NewValueReflect(obj)
	if err != nil {
		return nil, err
	}
	return typed.AsTyped(v, fm.empty.Schema(), fm.empty.TypeRef(), typed.AllowDuplicates)
}

// dropEqual clears in two structs of one type the fields that are equal in both, so that nothing compares them again. It writes to the
// structs and to those in them, but to nothing that they point to. The comparison of the structs stays the same: a struct that it would
// clear in one of them only remains as it is, because a cleared one may count as absent.
func dropEqual(a, b reflect.Value) {
	for i := range a.NumField() {
		x, y := a.Field(i), b.Field(i)
		switch x.Kind() {
		case reflect.Struct:
			if x.Type().PkgPath() == metaPackage && x.Type() != objectMetaType && x.Type() != typeMetaType || marshals(x.Type()) || !x.CanSet() {
				continue // a time, for example, whose parts are no fields
			}
			wasX, wasY := reflect.New(x.Type()).Elem(), reflect.New(y.Type()).Elem()
			wasX.Set(x)
			wasY.Set(y)
			dropEqual(x, y)
			if x.IsZero() != y.IsZero() {
				x.Set(wasX)
				y.Set(wasY)
			}
		case reflect.Pointer, reflect.Map, reflect.Slice:
			if x.IsNil() == y.IsNil() && !x.IsNil() && reflect.DeepEqual(x.Interface(), y.Interface()) {
				x.SetZero()
				y.SetZero()
			}
		}
	}
}

var (
	objectMetaType = reflect.TypeFor[metav1.ObjectMeta]()
	typeMetaType   = reflect.TypeFor[metav1.TypeMeta]()
	metaPackage    = objectMetaType.PkgPath()
)

// marshals says whether a type has an encoding of its own.
func marshals(t reflect.Type) bool {
	return t.Implements(reflect.TypeFor[value.UnstructuredConverter]()) || reflect.PointerTo(t).Implements(reflect.TypeFor[value.UnstructuredConverter]()) ||
		reflect.PointerTo(t).Implements(reflect.TypeFor[interface{ MarshalJSON() ([]byte, error) }]())
}

// fieldSets caches decoded sets of fields with their canonical encoding. The sets are shared and read-only.
type fieldSets struct {
	recent.Cache[fieldSetKey, fieldSet]
}

type fieldSetKey struct {
	manager  managerKey
	encoding string
}

type fieldSet struct {
	set      *fieldpath.Set
	encoding *metav1.FieldsV1
}

// Limits of the encodings of a generation of the cache together and of one, in bytes. A decoded set takes about ten times its encoding.
const (
	maxFieldSetBytes = 256 << 10
	maxOneFieldSet   = 16 << 10
)

// decode returns the set of an encoding and its canonical encoding; false if it is not valid or not accepted.
func (f *fieldSets) decode(manager managerKey, given *metav1.FieldsV1, accept func(*fieldpath.Set) bool) (*fieldpath.Set, *metav1.FieldsV1, bool) {
	raw := given.GetRawString()
	key := fieldSetKey{manager, raw}
	if known, ok := f.Get(key); ok {
		return known.set, known.encoding, true
	}
	set := new(fieldpath.Set)
	if err := set.FromJSON(strings.NewReader(raw)); err != nil || !accept(set) {
		return nil, nil, false
	}
	encoding, err := encodeSet(set)
	if err != nil {
		return nil, nil, false
	}
	if bytes.Equal(encoding.GetRawBytes(), given.GetRawBytes()) {
		f.put(key, fieldSet{set, encoding})
	}
	return set, encoding, true
}

// encode returns the encoding of a set that resulted from decoded ones and comparisons.
func (f *fieldSets) encode(manager managerKey, set *fieldpath.Set) (*metav1.FieldsV1, error) {
	encoding, err := encodeSet(set)
	if err != nil {
		return nil, err
	}
	f.put(fieldSetKey{manager, encoding.GetRawString()}, fieldSet{set, encoding})
	return encoding, nil
}

func encodeSet(set *fieldpath.Set) (*metav1.FieldsV1, error) {
	raw, err := set.ToJSON()
	if err != nil {
		return nil, err
	}
	encoding := new(metav1.FieldsV1)
	encoding.SetRawBytes(raw)
	return encoding, nil
}

func (f *fieldSets) put(key fieldSetKey, set fieldSet) {
	if len(key.encoding) <= maxOneFieldSet {
		f.Put(key, set, len(key.encoding))
	}
}
