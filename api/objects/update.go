package objects

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kontiki/kontiki/api/objects/managed"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// change returns the new object, given the stored one, which is shared and only read (nil if there is none and creation is allowed).
type change func(old registry.Object) (registry.Object, error)

// modification describes how a change is carried out.
type modification struct {
	// verb is the verb of the request, as strategies and admission see it; "" means update.
	verb   string
	change change
	// create means that the change may create the object if it does not exist.
	create bool
	// applied means that managed fields are already up to date (server-side apply).
	applied bool
	// unwatched means that the change is not recorded in managed fields at all (binding).
	unwatched bool
	// uid is the UID that the stored object must have; "" for any.
	uid types.UID
	// admitted means that admission does not see the change: it is a part of a request that has been admitted (binding, eviction).
	admitted bool
	// seen says what admission sees of the change; nil means the object itself.
	seen *seen
	// strategy is used instead of the subresource's own (binding, scale), unless it is nil.
	strategy *registry.Strategy
}

// seen is the form in which admission sees a change through a subresource with a kind of its own.
type seen struct {
	kind schema.GroupVersionKind
	// of returns that form of an object; set makes the object have what admission has made of it.
	of  func(registry.Object) runtime.Object
	set func(registry.Object, runtime.Object) error
}

// subresource returns the one whose rules apply.
func (m modification) subresource(r *Request) string {
	if m.strategy != nil {
		return ""
	}
	return r.Subresource
}

// Update replaces an object (or, through a subresource, that part of it). created means that it did not exist before.
func (s *Service) Update(ctx context.Context, r *Request, obj registry.Object) (result registry.Object, created bool, err error) {
	return s.update(ctx, r, obj, false)
}

// update is Update; owned keeps the object's managed fields unchanged.
func (s *Service) update(ctx context.Context, r *Request, obj registry.Object, owned bool) (result registry.Object, created bool, err error) {
	if err := checkName(r, obj); err != nil {
		return nil, false, err
	}
	if err := checkScope(r, obj); err != nil {
		return nil, false, err
	}
	attempt := r.attempts(obj)
	return s.modify(ctx, r, modification{
		create:  r.Kind.AllowCreateOnUpdate && r.Subresource == "",
		applied: owned,
		uid:     obj.GetUID(),
		change: func(old registry.Object) (registry.Object, error) {
			obj, err := attempt()
			if err != nil {
				return nil, err
			}
			if err := checkScope(r, obj); err != nil { // sets the namespace
				return nil, err
			}
			if obj.GetResourceVersion() == "" && old != nil && !r.Kind.AllowUnconditionalUpdate {
				return nil, Invalid(schema.GroupKind{Group: r.Kind.Group, Kind: r.Kind.Resource}, r.Name, field.ErrorList{
					field.Invalid(field.NewPath("metadata").Child("resourceVersion"), uint64(0), "must be specified for an update")})
			}
			return obj, nil
		},
	})
}

// checkName refuses an object whose name is not the request's.
func checkName(r *Request, obj registry.Object) error {
	switch obj.GetName() {
	case r.Name:
		return nil
	case "":
		return InField("metadata.name", apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s based on URL) was undeterminable: name must be provided", r.Name)))
	}
	return InField("metadata.name", apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), r.Name)))
}

// modify applies a change to the stored object, and prepares it again whenever the object has changed meanwhile.
func (s *Service) modify(ctx context.Context, r *Request, m modification) (obj registry.Object, created bool, err error) {
	if err := r.serves("update"); err != nil {
		return nil, false, err
	}
	ctx = r.context(ctx, cmp.Or(m.verb, "update"))
	r = r.withMemo()
	strategy, ok := r.Kind.StrategyFor(r.Subresource)
	if m.strategy != nil {
		strategy, ok = m.strategy, true
	}
	if !ok {
		return nil, false, apierrors.NewNotFound(r.Kind.GroupResource(), r.Name+"/"+r.Subresource)
	}
	err = s.attempt(ctx, func(view kv.View) (err error) {
		obj, created, err = s.modifyOnce(ctx, r, strategy, m, view)
		return err
	})
	if errors.Is(err, errRetry) {
		err = conflict(r)
	}
	if err != nil {
		return nil, false, err
	}
	return obj, created, nil
}

// attempt carries out a write, again and again while the state that it was prepared against has changed. The first attempt uses
// the local view as it is: the command's precondition protects against a stale view, and a refusal that may come from a view that
// is behind is decided again on a consistent one. The error is errRetry if the state changed each time.
func (s *Service) attempt(ctx context.Context, once func(kv.View) error) error {
	view := s.store.View()
	for try := 0; ; try++ {
		err := once(view)
		if err == nil {
			return nil
		}
		retry := errors.Is(err, errRetry)
		if ctx.Err() != nil || !retry && (try > 0 || outcomeUnknown(err)) || retry && try >= maxAttempts {
			return err
		}
		fresh, viewErr := s.readView(ctx)
		if viewErr != nil {
			return viewErr
		}
		if !retry && fresh.Revision() == view.Revision() {
			return err
		}
		view = fresh
	}
}

func (s *Service) modifyOnce(ctx context.Context, r *Request, strategy *registry.Strategy, m modification, view kv.View) (registry.Object, bool, error) {
	key := r.Kind.Key(r.Namespace, r.Name)
	stored, ok := view.Get(key)
	if !ok {
		if !m.create {
			return nil, false, notFound(r)
		}
		obj, err := m.change(nil)
		if err != nil {
			return nil, false, err
		}
		if m.uid != "" {
			return nil, false, InField("metadata.uid", apierrors.NewConflict(r.Kind.GroupResource(), r.Name,
				fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: ", m.uid)))
		}
		if err := s.authorize(ctx, r, r.Attributes("create")); err != nil {
			return nil, false, err
		}
		obj.SetResourceVersion("")
		creation := *r
		creation.again = nil // the body is that of an update
		obj, err = s.create(ctx, &creation, obj, m.applied)
		if apierrors.IsAlreadyExists(err) {
			return nil, false, errRetry
		}
		return obj, true, err
	}
	old, err := s.Decode(r.Kind, stored)
	if err != nil {
		return nil, false, apierrors.NewInternalError(err)
	}
	obj, err := m.change(old)
	if err != nil {
		return nil, false, err
	}
	var joined []joinedOp
	if obj, joined, err = s.prepare(ctx, r, strategy, m, view, obj, old); err != nil {
		return nil, false, err
	}
	obj, err = s.commit(ctx, r, view, stored, obj, old, joined)
	return obj, false, err
}

// prepare passes a changed object through managed fields, admission, the kind's rules and validation. old is shared and only read.
// The order is upstream's: no manager owns what admission and the kind's rules add. It also returns what admission adds to the command.
func (s *Service) prepare(ctx context.Context, r *Request, strategy *registry.Strategy, m modification, view kv.View, obj, old registry.Object) (registry.Object, []joinedOp, error) {
	if m.uid != "" && m.uid != old.GetUID() {
		return nil, nil, InField("metadata.uid", apierrors.NewConflict(r.Kind.GroupResource(), r.Name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", m.uid, old.GetUID())))
	}
	if version := obj.GetResourceVersion(); version != "" && version != old.GetResourceVersion() {
		err := conflict(r)
		if _, bad := ParseRevision(version); bad != nil { // a retry would not help
			err = apierrors.NewBadRequest(bad.Error())
		}
		return nil, nil, InField("metadata.resourceVersion", err)
	}
	if err := checkGivenSize(obj); err != nil {
		return nil, nil, err
	}
	var err error
	if m.unwatched { // the service's own change of a stored object, which is already in the form that conversions leave
		r.Kind.Codec.Default(obj)
	} else if obj, err = defaulted(r.Kind, obj); err != nil {
		return nil, nil, err
	}
	if !m.applied && !m.unwatched {
		if obj, err = s.managed.Track(r.managed(), obj, old); err != nil {
			return nil, nil, apierrors.NewInternalError(err)
		}
	}
	attributes := &Attributes{Request: r, Operation: OpUpdate, Object: obj, ObjectKind: r.Kind.GVK(), Old: old, View: view}
	if m.seen != nil {
		attributes.Object, attributes.ObjectKind, attributes.Old = m.seen.of(obj), m.seen.kind, m.seen.of(old)
	}
	if !m.admitted {
		if err := s.mutate(ctx, attributes); err != nil {
			return nil, nil, err
		}
		if err := s.checkEscalation(ctx, attributes); err != nil {
			return nil, nil, err
		}
		if m.seen == nil {
			obj = attributes.Object.(registry.Object)
		} else if err := m.seen.set(obj, attributes.Object); err != nil {
			return nil, nil, err
		}
	}
	keepTrace(ctx, r, obj, old)
	dropDuplicateOwners(r, obj)
	obj.SetGeneration(old.GetGeneration())
	obj.SetResourceVersion(old.GetResourceVersion())
	obj.SetSelfLink("")
	internal, err := r.Kind.ToInternal(obj)
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	own := runtime.Object(old)
	if strategy.PrepareUpdate != nil || !strategy.ValidateWhole {
		own = old.DeepCopyObject() // a strategy may move parts of the old object to the new one: both must belong to this write
	}
	oldInternal, err := r.Kind.ToInternal(own)
	if err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	if strategy.PrepareUpdate != nil {
		strategy.PrepareUpdate(ctx, internal, oldInternal)
	}
	if err := keepMeta(internal, old); err != nil {
		return nil, nil, apierrors.NewInternalError(err)
	}
	if obj, internal, err = s.fill(r, view, internal, old); err != nil {
		return nil, nil, err
	}
	if errs := r.Kind.ValidateChange(ctx, strategy, m.subresource(r), internal, oldInternal, obj, old); len(errs) > 0 {
		return nil, nil, Invalid(r.Kind.GVK().GroupKind(), r.Name, errs)
	}
	if r.Warn != nil && strategy.WarnUpdate != nil {
		for _, text := range strategy.WarnUpdate(ctx, internal, oldInternal) {
			r.warn("%s", text)
		}
	}
	if m.admitted {
		return obj, nil, nil
	}
	if attributes.Object = obj; m.seen != nil {
		attributes.Object = m.seen.of(obj)
	}
	return obj, attributes.joined, s.validate(ctx, attributes)
}

// keepMeta restores the metadata that an update may omit or that only deletions may set; validation refuses all other changes of
// immutable metadata (as in k8s.io/apiserver/pkg/registry/rest BeforeUpdate).
func keepMeta(obj runtime.Object, old registry.Object) error {
	accessor, err := meta.Accessor(obj)
	if err != nil {
		return err
	}
	if accessor.GetUID() == "" {
		accessor.SetUID(old.GetUID())
	}
	if created := old.GetCreationTimestamp(); !created.IsZero() {
		accessor.SetCreationTimestamp(created)
	}
	if deleted := old.GetDeletionTimestamp(); deleted != nil {
		accessor.SetDeletionTimestamp(deleted.DeepCopy())
	}
	if grace := old.GetDeletionGracePeriodSeconds(); grace != nil && accessor.GetDeletionGracePeriodSeconds() == nil {
		seconds := *grace
		accessor.SetDeletionGracePeriodSeconds(&seconds)
	}
	return nil
}

// ownerKey has the fields of an owner reference: equal references have equal keys.
type ownerKey struct {
	apiVersion, kind, name string
	uid                    types.UID
	controller, block      flag
}

// flag is an optional boolean as a value that can be compared.
type flag struct{ set, value bool }

func flagOf(b *bool) flag { return flag{b != nil, b != nil && *b} }

// dropDuplicateOwners removes duplicate owner references, with a warning.
func dropDuplicateOwners(r *Request, obj registry.Object) {
	refs := obj.GetOwnerReferences()
	if len(refs) < 2 {
		return
	}
	kept := make([]metav1.OwnerReference, 0, len(refs))
	var dropped []string
	seen := make(map[ownerKey]bool, len(refs))
	for _, ref := range refs {
		key := ownerKey{ref.APIVersion, ref.Kind, ref.Name, ref.UID, flagOf(ref.Controller), flagOf(ref.BlockOwnerDeletion)}
		if seen[key] {
			dropped = append(dropped, string(ref.UID))
			continue
		}
		seen[key] = true
		kept = append(kept, ref)
	}
	if len(dropped) > 0 {
		obj.SetOwnerReferences(kept)
		r.warn(".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: %v", strings.Join(dropped, ", "))
	}
}

// commit stores obj in place of the stored version, removes the object if this was the last step of its deletion, or does nothing
// if nothing changed.
func (s *Service) commit(ctx context.Context, r *Request, view kv.View, stored *kv.Version, obj, old registry.Object, joined []joinedOp) (registry.Object, error) {
	if expired(obj) {
		return s.remove(ctx, r, view, stored, obj, old, joined)
	}
	allocated, err := s.allocate(r, view, obj, old)
	if err != nil {
		return nil, err
	}
	value, same, err := s.encodeChange(r.Kind, stored, obj, old)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if err := checkSize(value); err != nil {
		return nil, err
	}
	if same {
		return obj, nil
	}
	charged, err := s.charge(ctx, r, view, old, obj)
	if err != nil {
		return nil, err
	}
	if r.DryRun {
		return obj, nil
	}
	joined = append(joined, charged...)
	ops := append([]kv.Op{{Key: stored.Key, Value: value, Cond: kv.AtRevision, Revision: stored.ModRevision}}, allocated...)
	ops = withJoined(guarded(ops, value), joined)
	result, err := s.propose(ctx, r, ops)
	if err != nil {
		return nil, err
	}
	if result.Failed != nil {
		return nil, joinedFailure(result.Failed, len(ops), joined)
	}
	obj.SetResourceVersion(FormatRevision(result.Revisions[0]))
	s.keepJSON(r.Kind, obj)
	return obj, nil
}

// encodeChange returns the bytes to store in place of the stored version. same means that nothing changed except possibly the times
// of managed fields, which are then restored: a write that changes nothing is not stored.
func (s *Service) encodeChange(kind *registry.Kind, stored *kv.Version, obj, old registry.Object) (value []byte, same bool, err error) {
	before, err := s.open(kind, stored)
	if err != nil {
		return nil, false, err
	}
	now, then := obj.GetManagedFields(), old.GetManagedFields()
	if managed.SameButTimes(now, then) {
		obj.SetManagedFields(then)
		after, err := kind.Store(obj)
		if err != nil {
			return nil, false, err
		}
		if bytes.Equal(before, after) && !s.stale(kind, stored) {
			return after, true, nil
		}
		obj.SetManagedFields(now)
	}
	after, err := kind.Store(obj)
	if err != nil {
		return nil, false, err
	}
	if value, err = s.seal(kind, stored.Key, after); err != nil {
		return nil, false, err
	}
	return value, bytes.Equal(before, after) && !s.stale(kind, stored), nil
}

// stale says whether a value would be encrypted with another key now: then even a write that changes nothing is stored.
func (s *Service) stale(kind *registry.Kind, stored *kv.Version) bool {
	return kind.Sealed && s.sealer.Stale(stored.Value)
}

// remove deletes the stored version and returns the object's last state.
func (s *Service) remove(ctx context.Context, r *Request, view kv.View, stored *kv.Version, obj, old registry.Object, joined []joinedOp) (registry.Object, error) {
	freed, err := s.allocate(r, view, nil, obj)
	if err != nil {
		return nil, err
	}
	charged, err := s.charge(ctx, r, view, old, nil)
	if err != nil {
		return nil, err
	}
	if r.DryRun {
		return obj, nil
	}
	joined = append(joined, charged...)
	ops := append([]kv.Op{{Key: stored.Key, Delete: true, Cond: kv.AtRevision, Revision: stored.ModRevision}}, freed...)
	ops = withJoined(append(ops, s.keepDeleted(r, view, stored, old)...), joined)
	result, err := s.propose(ctx, r, ops)
	if err != nil {
		return nil, err
	}
	if result.Failed != nil {
		return nil, joinedFailure(result.Failed, len(ops), joined)
	}
	obj.SetResourceVersion(FormatRevision(result.Revisions[0]))
	return obj, nil
}
