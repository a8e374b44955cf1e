package managed

import (
	"context"
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

// Fields computes managed fields. It makes the field managers of kinds and subresources on first use. It is safe for concurrent use.
type Fields struct {
	mu        sync.Mutex
	made      map[managerKey]*fieldManager
	templates templates
	sets      fieldSets
}

// Write is what is to be recorded of a write: where it goes to, and who makes it.
type Write struct {
	Kind        *registry.Kind
	Subresource string
	Manager     string // "" for a client that has no name
}

func (w Write) manager() string {
	if w.Manager != "" {
		return w.Manager
	}
	return "unknown"
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

// New returns Fields that have seen nothing yet.
func New() *Fields {
	return &Fields{
		made:      map[managerKey]*fieldManager{},
		templates: templates{Limit: maxTemplates},
		sets:      fieldSets{recent.Cache[fieldSetKey, fieldSet]{Limit: maxFieldSetBytes}},
	}
}

func (f *Fields) of(kind *registry.Kind, subresource string) (*fieldManager, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := managerKey{kind, subresource}
	if fm, ok := f.made[key]; ok {
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
	var fm *managedfields.FieldManager
	var err error
	if kind.Codec.AnyVersion() {
		fm, err = managedfields.NewDefaultCRDFieldManager(kind.Codec.Fields(), anyVersion{kind}, noDefaults{}, anyVersion{kind},
			kind.GVK(), kind.GroupVersion(), subresource, reset)
	} else {
		fm, err = managedfields.NewDefaultFieldManager(kind.Codec.Fields(), sameVersion{registry.Scheme}, noDefaults{}, registry.Scheme,
			kind.GVK(), kind.GroupVersion(), subresource, reset)
	}
	if err != nil {
		return nil, fmt.Errorf("field manager of %s: %w", kind.Kind, err)
	}
	made := &fieldManager{FieldManager: fm, key: key, version: string(version), filter: reset[version], sets: &f.sets}
	if made.empty, err = kind.Codec.Fields().ObjectToTyped(Empty(kind)); err != nil {
		made.empty = nil // kinds that are not stored have no structure
	}
	f.made[key] = made
	if kind.Life != nil {
		context.AfterFunc(kind.Life.Over, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.made, key)
		})
	}
	return made, nil
}

// Empty returns an object of a kind with nothing but its type, with which a creation is compared.
func Empty(kind *registry.Kind) registry.Object {
	obj := kind.New()
	obj.GetObjectKind().SetGroupVersionKind(kind.GVK())
	return obj
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

// anyVersion creates and converts the objects of a kind whose codec converts between versions.
type anyVersion struct{ kind *registry.Kind }

// New implements runtime.ObjectCreater.
func (a anyVersion) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	return a.kind.Codec.New(gvk), nil
}

// ConvertToVersion implements runtime.ObjectConvertor.
func (a anyVersion) ConvertToVersion(in runtime.Object, target runtime.GroupVersioner) (runtime.Object, error) {
	have := in.GetObjectKind().GroupVersionKind()
	want, ok := target.KindForGroupVersionKinds([]schema.GroupVersionKind{have})
	switch {
	case !ok || have.GroupKind() != a.kind.GroupKind():
		return nil, fmt.Errorf("%s cannot be converted to %v", have, target)
	case want == have:
		return in, nil
	}
	return a.kind.Codec.External(in.DeepCopyObject(), want)
}

// Convert implements runtime.ObjectConvertor. The field manager does not use it.
func (a anyVersion) Convert(in, out, _ any) error {
	return fmt.Errorf("a %T cannot be converted to a %T", in, out)
}

// ConvertFieldLabel implements runtime.ObjectConvertor. The field manager does not use it.
func (a anyVersion) ConvertFieldLabel(gvk schema.GroupVersionKind, label, value string) (string, string, error) {
	return "", "", fmt.Errorf("field label not supported: %s", label)
}

// noDefaults does no defaulting: the service does it once, after merging.
type noDefaults struct{}

func (noDefaults) Default(runtime.Object) {}

// Apply merges an applied configuration into the live object (an empty one for a creation).
func (f *Fields) Apply(w Write, live registry.Object, patch runtime.Object, force bool) (registry.Object, error) {
	fm, err := f.of(w.Kind, w.Subresource)
	if err != nil {
		return nil, err
	}
	merged, err := fm.Apply(live, patch, w.Manager, force)
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

// SameButTimes says whether managed fields differ only in their times.
func SameButTimes(now, then []metav1.ManagedFieldsEntry) bool {
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
