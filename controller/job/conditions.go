package job

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func find(conditions []batchv1.JobCondition, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range conditions {
		if conditions[i].Type == kind {
			return &conditions[i]
		}
	}
	return nil
}

func isTrue(conditions []batchv1.JobCondition, kind batchv1.JobConditionType) bool {
	c := find(conditions, kind)
	return c != nil && c.Status == corev1.ConditionTrue
}

// set sets a condition and says whether that changed anything. A condition that is false is not added.
func set(conditions *[]batchv1.JobCondition, kind batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) bool {
	at := metav1.NewTime(now)
	next := batchv1.JobCondition{Type: kind, Status: status, Reason: reason, Message: message, LastProbeTime: at, LastTransitionTime: at}
	c := find(*conditions, kind)
	switch {
	case c == nil && status == corev1.ConditionFalse:
		return false
	case c == nil:
		*conditions = append(*conditions, next)
		return true
	case c.Status == status && c.Reason == reason && c.Message == message:
		return false
	}
	*c = next
	return true
}
