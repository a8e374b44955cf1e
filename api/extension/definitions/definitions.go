package definitions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/custom"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/kv"
)

// Resource is the resource of the definitions.
var Resource = schema.GroupResource{Group: apiextensionsv1.GroupName, Resource: "customresourcedefinitions"}

// Prefix is that of the keys of the definitions.
const Prefix = "/apiextensions.k8s.io/customresourcedefinitions/"

// Definitions keeps a catalog as the definitions in a store are. It is safe for concurrent use.
type Definitions struct {
	store   kv.Reader
	catalog *registry.Catalog
	decode  Decode
	convert func(*apiextensionsv1.CustomResourceDefinition) (custom.Converter, error)
	log     *slog.Logger
	builtin *registry.Table

	mu         sync.Mutex
	revision   uint64
	generation uint32
	served     map[string]*served // by key
}

// Decode returns the object of a version, which is shared and read-only.
type Decode func(kind *registry.Kind, v *kv.Version) (registry.Object, error)

// served is a definition as it is served.
type served struct {
	crd      *apiextensionsv1.CustomResourceDefinition
	revision uint64
	kinds    []*registry.Kind
	over     context.CancelFunc
}

// Config has what Definitions are made of.
type Config struct {
	Store kv.Reader
	// Catalog has the table of the built-in resources.
	Catalog *registry.Catalog
	Decode  Decode
	// Convert returns how the objects of a definition are converted.
	Convert func(*apiextensionsv1.CustomResourceDefinition) (custom.Converter, error)
	Log     *slog.Logger
}

// New returns Definitions that have not followed the store yet.
func New(c Config) *Definitions {
	return &Definitions{store: c.Store, catalog: c.Catalog, decode: c.Decode, convert: c.Convert, log: c.Log, builtin: c.Catalog.Table(), served: map[string]*served{}}
}

// Run follows the store until the context ends, and returns the context's error.
func (d *Definitions) Run(ctx context.Context) error {
	for {
		view := d.store.View()
		watcher, err := d.store.Watch(Prefix, view.Revision())
		if err != nil {
			return err
		}
		d.Sync(view)
		err = d.follow(ctx, watcher)
		watcher.Close()
		if !errors.Is(err, kv.ErrCompacted) {
			return err
		}
	}
}

func (d *Definitions) follow(ctx context.Context, watcher kv.Watcher) error {
	for {
		events, _, err := watcher.Next(ctx)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			d.Sync(d.store.View())
		}
	}
}

// Sync makes the catalog at least as new as a view.
func (d *Definitions) Sync(view kv.View) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if view.Revision() <= d.revision {
		return
	}
	d.revision = view.Revision()
	kind, _ := d.builtin.ByGroupResource(Resource.Group, Resource.Resource)
	present := map[string]bool{}
	var over []context.CancelFunc
	changed := false
	view.Range(Prefix, kv.PrefixEnd(Prefix), func(v *kv.Version) bool {
		before := d.served[v.Key]
		if before != nil && before.revision == v.ModRevision {
			present[v.Key] = true
			return true
		}
		now, err := d.serve(kind, v, before)
		if err != nil {
			d.log.Error("a definition of custom resources cannot be served", "key", v.Key, "error", err, "stack", contain.Stack(err))
			return true // without it, as if it did not exist
		}
		present[v.Key] = true
		if before != nil && slices.Equal(before.kinds, now.kinds) {
			before.revision = now.revision
			return true
		}
		if before != nil {
			over = append(over, before.over)
		}
		d.served[v.Key], changed = now, true
		return true
	})
	for key, s := range d.served {
		if !present[key] {
			delete(d.served, key)
			over, changed = append(over, s.over), true
		}
	}
	if !changed {
		return
	}
	table := d.builtin.With(d.kinds())
	d.catalog.Update(func(*registry.Table) *registry.Table { return table })
	for _, end := range over {
		end()
	}
}

// kinds returns all kinds that are served, in the order of discovery.
func (d *Definitions) kinds() (kinds []*registry.Kind) {
	for _, s := range d.served {
		kinds = append(kinds, s.kinds...)
	}
	slices.SortFunc(kinds, func(a, b *registry.Kind) int {
		if c := strings.Compare(a.Group, b.Group); c != 0 {
			return c
		}
		if c := version.CompareKubeAwareVersionStrings(b.Version, a.Version); c != 0 {
			return c
		}
		return strings.Compare(a.Resource, b.Resource)
	})
	return kinds
}

// serve returns how a stored definition is served. It has the kinds of before, which may be nil, if nothing has changed about them.
func (d *Definitions) serve(kind *registry.Kind, v *kv.Version, before *served) (now *served, err error) {
	defer contain.Recover(&err)
	obj, err := d.decode(kind, v)
	if err != nil {
		return nil, err
	}
	crd := obj.(*apiextensionsv1.CustomResourceDefinition)
	if before != nil && sameService(before.crd, crd) {
		return &served{crd: before.crd, revision: v.ModRevision, kinds: before.kinds, over: before.over}, nil
	}
	now = &served{crd: crd, revision: v.ModRevision, over: func() {}}
	if !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
		return now, nil
	}
	if _, builtin := d.builtin.ByGroupResource(crd.Spec.Group, crd.Status.AcceptedNames.Plural); builtin {
		return now, nil
	}
	convert, err := d.convert(crd)
	if err != nil {
		return nil, err
	}
	d.generation++
	life := &registry.Life{Generation: d.generation, Identity: identity(crd), Guard: d.guard(kind, crd)}
	life.Over, now.over = context.WithCancel(context.Background())
	rows, err := custom.Rows(crd, life, convert)
	if err != nil {
		return nil, err
	}
	now.kinds = registry.NewKinds(rows...)
	return now, nil
}

// identity identifies the state of a definition as far as it is served.
func identity(crd *apiextensionsv1.CustomResourceDefinition) string {
	return fmt.Sprintf("%s/%d/%v", crd.UID, crd.Generation, crd.Status.AcceptedNames)
}

// sameService says whether two states of a definition are served alike.
func sameService(a, b *apiextensionsv1.CustomResourceDefinition) bool {
	established := func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established)
	}
	return a.UID == b.UID && established(a) == established(b) && (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) &&
		apiequality.Semantic.DeepEqual(a.Status.AcceptedNames, b.Status.AcceptedNames) && apiequality.Semantic.DeepEqual(a.Spec, b.Spec)
}

// guard returns what a creation of an object of a definition requires: the definition must be as it is in the creation's view, where it
// must not be about to go.
func (d *Definitions) guard(kind *registry.Kind, crd *apiextensionsv1.CustomResourceDefinition) func(kv.View) (kv.Op, error) {
	key := kind.Key("", crd.Name)
	resource := schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Status.AcceptedNames.Plural}
	return func(view kv.View) (kv.Op, error) {
		v, ok := view.Get(key)
		if !ok {
			return kv.Op{}, apierrors.NewNotFound(Resource, crd.Name)
		}
		obj, err := d.decode(kind, v)
		if err != nil {
			return kv.Op{}, apierrors.NewInternalError(err)
		}
		if obj.GetUID() != crd.UID {
			return kv.Op{}, apierrors.NewServiceUnavailable(fmt.Sprintf("the definition of %s has just been replaced; try again", resource))
		}
		if obj.GetDeletionTimestamp() != nil {
			return kv.Op{}, apierrors.NewForbidden(resource, "", errors.New("create not allowed while custom resource definition is terminating"))
		}
		return kv.Op{Key: key, Check: true, Cond: kv.AtRevision, Revision: v.ModRevision}, nil
	}
}
