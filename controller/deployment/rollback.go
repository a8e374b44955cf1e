package deployment

import (
	"errors"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
)

// Annotations by which a deployment rolls back by itself (docs/workloads.md).
const (
	// RollbackOnDeadline with the value "true" makes a deployment that misses its progress deadline roll back.
	RollbackOnDeadline = "kontiki.io/rollback-on-deadline"
	// rolledOutAnnotation marks the ReplicaSets of such a deployment that were completely rolled out.
	rolledOutAnnotation = "kontiki.io/rolled-out"
	// rolledBackAnnotation names the ReplicaSet that a deployment has rolled back to by itself. It does so once, until its template
	// changes: with what was good before, something else is wrong.
	rolledBackAnnotation = "kontiki.io/rolled-back-to"
)

// requestedRollback returns the revision that a client asked to roll back to by the annotation of the old API; 0 is the one before
// the present one.
func (ro *rollout) requestedRollback() (int64, bool) {
	revision, err := strconv.ParseInt(ro.d.Annotations[appsv1.DeprecatedRollbackTo], 10, 64)
	return revision, err == nil
}

// rollBackTo rolls back to a revision as requested, or records why it cannot. In any case it removes the request.
func (ro *rollout) rollBackTo(revision int64) error {
	if err := ro.ensureRevision(true); err != nil {
		if errors.Is(err, errNamespaceEnds) {
			return nil
		}
		return err
	}
	give := func(reason, format string, args ...any) error {
		ro.recorder.Eventf(ro.d, corev1.EventTypeWarning, reason, format, args...)
		delete(ro.d.Annotations, appsv1.DeprecatedRollbackTo)
		_, err := client.Update(ro.ctx, ro.client, ro.d.DeepCopy())
		return err
	}
	if revision == 0 {
		sorted := byRevision(ro.sets)
		if len(sorted) < 2 || revisionOf(sorted[len(sorted)-2]) == 0 {
			return give("DeploymentRollbackRevisionNotFound", "Unable to find last revision.")
		}
		revision = revisionOf(sorted[len(sorted)-2])
	}
	i := slices.IndexFunc(ro.sets, func(rs *appsv1.ReplicaSet) bool { return revisionOf(rs) == revision })
	switch {
	case i < 0:
		return give("DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to.")
	case ro.sets[i] == ro.current:
		return give("DeploymentRollbackTemplateUnchanged", "The rollback revision contains the same template as current deployment %q", ro.d.Name)
	}
	if err := ro.restore(ro.sets[i], nil); err != nil {
		return err
	}
	ro.recorder.Eventf(ro.d, corev1.EventTypeNormal, "DeploymentRollback", "Rolled back deployment %q to revision %d", ro.d.Name, revision)
	return nil
}

// restore gives the deployment the template and the annotations of a ReplicaSet, and further annotations.
func (ro *rollout) restore(rs *appsv1.ReplicaSet, further map[string]string) error {
	changed := ro.d.DeepCopy()
	changed.Spec.Template = *rs.Spec.Template.DeepCopy()
	delete(changed.Spec.Template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	annotations := map[string]string{}
	for name, value := range changed.Annotations {
		if slices.Contains(unshared, name) && name != appsv1.DeprecatedRollbackTo {
			annotations[name] = value
		}
	}
	for name, value := range rs.Annotations {
		if !slices.Contains(unshared, name) {
			annotations[name] = value
		}
	}
	maps.Copy(annotations, further)
	changed.Annotations = annotations
	_, err := client.Update(ro.ctx, ro.client, changed)
	return err
}

func (ro *rollout) rollsBackByItself() bool { return ro.d.Annotations[RollbackOnDeadline] == "true" }

// noteRolledOut marks the current set as one that can be rolled back to.
func (ro *rollout) noteRolledOut() error {
	if !ro.rollsBackByItself() || ro.current == nil || ro.current.Annotations[rolledOutAnnotation] == "true" {
		return nil
	}
	ro.current.Annotations[rolledOutAnnotation] = "true"
	updated, err := client.Update(ro.ctx, ro.client, ro.current.DeepCopy())
	if err == nil {
		*ro.current = *updated.DeepCopy()
	}
	return err
}

// rollBackByItself rolls back if the roll-out of the present template has missed its deadline: to the newest set that was completely
// rolled out or, if none is known to have been, to the newest that has available pods. It returns true if it did.
func (ro *rollout) rollBackByItself() (bool, error) {
	c := conditionOf(&ro.d.Status, appsv1.DeploymentProgressing)
	if !ro.rollsBackByItself() || c == nil || c.Reason != reasonTimedOut || ro.d.Status.ObservedGeneration != ro.d.Generation || ro.current == nil {
		return false, nil
	}
	// The condition may be of an earlier template, which somebody has replaced already.
	if c.Message != ro.timedOut() || ro.d.Annotations[rolledBackAnnotation] == ro.current.Name {
		return false, nil
	}
	var target, serving *appsv1.ReplicaSet
	for _, rs := range byRevision(ro.old()) {
		switch {
		case rs.DeletionTimestamp != nil:
		case rs.Annotations[rolledOutAnnotation] == "true":
			target = rs
		case rs.Status.AvailableReplicas > 0:
			serving = rs
		}
	}
	if target == nil {
		target = serving
	}
	if target == nil {
		ro.recorder.Event(ro.d, corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to.")
		return false, nil
	}
	if err := ro.restore(target, map[string]string{RollbackOnDeadline: "true", rolledBackAnnotation: target.Name}); err != nil {
		return false, err
	}
	ro.recorder.Eventf(ro.d, corev1.EventTypeWarning, "DeploymentRollback", "Rolled back deployment %q to revision %d: revision %d missed its progress deadline",
		ro.d.Name, revisionOf(target), revisionOf(ro.current))
	return true, nil
}
