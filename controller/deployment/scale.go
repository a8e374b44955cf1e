package deployment

import (
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
)

// scale scales the sets to the deployment's size without rolling: only the active one (or the newest) or, during a roll-out, all
// active ones in proportion to their sizes.
func (ro *rollout) scale() error {
	if only := ro.activeOrLatest(); only != nil {
		return ro.resize(only, *ro.d.Spec.Replicas)
	}
	if ro.saturated() {
		for _, rs := range ro.active(ro.old()) {
			if err := ro.resize(rs, 0); err != nil {
				return err
			}
		}
		return nil
	}
	if ro.d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		return ro.scaleInProportion()
	}
	return nil
}

// activeOrLatest returns the only active set, or the current (else the newest) one if none is active; nil if several are.
func (ro *rollout) activeOrLatest() *appsv1.ReplicaSet {
	switch active := ro.active(ro.sets); len(active) {
	case 0:
		if ro.current != nil {
			return ro.current
		}
		if n := len(ro.sets); n > 0 {
			return ro.sets[n-1]
		}
		return nil
	case 1:
		return active[0]
	}
	return nil
}

// saturated says whether the current set has all of the deployment's pods, and all are available.
func (ro *rollout) saturated() bool {
	if ro.current == nil {
		return false
	}
	desired, ok := annotationNumber(ro.current, desiredAnnotation)
	want := *ro.d.Spec.Replicas
	return ok && desired == want && *ro.current.Spec.Replicas == want && ro.current.Status.AvailableReplicas == want
}

func (ro *rollout) scaleInProportion() error {
	active := ro.active(ro.sets)
	surge, _ := ro.limits()
	allowed := int32(0)
	if *ro.d.Spec.Replicas > 0 {
		allowed = *ro.d.Spec.Replicas + surge
	}
	change := allowed - total(active)
	// Larger sets first; among equals, the newer ones first when growing and the older ones when shrinking.
	slices.SortStableFunc(active, func(a, b *appsv1.ReplicaSet) int {
		if *a.Spec.Replicas != *b.Spec.Replicas {
			return int(*b.Spec.Replicas - *a.Spec.Replicas)
		}
		if change > 0 {
			return byAge(b, a)
		}
		return byAge(a, b)
	})
	sizes := make([]int32, len(active))
	done := int32(0)
	for i, rs := range active {
		sizes[i] = *rs.Spec.Replicas
		if change != 0 {
			part := ro.share(rs, change, done)
			sizes[i] += part
			done += part
		}
	}
	for i, rs := range active {
		if i == 0 && change != 0 {
			sizes[i] = max(sizes[i]+change-done, 0)
		}
		if err := ro.resize(rs, sizes[i]); err != nil {
			return err
		}
	}
	return nil
}

// share returns a set's part of a change of size, of which done was already given to others.
func (ro *rollout) share(rs *appsv1.ReplicaSet, change, done int32) int32 {
	if *rs.Spec.Replicas == 0 || change == done {
		return 0
	}
	fraction := ro.fraction(rs)
	if change > 0 {
		return min(fraction, change-done)
	}
	return max(fraction, change-done)
}

// fraction returns by how much a set grows or shrinks to keep its proportion.
func (ro *rollout) fraction(rs *appsv1.ReplicaSet) int32 {
	if *ro.d.Spec.Replicas == 0 {
		return -*rs.Spec.Replicas
	}
	surge, _ := ro.limits()
	before, ok := annotationNumber(rs, maxAnnotation)
	if !ok || before == 0 {
		if before = ro.d.Status.Replicas; before == 0 {
			return 0
		}
	}
	size := float64(*rs.Spec.Replicas) * float64(*ro.d.Spec.Replicas+surge) / float64(before)
	return int32(math.Round(size)) - *rs.Spec.Replicas
}
