package statefulset

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/client"
)

// count adds a pod that was created to what the status counts.
func (u *update) count(pod *corev1.Pod) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.created = append(u.created, pod)
}

// discount makes the status count a pod as being deleted.
func (u *update) discount(pod *corev1.Pod) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.deleted[pod] = true
}

// status returns the set's status.
func (u *update) status() appsv1.StatefulSetStatus {
	s := appsv1.StatefulSetStatus{
		ObservedGeneration: u.set.Generation, CurrentRevision: u.current.Name, UpdateRevision: u.next.Name, CollisionCount: &u.collisions,
		Conditions: slices.Clone(u.set.Status.Conditions),
	}
	count := func(pod *corev1.Pod) {
		s.Replicas++
		if runningAndReady(pod) {
			s.ReadyReplicas++
			if u.available(pod) {
				s.AvailableReplicas++
			}
		}
		if terminating(pod) || u.deleted[pod] {
			return
		}
		if revisionOf(pod) == u.current.Name {
			s.CurrentReplicas++
		}
		if revisionOf(pod) == u.next.Name {
			s.UpdatedReplicas++
		}
	}
	for _, pod := range u.replicas {
		count(pod)
	}
	for _, pod := range slices.Concat(u.condemned, u.created) {
		count(pod)
	}
	if want := *u.set.Spec.Replicas; s.UpdatedReplicas == want && s.ReadyReplicas == want && s.Replicas == want {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision // the roll-out is complete
	}
	return s
}

// writeStatus writes the status if it differs.
func (u *update) writeStatus() error {
	s := u.status()
	if apiequality.Semantic.DeepEqual(u.set.Status, s) {
		return nil
	}
	changed := u.set.DeepCopy()
	changed.Status = s
	if _, err := client.UpdateStatus(u.ctx, u.client, changed); !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}
