package deployment

import (
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Reasons of the Progressing condition.
const (
	reasonPaused    = "DeploymentPaused"
	reasonResumed   = "DeploymentResumed"
	reasonAvailable = "NewReplicaSetAvailable"
	reasonUpdated   = "ReplicaSetUpdated"
	reasonFound     = "FoundNewReplicaSet"
	reasonTimedOut  = "ProgressDeadlineExceeded"
)

func newCondition(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) appsv1.DeploymentCondition {
	now := metav1.Now()
	return appsv1.DeploymentCondition{Type: kind, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
}

func conditionOf(s *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == kind {
			return &s.Conditions[i]
		}
	}
	return nil
}

// setCondition sets a condition, unless it is unchanged.
func setCondition(s *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	have := conditionOf(s, c.Type)
	if have == nil {
		s.Conditions = append(s.Conditions, c)
		return
	}
	if have.Status == c.Status && have.Reason == c.Reason {
		return
	}
	if have.Status == c.Status {
		c.LastTransitionTime = have.LastTransitionTime
	}
	removeCondition(s, c.Type)
	s.Conditions = append(s.Conditions, c)
}

func removeCondition(s *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) {
	var rest []appsv1.DeploymentCondition
	for _, c := range s.Conditions {
		if c.Type != kind {
			rest = append(rest, c)
		}
	}
	s.Conditions = rest
}

// deadline returns progressDeadlineSeconds; ok is false if there is none (upstream's "no deadline" is the largest int32).
func deadline(d *appsv1.Deployment) (time.Duration, bool) {
	s := d.Spec.ProgressDeadlineSeconds
	if s == nil || *s == 1<<31-1 {
		return 0, false
	}
	return time.Duration(*s) * time.Second, true
}

// markPaused records in the condition that the deployment was paused or resumed, so that the time between does not count towards
// the deadline.
func (ro *rollout) markPaused() (changed bool) {
	if _, ok := deadline(ro.d); !ok {
		return false
	}
	c := conditionOf(&ro.d.Status, appsv1.DeploymentProgressing)
	if c != nil && c.Reason == reasonTimedOut {
		return false // the result of the roll-out must not be overwritten
	}
	paused := c != nil && c.Reason == reasonPaused
	switch {
	case ro.d.Spec.Paused && !paused:
		setCondition(&ro.d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused"))
	case !ro.d.Spec.Paused && paused:
		setCondition(&ro.d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed"))
	default:
		return false
	}
	return true
}

// tellProgress records progress that the numbers do not show, in the copy of the status that syncStatus writes.
func (ro *rollout) tellProgress(reason, message string) {
	if _, ok := deadline(ro.d); ok {
		setCondition(&ro.d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reason, message))
	}
}

// complete says whether the roll-out is complete: all pods are of the current set, and available.
func (ro *rollout) complete(s *appsv1.DeploymentStatus) bool {
	want := *ro.d.Spec.Replicas
	return s.UpdatedReplicas == want && s.Replicas == want && s.AvailableReplicas == want && s.ObservedGeneration >= ro.d.Generation
}

// counted returns the status with its numbers and its Available condition.
func (ro *rollout) counted() appsv1.DeploymentStatus {
	s := appsv1.DeploymentStatus{ObservedGeneration: ro.d.Generation, CollisionCount: ro.d.Status.CollisionCount}
	s.Conditions = append(s.Conditions, ro.d.Status.Conditions...)
	terminating, known := int32(0), true
	for _, rs := range ro.sets {
		s.Replicas += rs.Status.Replicas
		s.ReadyReplicas += rs.Status.ReadyReplicas
		s.AvailableReplicas += rs.Status.AvailableReplicas
		switch {
		case rs.Status.TerminatingReplicas != nil:
			terminating += *rs.Status.TerminatingReplicas
		case rs.Status.ObservedGeneration != 0:
			known = false // its controller has counted other things, but not these
		}
	}
	if known {
		s.TerminatingReplicas = &terminating
	}
	if ro.current != nil {
		s.UpdatedReplicas = ro.current.Status.Replicas
	}
	s.UnavailableReplicas = max(total(ro.sets)-s.AvailableReplicas, 0)
	_, unavailable := ro.limits()
	if s.AvailableReplicas >= *ro.d.Spec.Replicas-unavailable {
		setCondition(&s, newCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability."))
	} else {
		setCondition(&s, newCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse, "MinimumReplicasUnavailable", "Deployment does not have minimum availability."))
	}
	return s
}

// syncStatus writes the status if it differs, and schedules a reconciliation for when the deadline will have passed.
func (ro *rollout) syncStatus() (controller.Result, error) {
	s := ro.counted()
	result := controller.Result{}
	limit, timed := deadline(ro.d)
	if !timed {
		removeCondition(&s, appsv1.DeploymentProgressing)
	} else if !ro.d.Spec.Paused && ro.d.DeletionTimestamp == nil {
		result.After = ro.progress(&s, limit)
	}
	ro.failure(&s)
	if ro.complete(&s) && ro.d.DeletionTimestamp == nil {
		// Before the status says so: whoever has read that may change the template, and expect that this one is rolled back to.
		if err := ro.noteRolledOut(); err != nil {
			return result, err
		}
	}
	stored, ok := client.Get[*appsv1.Deployment](ro.client.View(), ro.d.Namespace, ro.d.Name)
	if !ok || apiequality.Semantic.DeepEqual(stored.Status, s) {
		return result, nil
	}
	changed := ro.d.DeepCopy()
	changed.Status = s
	_, err := client.UpdateStatus(ro.ctx, ro.client, changed)
	if apierrors.IsNotFound(err) {
		err = nil
	}
	return result, err
}

// progress sets the Progressing condition: complete, progressing, or timed out.
func (ro *rollout) progress(s *appsv1.DeploymentStatus, limit time.Duration) (after time.Duration) {
	what := ro.rolled()
	c := conditionOf(s, appsv1.DeploymentProgressing)
	if c == nil && ro.current != nil {
		setCondition(s, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonFound, fmt.Sprintf("Found new replica set %q", ro.current.Name)))
		c = conditionOf(s, appsv1.DeploymentProgressing)
	}
	if c != nil && c.Reason == reasonAvailable && s.Replicas == s.UpdatedReplicas {
		return 0 // pods that fail after a roll-out do not make it a new one
	}
	switch {
	case ro.complete(s):
		setCondition(s, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, what+" has successfully progressed."))
		return 0
	case ro.moved(s):
		next := newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonUpdated, what+" is progressing.")
		if c != nil && c.Status == corev1.ConditionTrue {
			next.LastTransitionTime = c.LastTransitionTime
		}
		removeCondition(s, appsv1.DeploymentProgressing)
		s.Conditions = append(s.Conditions, next)
		return limit
	}
	if c == nil || c.Reason == reasonTimedOut || c.Reason == reasonAvailable {
		return 0
	}
	if left := timeLeft(c.LastUpdateTime, limit, ro.now()); left > 0 {
		return left
	}
	setCondition(s, newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, ro.timedOut()))
	return 0
}

// timeLeft returns how long a roll-out that last progressed at a time may still wait for progress. Stored times have the resolution of
// a second and are rounded down, so the deadline counts from the end of that second: otherwise a deadline of a second could pass
// right after the progress.
func timeLeft(progressed metav1.Time, limit time.Duration, now time.Time) time.Duration {
	return progressed.Add(time.Second).Add(limit).Sub(now)
}

// rolled names what is rolled out, in conditions.
func (ro *rollout) rolled() string {
	if ro.current != nil {
		return fmt.Sprintf("ReplicaSet %q", ro.current.Name)
	}
	return fmt.Sprintf("Deployment %q", ro.d.Name)
}

// timedOut is the message of a roll-out that has missed its deadline.
func (ro *rollout) timedOut() string { return ro.rolled() + " has timed out progressing." }

// moved says whether the roll-out has progressed since the stored status.
func (ro *rollout) moved(s *appsv1.DeploymentStatus) bool {
	before := &ro.d.Status
	return s.UpdatedReplicas > before.UpdatedReplicas ||
		s.Replicas-s.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		s.ReadyReplicas > before.ReadyReplicas || s.AvailableReplicas > before.AvailableReplicas
}

// failure copies a set's ReplicaFailure condition, preferably the current set's.
func (ro *rollout) failure(s *appsv1.DeploymentStatus) {
	sets := ro.old()
	if ro.current != nil {
		sets = append([]*appsv1.ReplicaSet{ro.current}, sets...)
	}
	for _, rs := range sets {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue {
				setCondition(s, newCondition(appsv1.DeploymentReplicaFailure, corev1.ConditionTrue, c.Reason, c.Message))
				return
			}
		}
	}
	removeCondition(s, appsv1.DeploymentReplicaFailure)
}
