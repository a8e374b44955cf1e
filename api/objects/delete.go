package objects

//lint:file-ignore SA1019 clients may still send deprecated options, and the API must honour them

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"golang.org/x/sync/errgroup"

	"github.com/kontiki/kontiki/api/objects/managed"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/kv"
)

// Delete deletes an object, or starts its deletion. gone means that the object no longer exists; otherwise obj is the object
// waiting for its grace period, its finalizers or the removal of its content.
func (s *Service) Delete(ctx context.Context, r *Request, options *metav1.DeleteOptions) (obj registry.Object, gone bool, err error) {
	return s.delete(ctx, r, options, false)
}

// delete is Delete; admitted means that admission does not see the deletion.
func (s *Service) delete(ctx context.Context, r *Request, options *metav1.DeleteOptions, admitted bool) (obj registry.Object, gone bool, err error) {
	if err := r.serves("delete"); err != nil {
		return nil, false, err
	}
	r = r.withMemo()
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if err := checkDeleteOptions(options); err != nil {
		return nil, false, err
	}
	once := s.deleteOnce
	if ptr.Deref(options.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		if err := s.authorize(ctx, r, r.Attributes("unsafe-delete-ignore-read-errors")); err != nil {
			return nil, false, err
		}
		once = s.deleteUnreadable
	}
	err = s.attempt(ctx, func(view kv.View) (err error) {
		obj, gone, err = once(ctx, r, options, view, admitted)
		return err
	})
	if errors.Is(err, errRetry) {
		err = conflict(r)
	}
	if err != nil {
		return nil, false, err
	}
	return obj, gone, nil
}

func (s *Service) deleteOnce(ctx context.Context, r *Request, options *metav1.DeleteOptions, view kv.View, admitted bool) (registry.Object, bool, error) {
	stored, ok := view.Get(r.Kind.Key(r.Namespace, r.Name))
	if !ok {
		return nil, false, notFound(r)
	}
	old, err := s.Decode(r.Kind, stored)
	if err != nil {
		return nil, false, apierrors.NewInternalError(err)
	}
	if err := checkPreconditions(r, options.Preconditions, old); err != nil {
		return nil, false, err
	}
	attributes := &Attributes{Request: r, Operation: OpDelete, ObjectKind: r.Kind.GVK(), Old: old, DeleteOptions: options, View: view}
	if !admitted {
		if err := s.mutate(ctx, attributes); err != nil {
			return nil, false, err
		}
		if err := s.validate(ctx, attributes); err != nil {
			return nil, false, err
		}
	}
	obj := old.DeepCopyObject().(registry.Object)
	s.markDeleted(r.Kind, obj, options)
	obj.SetFinalizers(finalizersFor(r.Kind, obj.GetFinalizers(), options))
	if r.Kind.BeginDelete != nil && old.GetDeletionTimestamp() == nil {
		r.Kind.BeginDelete(obj)
	}
	if expired(obj) {
		obj, err = s.remove(ctx, r, view, stored, obj, old, attributes.joined)
		return obj, err == nil, err
	}
	obj, err = s.commit(ctx, r, view, stored, obj, old, attributes.joined)
	return obj, false, err
}

// deleteUnreadable deletes an object that cannot be decrypted or decoded, and refuses one that can. Neither preconditions nor admission,
// finalizers, allocators and quotas can see such an object: only its key is removed. It returns an object with nothing but the name.
func (s *Service) deleteUnreadable(ctx context.Context, r *Request, _ *metav1.DeleteOptions, view kv.View, _ bool) (registry.Object, bool, error) {
	stored, ok := view.Get(r.Kind.Key(r.Namespace, r.Name))
	if !ok {
		return nil, false, notFound(r)
	}
	if _, err := s.Decode(r.Kind, stored); err == nil {
		return nil, false, apierrors.NewConflict(r.Kind.GroupResource(), r.Name, errReadable)
	}
	obj := managed.Empty(r.Kind)
	obj.SetNamespace(r.Namespace)
	obj.SetName(r.Name)
	if r.DryRun {
		return obj, true, nil
	}
	result, err := s.propose(ctx, r, []kv.Op{{Key: stored.Key, Delete: true, Cond: kv.AtRevision, Revision: stored.ModRevision}})
	if err != nil {
		return nil, false, err
	}
	if result.Failed != nil {
		return nil, false, errRetry
	}
	obj.SetResourceVersion(FormatRevision(result.Revisions[0]))
	return obj, true, nil
}

var errReadable = errors.New("unsafe deletion is not allowed because the object is decodable from storage")

func checkDeleteOptions(options *metav1.DeleteOptions) error {
	if errs := metav1validation.ValidateDeleteOptions(options); len(errs) > 0 {
		return Invalid(deleteOptionsKind, "", errs)
	}
	return nil
}

var deleteOptionsKind = metav1.SchemeGroupVersion.WithKind("DeleteOptions").GroupKind()

func checkPreconditions(r *Request, p *metav1.Preconditions, old registry.Object) error {
	if p == nil {
		return nil
	}
	resource := r.Kind.GroupResource()
	if p.UID != nil && *p.UID != old.GetUID() {
		return InField("preconditions.uid", apierrors.NewConflict(resource, r.Name, fmt.Errorf(
			"the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, old.GetUID())))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != old.GetResourceVersion() {
		return InField("preconditions.resourceVersion", apierrors.NewConflict(resource, r.Name, fmt.Errorf(
			"the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, old.GetResourceVersion())))
	}
	return nil
}

// markDeleted sets the deletion timestamp and grace period. The grace period of a deletion in progress can only be shortened (as in
// k8s.io/apiserver/pkg/registry/rest BeforeDelete).
func (s *Service) markDeleted(kind *registry.Kind, obj registry.Object, options *metav1.DeleteOptions) {
	now := s.timestamp()
	var grace int64
	if kind.DeleteGrace != nil {
		grace = kind.DeleteGrace(obj, options)
	}
	if begun := obj.GetDeletionTimestamp(); begun != nil {
		left := obj.GetDeletionGracePeriodSeconds()
		if left == nil || *left == 0 {
			return
		}
		if options.GracePeriodSeconds == nil || grace >= *left {
			if grace != 0 { // an unscheduled or finished pod is removed at once
				return
			}
		}
		end := secondsFrom(*begun, grace-*left)
		if end.Before(&now) {
			end = &now
			if grace != 0 {
				grace = 1
			}
		}
		obj.SetDeletionTimestamp(end)
		obj.SetDeletionGracePeriodSeconds(&grace)
		return
	}
	obj.SetDeletionTimestamp(secondsFrom(now, grace))
	obj.SetDeletionGracePeriodSeconds(&grace)
	if obj.GetGeneration() > 0 {
		obj.SetGeneration(obj.GetGeneration() + 1)
	}
	if ns, ok := obj.(*corev1.Namespace); ok {
		ns.DeletionGracePeriodSeconds = nil
		ns.Status.Phase = corev1.NamespaceTerminating
	}
}

// finalizersFor adds or removes the garbage collector's finalizers according to the propagation policy.
func finalizersFor(kind *registry.Kind, have []string, options *metav1.DeleteOptions) []string {
	policy := metav1.DeletePropagationBackground
	switch {
	case options.PropagationPolicy != nil:
		policy = *options.PropagationPolicy
	case options.OrphanDependents != nil:
		if *options.OrphanDependents {
			policy = metav1.DeletePropagationOrphan
		}
	case slices.Contains(have, metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case slices.Contains(have, metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	case kind.OrphanByDefault:
		policy = metav1.DeletePropagationOrphan
	}
	rest := without(have, metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents)
	switch policy {
	case metav1.DeletePropagationOrphan:
		return append(rest, metav1.FinalizerOrphanDependents)
	case metav1.DeletePropagationForeground:
		return append(rest, metav1.FinalizerDeleteDependents)
	}
	return rest
}

// concurrentDeletes is how many objects of a collection are deleted at a time: enough to fill the log's batches.
const concurrentDeletes = 16

// DeleteCollection deletes every object that the list options select, and returns those that it deleted. An object that disappears
// meanwhile is not an error.
func (s *Service) DeleteCollection(ctx context.Context, r *Request, options *metav1.DeleteOptions, list ListOptions) ([]*kv.Version, error) {
	if err := r.serves("deletecollection"); err != nil {
		return nil, err
	}
	if options != nil && ptr.Deref(options.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		return nil, Invalid(deleteOptionsKind, "", field.ErrorList{field.Invalid(field.NewPath("ignoreStoreReadErrorWithClusterBreakingPotential"), true,
			"is not allowed with DELETECOLLECTION, try again after removing the option")})
	}
	page, err := s.List(ctx, r, list)
	if err != nil {
		return nil, err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrentDeletes)
	for _, v := range page.Items {
		group.Go(func() error {
			one := *r
			one.Warn = nil // not safe for concurrent use
			one.Namespace, one.Name = r.Kind.SplitKey(v.Key)
			err := contain.Run(func() error {
				_, _, err := s.Delete(ctx, &one, options.DeepCopy())
				return err
			})
			if apierrors.IsNotFound(err) {
				return nil
			}
			return err
		})
	}
	return page.Items, group.Wait()
}
