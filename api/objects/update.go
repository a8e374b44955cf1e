package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// change makes the new object from a copy of the stored one (nil when there is none and creation is allowed).
type change func(old registry.Object) (registry.Object, error)

// modification is how a change is carried out.
type modification struct {
	change change
	// create lets a change make the object when it does not exist.
	create bool
	// applied says that managed fields are already right (server-side apply).
	applied bool
	// strategy is used in place of the subresource's own (binding, scale); nil for that.
	strategy *registry.Strategy
}

// subresource is the one whose rules hold.
func (m modification) subresource(r *Request) string {
	if m.strategy != nil {
		return ""
	}
	return r.Subresource
}

// Update replaces an object (or, through a subresource, that part of it). created says that it did not exist before.
func (s *Service) Update(ctx context.Context, r *Request, obj registry.Object) (result registry.Object, created bool, err error) {
	if obj.GetName() == "" && r.Name != "" {
		obj.SetName(r.Name)
	}
	if obj.GetName() != r.Name {
		return nil, false, apierrors.NewBadRequest(fmt.Sprintf("the name of the object (%s) does not match the name on the URL (%s)", obj.GetName(), r.Name))
	}
	if err := checkScope(r, obj); err != nil {
		return nil, false, err
	}
	return s.modify(ctx, r, modification{
		create: r.Kind.AllowCreateOnUpdate && r.Subresource == "",
		change: func(old registry.Object) (registry.Object, error) {
			if obj.GetResourceVersion() == "" && old != nil && !r.Kind.AllowUnconditionalUpdate {
				return nil, apierrors.NewInvalid(r.Kind.GVK().GroupKind(), r.Name, field.ErrorList{
					field.Invalid(field.NewPath("metadata").Child("resourceVersion"), "", "must be specified for an update")})
			}
			return obj.DeepCopyObject().(registry.Object), nil
		},
	})
}

// modify carries out a change against the stored object, preparing it again whenever the object moved on meanwhile.
// The first attempt works on the local view as it is: the command's precondition keeps it right, and whatever is
// refused on a view that may be behind is decided again on a consistent one.
func (s *Service) modify(ctx context.Context, r *Request, m modification) (registry.Object, bool, error) {
	strategy, ok := r.Kind.StrategyFor(r.Subresource)
	if m.strategy != nil {
		strategy, ok = m.strategy, true
	}
	if !ok {
		return nil, false, apierrors.NewNotFound(r.Kind.GroupResource(), r.Name+"/"+r.Subresource)
	}
	view := s.store.View()
	for attempt := 0; ; attempt++ {
		obj, created, err := s.modifyOnce(ctx, r, strategy, m, view)
		if err == nil {
			return obj, created, nil
		}
		retry := errors.Is(err, errRetry)
		var stale *staleError
		if errors.As(err, &stale) {
			err = stale.err
		}
		if retry && attempt >= maxAttempts {
			return nil, false, conflict(r)
		}
		if !retry && attempt > 0 || ctx.Err() != nil {
			return nil, false, err
		}
		fresh, viewErr := s.readView(ctx)
		if viewErr != nil {
			return nil, false, viewErr
		}
		if !retry && fresh.Revision() == view.Revision() {
			return nil, false, err
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
		if obj.GetUID() != "" {
			return nil, false, apierrors.NewConflict(r.Kind.GroupResource(), r.Name,
				fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: ", obj.GetUID()))
		}
		obj.SetResourceVersion("")
		obj, err = s.create(ctx, r, obj, m.applied)
		if apierrors.IsAlreadyExists(err) {
			return nil, false, errRetry
		}
		return obj, true, err
	}
	old, err := s.decodeFresh(r.Kind, stored)
	if err != nil {
		return nil, false, apierrors.NewInternalError(err)
	}
	obj, err := m.change(old.DeepCopyObject().(registry.Object))
	if err != nil {
		return nil, false, err
	}
	if obj, err = s.prepare(ctx, r, strategy, m, view, obj, old); err != nil {
		return nil, false, err
	}
	obj, err = s.commit(ctx, r, view, stored, obj, old)
	return obj, false, err
}

// prepare brings a changed object through defaulting, admission and validation.
func (s *Service) prepare(ctx context.Context, r *Request, strategy *registry.Strategy, m modification, view kv.View, obj, old registry.Object) (registry.Object, error) {
	if version := obj.GetResourceVersion(); version != "" && version != old.GetResourceVersion() {
		return nil, conflict(r)
	}
	if uid := obj.GetUID(); uid != "" && uid != old.GetUID() {
		return nil, apierrors.NewConflict(r.Kind.GroupResource(), r.Name,
			fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, old.GetUID()))
	}
	registry.Scheme.Default(obj)
	obj.GetObjectKind().SetGroupVersionKind(r.Kind.GVK())
	keepMeta(obj, old)
	attributes := &Attributes{Request: r, Operation: OpUpdate, Object: obj, Old: old, View: view}
	if err := s.mutate(ctx, attributes); err != nil {
		return nil, err
	}
	internal, err := r.Kind.ToInternal(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	oldInternal, err := r.Kind.ToInternal(old.DeepCopyObject())
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if strategy.PrepareUpdate != nil {
		strategy.PrepareUpdate(internal, oldInternal)
	}
	if obj, err = r.Kind.FromInternal(internal); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	// How an object is deleted is decided by deletions alone, whatever a strategy did.
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	if !m.applied {
		if obj, err = s.track(r, obj, old); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	keepTimestamps(obj, old)
	if errs := r.Kind.ValidateChange(ctx, strategy, m.subresource(r), internal, oldInternal, obj, old); len(errs) > 0 {
		return nil, apierrors.NewInvalid(r.Kind.GVK().GroupKind(), r.Name, errs)
	}
	attributes.Object = obj
	return obj, s.validate(ctx, attributes)
}

// keepMeta puts back the metadata that no update may change.
func keepMeta(obj, old registry.Object) {
	obj.SetName(old.GetName())
	obj.SetNamespace(old.GetNamespace())
	obj.SetUID(old.GetUID())
	obj.SetResourceVersion(old.GetResourceVersion())
	obj.SetCreationTimestamp(old.GetCreationTimestamp())
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	obj.SetGeneration(old.GetGeneration())
	obj.SetSelfLink("")
	obj.SetGenerateName(old.GetGenerateName())
}

// commit stores obj in place of the stored version, removes it when this was the last step of its deletion, or does
// nothing when nothing changed.
func (s *Service) commit(ctx context.Context, r *Request, view kv.View, stored *kv.Version, obj, old registry.Object) (registry.Object, error) {
	if expired(obj) {
		return s.remove(ctx, r, view, stored, obj)
	}
	allocated, err := s.allocate(r, view, obj, old)
	if err != nil {
		return nil, err
	}
	value, err := s.encode(r.Kind, stored.Key, obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if err := checkSize(value); err != nil {
		return nil, err
	}
	if same, err := s.unchanged(r.Kind, stored, value); err != nil {
		return nil, apierrors.NewInternalError(err)
	} else if same || r.DryRun {
		return obj, nil
	}
	ops := append([]kv.Op{{Key: stored.Key, Value: value, Cond: kv.AtRevision, Revision: stored.ModRevision}}, allocated...)
	result, err := s.propose(ctx, r, ops)
	if err != nil {
		return nil, err
	}
	if result.Failed != nil {
		return nil, errRetry
	}
	obj.SetResourceVersion(FormatRevision(result.Revisions[0]))
	return obj, nil
}

// unchanged compares plain bytes: a sealed value differs each time it is sealed.
func (s *Service) unchanged(kind *registry.Kind, stored *kv.Version, value []byte) (bool, error) {
	if !kind.Sealed {
		return bytes.Equal(stored.Value, value), nil
	}
	before, err := s.sealer.Open(stored.Key, stored.Value)
	if err != nil {
		return false, err
	}
	after, err := s.sealer.Open(stored.Key, value)
	if err != nil {
		return false, err
	}
	return bytes.Equal(before, after), nil
}

// remove deletes the stored version for good. The answer is the object as it last was.
func (s *Service) remove(ctx context.Context, r *Request, view kv.View, stored *kv.Version, obj registry.Object) (registry.Object, error) {
	freed, err := s.allocate(r, view, nil, obj)
	if err != nil {
		return nil, err
	}
	if r.DryRun {
		return obj, nil
	}
	ops := append([]kv.Op{{Key: stored.Key, Delete: true, Cond: kv.AtRevision, Revision: stored.ModRevision}}, freed...)
	result, err := s.propose(ctx, r, ops)
	if err != nil {
		return nil, err
	}
	if result.Failed != nil {
		return nil, errRetry
	}
	obj.SetResourceVersion(FormatRevision(result.Revisions[0]))
	return obj, nil
}
