package objects

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/recent"
)

// managers creates the field managers (server-side apply, KEP-555) of kinds and subresources on first use.
type managers struct {
	mu        sync.Mutex
	made      map[managerKey]*fieldManager
	templates templates
	sets      fieldSets
}

// fieldManager is the field manager of a kind and subresource, with what updated needs.
type fieldManager struct {
	*managedfields.FieldManager
	key     managerKey
	version string
	filter  fieldpath.Filter  // of the fields that this kind of write does not ignore; nil for all
	empty   *typed.TypedValue // has the structure of the kind's objects; nil if it has none
	sets    *fieldSets
}

type managerKey struct {
	kind        *registry.Kind
	subresource string
}

func newManagers() *managers {
	return &managers{
		made:      map[managerKey]*fieldManager{},
		templates: templates{Limit: maxTemplates},
		sets:      fieldSets{recent.Cache[fieldSetKey, fieldSet]{Limit: maxFieldSetBytes}},
	}
}

func (m *managers) of(kind *registry.Kind, subresource string) (*fieldManager, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := managerKey{kind, subresource}
	if fm, ok := m.made[key]; ok {
		return fm, nil
	}
	version := fieldpath.APIVersion(kind.GroupVersion().String())
	reset := map[fieldpath.APIVersion]fieldpath.Filter{}
	if strategy, ok := kind.StrategyFor(subresource); ok {
		switch {
		case len(strategy.OnlyFields) > 0:
			var matchers []*fieldpath.SetMatcher
			for _, path := range strategy.OnlyFields {
				matchers = append(matchers, fieldpath.MakePrefixMatcherOrDie(parts(path)...))
			}
			reset[version] = fieldpath.NewIncludeMatcherFilter(matchers...)
		case len(strategy.ResetFields) > 0:
			set := fieldpath.NewSet()
			for _, path := range strategy.ResetFields {
				set.Insert(fieldpath.MakePathOrDie(parts(path)...))
			}
			reset[version] = fieldpath.NewExcludeSetFilter(set)
		}
	}
	fm, err := managedfields.NewDefaultFieldManager(kind.Codec.Fields(), sameVersion{registry.Scheme}, noDefaults{}, registry.Scheme,
		kind.GVK(), kind.GroupVersion(), subresource, reset)
	if err != nil {
		return nil, fmt.Errorf("field manager of %s: %w", kind.Kind, err)
	}
	made := &fieldManager{FieldManager: fm, key: key, version: string(version), filter: reset[version], sets: &m.sets}
	empty := kind.New()
	empty.GetObjectKind().SetGroupVersionKind(kind.GVK())
	if made.empty, err = kind.Codec.Fields().ObjectToTyped(empty); err != nil {
		made.empty = nil // kinds that are not stored have no structure
	}
	m.made[key] = made
	return made, nil
}

func parts(path string) []any {
	var out []any
	for _, part := range strings.Split(path, ".") {
		if part == "*" {
			out = append(out, fieldpath.MatchAnyPathElement())
			continue
		}
		out = append(out, part)
	}
	return out
}

// sameVersion does not convert an object that already has the wanted version. The scheme would copy it, twice per write, although
// the field manager only reads what it converts.
type sameVersion struct{ *runtime.Scheme }

func (c sameVersion) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	if _, generic := in.(runtime.Unstructured); !generic {
		if have := in.GetObjectKind().GroupVersionKind(); !have.Empty() && target == runtime.GroupVersioner(have.GroupVersion()) {
			return in, nil
		}
	}
	out, err := c.Scheme.ConvertToVersion(in, target)
	if err == nil {
		return out, nil
	}
	// Versions are converted to each other by way of the internal form.
	internal, viaErr := c.Scheme.ConvertToVersion(in.DeepCopyObject(), schema.GroupVersion{Group: in.GetObjectKind().GroupVersionKind().Group, Version: runtime.APIVersionInternal})
	if viaErr != nil {
		return nil, err
	}
	return c.Scheme.ConvertToVersion(internal, target)
}

// noDefaults does no defaulting: the service does it once, after merging.
type noDefaults struct{}

func (noDefaults) Default(runtime.Object) {}

func managerName(r *Request) string {
	if r.FieldManager != "" {
		return r.FieldManager
	}
	return "unknown"
}

// merge merges an applied configuration into the live object (an empty one for a creation).
func (s *Service) merge(r *Request, live registry.Object, patch runtime.Object, force bool) (registry.Object, error) {
	fm, err := s.managers.of(r.Kind, r.Subresource)
	if err != nil {
		return nil, err
	}
	merged, err := fm.Apply(live, patch, r.FieldManager, force)
	if err != nil {
		if status := apierrors.APIStatus(nil); errors.As(err, &status) {
			return nil, err
		}
		return nil, apierrors.NewBadRequest(err.Error())
	}
	obj, ok := merged.(registry.Object)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("apply gave a %T", merged))
	}
	return obj, nil
}

// defaulted returns a client's object with defaults, in the form that its conversions leave. They move fields: stringData of a Secret
// into data, for example. Managers own the fields that result, not those that were sent. obj must not be used afterwards.
func defaulted(kind *registry.Kind, obj registry.Object) (registry.Object, error) {
	kind.Codec.Default(obj)
	internal, err := kind.ToInternal(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if obj, err = kind.FromInternal(internal); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj, nil
}

// sameButTimes says whether managed fields differ only in their times.
func sameButTimes(now, then []metav1.ManagedFieldsEntry) bool {
	if len(now) != len(then) {
		return false
	}
	for i := range now {
		a, b := &now[i], &then[i]
		if a.Manager != b.Manager || a.Operation != b.Operation || a.APIVersion != b.APIVersion || a.Subresource != b.Subresource ||
			(a.FieldsV1 == nil) != (b.FieldsV1 == nil) || (a.FieldsV1 != nil && !a.FieldsV1.Equal(*b.FieldsV1)) {
			return false
		}
	}
	return true
}
