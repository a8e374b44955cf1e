package devices

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/framework"
)

const (
	// attempts is how often a claim is written that others write too.
	attempts = 5
	// writeTimeout limits a write. It is carried out even if the pod is not to be bound any more: its outcome must be known.
	writeTimeout = 30 * time.Second
)

// Why devices are not ready, in upstream's words.
var (
	errBindingTimeout = errors.New("device binding timeout")
	errBindingFailed  = errors.New("device binding failed")
)

// PreBind stores the allocations and that they are reserved for the pod, and waits for the conditions that devices require.
func (f *podClaims) PreBind(ctx context.Context, node string) error {
	for _, c := range f.claims {
		if c.claim.Name == unmadeName {
			if c.decided == nil {
				continue // a device plugin has all that is needed on this node
			}
			if err := f.create(ctx, c); err != nil {
				return err
			}
		}
		if resourceclaim.IsReservedForPod(f.pod, c.claim, false) {
			if !f.plugin.State.doubtful(c.claim) {
				continue
			}
			if err := f.release(ctx, c); err != nil {
				return err
			}
		}
		if err := f.store(ctx, c); err != nil {
			return err
		}
		if f.extended != nil && c == f.extended.podClaim {
			if err := f.report(ctx, c); err != nil {
				return err
			}
		}
	}
	return f.awaitReady(ctx, node)
}

func write(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
}

// create creates the claim for extended resources.
func (f *podClaims) create(ctx context.Context, c *podClaim) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	ctx, cancel := write(ctx)
	defer cancel()
	claim := f.taken.extended.DeepCopy()
	claim.Name, claim.UID = "", ""
	claim.Finalizers = []string{resourcev1.Finalizer}
	created, err := client.Create(ctx, f.plugin.State.Client, claim)
	if err != nil {
		return fmt.Errorf("create claim for extended resources %s/%s: %w", claim.Namespace, claim.GenerateName, err)
	}
	f.plugin.State.expects(created.UID, c.uid)
	c.claim, c.made = created, true
	return nil
}

// release writes a claim without the pod's reservation, which is then stored again. The claim gets a new version by that, so an earlier write that
// was conditional on the present one, and may still be on its way, cannot take the allocation away after the pod is bound.
func (f *podClaims) release(ctx context.Context, c *podClaim) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	ctx, cancel := write(ctx)
	defer cancel()
	claim := c.claim.DeepCopy()
	f.unreserve(claim)
	updated, err := client.UpdateStatus(ctx, f.plugin.State.Client, claim)
	if err != nil {
		return fmt.Errorf("renew reservation of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	c.claim = updated
	return nil
}

// unreserve removes the pod from those that a claim is reserved for. It returns false if it is not among them.
func (f *podClaims) unreserve(claim *resourcev1.ResourceClaim) bool {
	before := len(claim.Status.ReservedFor)
	claim.Status.ReservedFor = slices.DeleteFunc(claim.Status.ReservedFor, func(ref resourcev1.ResourceClaimConsumerReference) bool { return ref.UID == f.pod.UID })
	return len(claim.Status.ReservedFor) < before
}

// store writes a claim's allocation, if it was decided now, and the pod as one that it is reserved for.
func (f *podClaims) store(ctx context.Context, c *podClaim) error {
	name := c.claim.Namespace + "/" + c.claim.Name
	allocation := c.decided
	if allocation == nil {
		allocation = c.claim.Status.Allocation
	}
	var err error
	for range attempts {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err = f.storeOnce(ctx, c, name); err == nil || !apierrors.IsConflict(err) {
			return err
		}
		current, ok := client.Get[*resourcev1.ResourceClaim](f.plugin.State.Client.View(), c.claim.Namespace, c.claim.Name)
		if !ok || current.UID != c.claim.UID {
			return fmt.Errorf("get updated claim %s after conflict: resourceclaim %q not found", name, c.claim.Name)
		}
		// The node was chosen for this allocation. If another pod has stored it and lost it again since, its devices may be others' already.
		switch now := current.Status.Allocation; {
		case now == nil:
			return fmt.Errorf("claim %s got changed in the meantime", name)
		case !apiequality.Semantic.DeepEqual(now.Devices.Results, allocation.Devices.Results):
			return fmt.Errorf("claim %s got allocated elsewhere in the meantime", name)
		}
		c.claim = current
	}
	return err
}

func (f *podClaims) storeOnce(ctx context.Context, c *podClaim, name string) error {
	ctx, cancel := write(ctx)
	defer cancel()
	claim := c.claim.DeepCopy()
	stored := claim.Status.Allocation
	switch {
	case claim.DeletionTimestamp != nil:
		return fmt.Errorf("claim %s got deleted in the meantime", name)
	case c.decided == nil && stored == nil:
		return fmt.Errorf("claim %s got deallocated elsewhere in the meantime", name)
	case c.decided != nil && stored != nil && !apiequality.Semantic.DeepEqual(stored.Devices.Results, c.decided.Devices.Results):
		return fmt.Errorf("claim %s got allocated elsewhere in the meantime", name)
	case stored == nil:
		if !slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
			claim.Finalizers = append(claim.Finalizers, resourcev1.Finalizer)
			updated, err := client.Update(ctx, f.plugin.State.Client, claim)
			if err != nil {
				return fmt.Errorf("add finalizer to claim %s: %w", name, err)
			}
			c.claim = updated
			claim = updated.DeepCopy()
		}
		claim.Status.Allocation = c.decided.DeepCopy()
	}
	if !resourceclaim.IsReservedForPod(f.pod, claim, false) {
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: f.pod.Name, UID: f.pod.UID})
	}
	if stored == nil && claim.Status.Allocation.AllocationTimestamp == nil { // what is stored cannot be changed
		claim.Status.Allocation.AllocationTimestamp = new(metav1.Now())
	}
	updated, err := client.UpdateStatus(ctx, f.plugin.State.Client, claim)
	switch {
	case err == nil:
		c.claim, c.reserved = updated, true
		return nil
	case stored != nil:
		return fmt.Errorf("add reservation to claim %s: %w", name, err)
	}
	if !refused(err) {
		c.unsure = versionOf(claim)
	}
	return fmt.Errorf("add allocation and reservation to claim %s: %w", name, err)
}

// refused says whether it is certain that a write was not and will not be carried out. The service is unavailable for writes that were
// refused because there is no leader, the disks are full, or another scheduler has begun.
func refused(err error) bool {
	return apierrors.IsServiceUnavailable(err) || apierrors.IsConflict(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err) || apierrors.IsForbidden(err) || apierrors.IsBadRequest(err)
}

// report writes into the pod's status which containers get what of the claim for extended resources.
func (f *podClaims) report(ctx context.Context, c *podClaim) error {
	ctx, cancel := write(ctx)
	defer cancel()
	var err error
	for range attempts {
		current, ok := client.Get[*corev1.Pod](f.plugin.State.Client.View(), f.pod.Namespace, f.pod.Name)
		if !ok || current.UID != f.pod.UID {
			return fmt.Errorf("update pod %s/%s ExtendedResourceClaimStatus: pod %q not found", f.pod.Namespace, f.pod.Name, f.pod.Name)
		}
		current = current.DeepCopy()
		current.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: c.claim.Name, RequestMappings: f.taken.mappings}
		if _, err = client.UpdateStatus(ctx, f.plugin.State.Client, current); err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) {
			break
		}
	}
	return fmt.Errorf("update pod %s/%s ExtendedResourceClaimStatus: %w", f.pod.Namespace, f.pod.Name, err)
}

// awaitReady waits until all devices have the conditions that they require before the pod is bound.
func (f *podClaims) awaitReady(ctx context.Context, node string) error {
	needed := func(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.BindingConditions) > 0 }
	if !slices.ContainsFunc(f.claims, func(c *podClaim) bool {
		return c.claim.Status.Allocation != nil && slices.ContainsFunc(c.claim.Status.Allocation.Devices.Results, needed)
	}) {
		return nil
	}
	s := f.plugin.State
	s.Recorder.Eventf(f.pod, corev1.EventTypeNormal, "BindingConditionsPending", "waiting for binding conditions for device on node %s", node)
	ctx, cancel := context.WithTimeoutCause(ctx, f.plugin.BindingTimeout, errBindingTimeout)
	defer cancel()
	for {
		changed := s.changed.Next()
		overdue := f.plugin.BindingTimeout // the wait for the claim that was allocated first ends first
		done := true
		for _, c := range f.claims {
			if c.claim.Name == unmadeName {
				continue
			}
			current, ok := client.Get[*resourcev1.ResourceClaim](s.Client.View(), c.claim.Namespace, c.claim.Name)
			if !ok || current.UID != c.claim.UID {
				return fmt.Errorf("could not find ResourceClaim %q", c.claim.Namespace+"/"+c.claim.Name)
			}
			c.claim = current
			ready, err := ready(current)
			if err != nil {
				return err
			}
			if ready {
				continue
			}
			done = false
			now := time.Now()
			if f.plugin.overdue(current, now) {
				return fmt.Errorf("%w: claim=%s", errBindingTimeout, current.Name)
			}
			if a := current.Status.Allocation; a != nil && a.AllocationTimestamp != nil {
				overdue = min(overdue, a.AllocationTimestamp.Add(f.plugin.BindingTimeout).Sub(now)+time.Second)
			}
		}
		if done {
			return nil
		}
		timer := time.NewTimer(overdue)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return cmp.Or(context.Cause(ctx), ctx.Err())
		}
		timer.Stop()
	}
}

// ready says whether all devices of an allocated claim have the conditions that they require. It returns an error if one has failed.
func ready(c *resourcev1.ResourceClaim) (bool, error) {
	if c.Status.Allocation == nil {
		return false, nil
	}
	for i := range c.Status.Allocation.Devices.Results {
		r := &c.Status.Allocation.Devices.Results[i]
		if len(r.BindingConditions) == 0 {
			continue
		}
		k := slices.IndexFunc(c.Status.Devices, func(d resourcev1.AllocatedDeviceStatus) bool {
			return d.Device == r.Device && d.Driver == r.Driver && d.Pool == r.Pool
		})
		if k < 0 {
			return false, nil
		}
		conditions := c.Status.Devices[k].Conditions
		for _, name := range r.BindingFailureConditions {
			if failed := meta.FindStatusCondition(conditions, name); failed != nil && failed.Status == metav1.ConditionTrue {
				return false, fmt.Errorf("%w: claim=%s, reason=%s, message=%q", errBindingFailed, c.Name, failed.Reason, failed.Message)
			}
		}
		for _, name := range r.BindingConditions {
			if !meta.IsStatusConditionTrue(conditions, name) {
				return false, nil
			}
		}
	}
	return true, nil
}

// overdue says whether the conditions of a claim's devices have been awaited for too long.
func (d *DynamicResources) overdue(c *resourcev1.ResourceClaim, now time.Time) bool {
	a := c.Status.Allocation
	if a == nil || a.AllocationTimestamp == nil {
		return false
	}
	required := slices.ContainsFunc(a.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.BindingConditions) > 0 })
	return required && a.AllocationTimestamp.Add(d.BindingTimeout).Before(now)
}

// Undo takes back what was written for a pod that is not bound: its reservations, and the claim for its extended resources. Allocations
// stay, as upstream, for the next attempt. It does nothing if the pod was bound after all, which a binding with an unknown outcome may be.
func (f *podClaims) Undo(ctx context.Context) error {
	if pod, ok := client.Get[*corev1.Pod](f.plugin.State.Client.View(), f.pod.Namespace, f.pod.Name); ok && pod.UID == f.pod.UID && pod.Spec.NodeName != "" {
		return nil
	}
	var errs []error
	for _, c := range f.claims {
		switch {
		case c.made:
			errs = append(errs, f.plugin.State.deleteClaim(ctx, c.claim))
		case c.reserved:
			errs = append(errs, f.plugin.State.change(ctx, c.claim, true, f.unreserve))
		}
	}
	return errors.Join(errs...)
}

// change changes the present version of a claim, or its status, if it still exists and edit says that there is something to change.
func (s *State) change(ctx context.Context, c *resourcev1.ResourceClaim, status bool, edit func(*resourcev1.ResourceClaim) bool) (err error) {
	for range attempts {
		current, ok := client.Get[*resourcev1.ResourceClaim](s.Client.View(), c.Namespace, c.Name)
		if !ok || current.UID != c.UID {
			return nil
		}
		if current = current.DeepCopy(); !edit(current) {
			return nil
		}
		if status {
			_, err = client.UpdateStatus(ctx, s.Client, current)
		} else {
			_, err = client.Update(ctx, s.Client, current)
		}
		if err != nil && !refused(err) {
			s.doubts.Store(c.UID, versionOf(current))
		}
		if !apierrors.IsConflict(err) {
			break
		}
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// doubtful says whether a write may still be carried out that takes something from this version of a claim.
func (s *State) doubtful(c *resourcev1.ResourceClaim) bool {
	version, ok := s.doubts.Load(c.UID)
	return ok && version == versionOf(c)
}

// deleteClaim deletes a claim for extended resources, with the finalizer that the scheduler gave it.
func (s *State) deleteClaim(ctx context.Context, c *resourcev1.ResourceClaim) error {
	err := s.change(ctx, c, false, func(claim *resourcev1.ResourceClaim) bool {
		before := len(claim.Finalizers)
		claim.Finalizers = slices.DeleteFunc(claim.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		return len(claim.Finalizers) < before
	})
	if err != nil {
		return fmt.Errorf("update resourceclaim %s/%s: %w", c.Namespace, c.Name, err)
	}
	if err := s.Client.Delete(ctx, c, client.IfUID(c.UID)); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete resourceclaim %s/%s: %w", c.Namespace, c.Name, err)
	}
	return nil
}

// PostFilter gives up an allocation that nobody uses and that keeps the pod from every node. One at a time: that may be enough.
func (d *DynamicResources) PostFilter(_ *framework.Cluster, _ *framework.PodInfo, e *framework.Evaluation, _ *framework.Refusal) *framework.Nomination {
	f, ok := e.FilterOf(Name).(*podClaims)
	if !ok {
		return nil
	}
	for _, c := range f.claims {
		if f.blocked[c] && f.unused(c.claim) && (f.extended == nil || c != f.extended.podClaim) {
			return d.giveUp(c, "deallocation of ResourceClaim completed", func(ctx context.Context) error {
				return d.State.change(ctx, c.claim, true, func(claim *resourcev1.ResourceClaim) bool {
					if claim.Status.Allocation == nil || !f.unused(claim) {
						return false
					}
					claim.Status.ReservedFor, claim.Status.Allocation, claim.Status.Devices = nil, nil, nil
					return true
				})
			})
		}
	}
	if f.extended != nil && f.extended.old {
		return d.giveUp(f.extended.podClaim, "deletion of ResourceClaim completed", func(ctx context.Context) error {
			return d.State.deleteClaim(ctx, f.extended.claim)
		})
	}
	return nil
}

// giveUp keeps pods from using a claim while its allocation is being taken away: a pod that has reserved it would be bound without looking
// at it again.
func (d *DynamicResources) giveUp(c *podClaim, message string, do func(context.Context) error) *framework.Nomination {
	d.State.givenUp.Insert(c.uid)
	return &framework.Nomination{Message: message, Do: do, Done: func() {
		d.State.givenUp.Delete(c.uid)
		without := c.claim.DeepCopy()
		without.Status.Allocation = nil
		d.State.Freed(c.claim, without) // the pods that were kept from it
	}}
}

// unused says whether no other pod has reserved a claim.
func (f *podClaims) unused(c *resourcev1.ResourceClaim) bool {
	return len(c.Status.ReservedFor) == 0 || len(c.Status.ReservedFor) == 1 && c.Status.ReservedFor[0].UID == f.pod.UID
}
