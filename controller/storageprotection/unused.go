package storageprotection

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
)

// A bound claim has the condition Unused, which says since when no pod names it that has not ended (KEP-5541). A pod that has not been scheduled
// counts, unlike for the claim's protection.

// noteUse sets the condition if it is not as it should be.
func noteUse(ctx context.Context, c *client.Client, v client.View, claim *corev1.PersistentVolumeClaim) error {
	want := unusedCondition(v, claim)
	if want == nil {
		return nil
	}
	claim = claim.DeepCopy()
	want.LastTransitionTime = metav1.NewTime(time.Now())
	i := indexOfUnused(claim)
	if i < 0 {
		claim.Status.Conditions = append(claim.Status.Conditions, *want)
	} else {
		claim.Status.Conditions[i] = *want
	}
	_, err := client.UpdateStatus(ctx, c, claim)
	return err
}

// unusedCondition returns the condition that a claim should have, nil if it has it or should have none.
func unusedCondition(v client.View, claim *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaimCondition {
	if claim.DeletionTimestamp != nil || claim.Status.Phase != corev1.ClaimBound {
		return nil
	}
	want := &corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimUnused, Status: corev1.ConditionTrue,
		Reason: "NoPodsUsingPVC", Message: "No pods are currently referencing this PVC"}
	if slices.ContainsFunc(podsByClaim.Any(v, claim.Namespace+"/"+claim.Name), func(pod *corev1.Pod) bool { return !hasEnded(pod) && names(pod, claim) }) {
		want.Status, want.Reason, want.Message = corev1.ConditionFalse, "PodUsingPVC", "A pod is currently referencing this PVC"
	}
	if i := indexOfUnused(claim); i >= 0 && claim.Status.Conditions[i].Status == want.Status {
		return nil
	}
	return want
}

func indexOfUnused(claim *corev1.PersistentVolumeClaim) int {
	return slices.IndexFunc(claim.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == corev1.PersistentVolumeClaimUnused
	})
}

// hasEnded says whether a pod has finished, or is being deleted and none of its containers runs any more.
func hasEnded(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if pod.DeletionTimestamp == nil {
		return false
	}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses} {
		if slices.ContainsFunc(list, func(s corev1.ContainerStatus) bool { return s.State.Terminated == nil && s.State.Waiting == nil }) {
			return false
		}
	}
	return true
}
