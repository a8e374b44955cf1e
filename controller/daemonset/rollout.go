package daemonset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// surges says whether a node may have two pods during a roll-out.
func (u *update) surges() bool {
	surge, err := u.scaled(1, func(r *appsv1.RollingUpdateDaemonSet) *intstr.IntOrString { return r.MaxSurge })
	return err == nil && surge > 0
}

// scaled returns a number of the roll-out's configuration, which may be a percentage of the number of nodes.
func (u *update) scaled(nodes int, field func(*appsv1.RollingUpdateDaemonSet) *intstr.IntOrString) (int, error) {
	rolling := u.ds.Spec.UpdateStrategy.RollingUpdate
	if u.ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType || rolling == nil {
		return 0, nil
	}
	return intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(field(rolling), intstr.FromInt32(0)), nodes, true)
}

// roll returns the next step of a roll-out.
func (u *update) roll() (change, error) {
	desired := 0
	for _, name := range u.names {
		if u.want.on(u.nodes[name]).run {
			desired++
		}
	}
	unavailable, err := u.scaled(desired, func(r *appsv1.RollingUpdateDaemonSet) *intstr.IntOrString { return r.MaxUnavailable })
	if err != nil {
		return change{}, err
	}
	surge, err := u.scaled(desired, func(r *appsv1.RollingUpdateDaemonSet) *intstr.IntOrString { return r.MaxSurge })
	if err != nil {
		return change{}, err
	}
	if surge > 0 {
		return u.rollWithSurge(surge, desired), nil
	}
	return u.rollInPlace(max(unavailable, 1)), nil // with neither, the roll-out would never end
}

// pair returns the pod of the present template and that of another one on a node, of those that are not being deleted; ok is false
// if there are more of either.
func (u *update) pair(name string) (current, old *corev1.Pod, ok bool) {
	for _, pod := range u.pods[name] {
		if pod.DeletionTimestamp != nil {
			continue
		}
		place := &old
		if u.updated(pod) {
			place = &current
		}
		if *place != nil {
			return nil, nil, false
		}
		*place = pod
	}
	return current, old, true
}

// rollInPlace deletes old pods that are not available, and as many others as may be unavailable.
func (u *update) rollInPlace(most int) (c change) {
	unavailable := 0
	var candidates []*corev1.Pod
	for _, name := range u.names {
		if len(u.pods[name]) == 0 && !u.want.on(u.nodes[name]).run {
			continue
		}
		switch current, old, ok := u.pair(name); {
		case !ok || (current == nil) == (old == nil):
			unavailable++ // manage makes it one pod
		case current != nil:
			if !u.available(current) {
				unavailable++
			}
		case !u.available(old):
			c.delete = append(c.delete, old)
			unavailable++
		default:
			candidates = append(candidates, old)
		}
	}
	c.delete = append(c.delete, candidates[:max(min(most-unavailable, len(candidates)), 0)]...)
	return c
}

// rollWithSurge creates new pods beside old ones: beside all that are not available, and beside as many others as the surge allows.
// An old pod is deleted when the new one beside it is available.
func (u *update) rollWithSurge(most, desired int) (c change) {
	surging, available := 0, 0
	var candidates []string
	var displaced []*corev1.Pod // on nodes that are no longer to have one
	for _, name := range u.names {
		current, old, ok := u.pair(name)
		if !ok {
			surging++
			continue
		}
		if one := old; one != nil || current != nil {
			if one == nil {
				one = current
			}
			if u.available(one) {
				available++
			}
		}
		if old == nil {
			continue // manage creates what is missing
		}
		run := u.want.on(u.nodes[name]).run
		switch {
		case current != nil && u.available(current):
			c.delete = append(c.delete, old)
		case current != nil:
			surging++
		case !u.available(old) && run:
			c.create = append(c.create, name)
		case !u.available(old):
			c.delete = append(c.delete, old)
		case run:
			candidates = append(candidates, name)
		default:
			displaced = append(displaced, old)
		}
	}
	c.create = append(c.create, candidates[:max(min(most-surging, len(candidates)), 0)]...)
	// A displaced pod ends when others are available in its place.
	c.delete = append(c.delete, displaced[:max(min(available-desired, len(displaced)), 0)]...)
	return c
}
