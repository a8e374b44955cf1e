package replicaset

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/pods"
)

// choose returns the pods to delete, in upstream's order (k8s.io/kubernetes/pkg/controller ActivePodsWithRanks): not assigned,
// pending, not ready, with a lower controller.kubernetes.io/pod-deletion-cost, with more related pods on the node, ready for a
// shorter time, restarted more often, younger.
func choose(v client.View, s set, active []*corev1.Pod, count int, now time.Time) []*corev1.Pod {
	if count >= len(active) {
		return active
	}
	ranks := familyByNode(v, s)
	sorted := slices.Clone(active)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int {
		return cmp.Or(
			first(a.Spec.NodeName == "", b.Spec.NodeName == ""),
			cmp.Compare(phaseRank(a), phaseRank(b)),
			first(!pods.Ready(a), !pods.Ready(b)),
			cmp.Compare(cost(a), cost(b)),
			cmp.Compare(ranks[b.Spec.NodeName], ranks[a.Spec.NodeName]),
			compareAge(readySince(a), readySince(b), a, b, now),
			cmp.Compare(restarts(b), restarts(a)),
			cmp.Compare(sidecarRestarts(b), sidecarRestarts(a)),
			compareAge(a.CreationTimestamp, b.CreationTimestamp, a, b, now),
		)
	})
	return sorted[:count]
}

// first orders true before false.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func phaseRank(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodPending:
		return 0
	case corev1.PodUnknown:
		return 1
	}
	return 2
}

func cost(p *corev1.Pod) int64 {
	n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return n
}

func readySince(p *corev1.Pod) metav1.Time {
	if c := pods.ReadyCondition(p); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime
	}
	return metav1.Time{}
}

// compareAge orders the younger one first, by orders of magnitude, so that small differences do not make the choice predictable;
// within one magnitude the UIDs decide (KEP-2255).
func compareAge(since, other metav1.Time, a, b *corev1.Pod, now time.Time) int {
	switch {
	case since.Equal(&other):
		return 0
	case since.IsZero() || other.IsZero():
		return first(since.IsZero(), other.IsZero())
	}
	magnitude := func(t metav1.Time) int {
		age := now.Sub(t.Time)
		if age <= 0 {
			return -1
		}
		return int(math.Log2(float64(age)))
	}
	return cmp.Or(cmp.Compare(magnitude(since), magnitude(other)), cmp.Compare(a.UID, b.UID))
}

func restarts(p *corev1.Pod) (n int32) {
	for _, c := range p.Status.ContainerStatuses {
		n = max(n, c.RestartCount)
	}
	return n
}

func sidecarRestarts(p *corev1.Pod) (n int32) {
	for _, c := range p.Spec.InitContainers {
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		for _, status := range p.Status.InitContainerStatuses {
			if status.Name == c.Name {
				n = max(n, status.RestartCount)
			}
		}
	}
	return n
}

// familyByNode counts, for each node, the active pods of the set and of the sets that have the same controller (a Deployment's
// other ReplicaSets).
func familyByNode(v client.View, s set) map[string]int {
	family := []types.UID{s.GetUID()}
	if owner := metav1.GetControllerOfNoCopy(s); owner != nil {
		for _, sibling := range byController.Any(v, string(owner.UID)) {
			if sibling.UID != s.GetUID() {
				family = append(family, sibling.UID)
			}
		}
	}
	count := map[string]int{}
	for _, p := range pods.Controlled(v, family...) {
		if pods.Active(p) {
			count[p.Spec.NodeName]++
		}
	}
	return count
}
