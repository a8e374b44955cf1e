package apply

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// undoTimeout bounds what undoing asks of the API. It does not depend on how long roll-outs are waited for: a release that is
// given up soon must be undone all the same.
const undoTimeout = time.Minute

// undo brings everything back that the release changed, by one transaction: what it made is deleted, what it changed is as it was
// before, what it pruned is made again, once it is gone. It answers what is not as it was, and why: what somebody else deleted or
// made anew meanwhile is left alone, and what does not go away within the timeout cannot be made again.
func (r *run) undo(ctx context.Context) (left []string, err error) {
	going, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	for _, t := range r.targets {
		if t.pruned {
			_ = r.gone(going, t) // undoing finds what is still there
		}
	}
	ctx, cancel = context.WithTimeout(ctx, undoTimeout)
	defer cancel()
	var operations []operation
	var undone []*target
	for i := len(r.targets) - 1; i >= 0; i-- {
		t := r.targets[i]
		op, why, err := r.undoing(ctx, t)
		switch {
		case err != nil:
			return nil, err
		case why != "":
			left = append(left, fmt.Sprintf("%s, which %s", t, why))
		case op != nil:
			operations, undone = append(operations, op), append(undone, t)
		}
	}
	if len(operations) == 0 {
		return left, nil
	}
	release := r.targets
	r.targets = undone // errors name these
	_, err = r.post(ctx, operations, false)
	err = r.explained(err)
	r.targets = release
	if err != nil {
		return nil, err
	}
	for _, t := range undone {
		fmt.Fprintf(r.Out, "%s undone\n", t)
	}
	return left, nil
}

// undoing is what undoes one object's part, nil for nothing; or why it cannot be undone.
func (r *run) undoing(ctx context.Context, t *target) (op operation, why string, err error) {
	now, err := r.resource(t).Get(ctx, t.object.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		now, err = nil, nil
	}
	const anew = "somebody else made anew"
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("read %s: %w", t, err)
	case t.pruned && now == nil:
		return operation{"create": fresh(t.before).Object}, "", nil
	case t.pruned && now.GetUID() == t.before.GetUID():
		return nil, "is still going away", nil
	case t.pruned:
		return nil, anew, nil
	case now == nil && t.before == nil:
		return nil, "", nil
	case now == nil:
		return nil, "somebody else deleted", nil
	case now.GetUID() != t.after.GetUID():
		return nil, anew, nil
	case t.before == nil && !t.created:
		return nil, "somebody else made at the same time", nil
	case t.before == nil:
		deletion := reference(now)
		deletion["options"] = map[string]any{"propagationPolicy": "Background", "preconditions": map[string]any{"uid": now.GetUID()}}
		return operation{"delete": deletion}, "", nil
	case !differs(t):
		return nil, "", nil
	}
	back := t.before.DeepCopy()
	back.SetResourceVersion("") // status has changed since; what was written counts
	return operation{"update": back.Object, "keepManagedFields": true}, "", nil
}

// fresh is an object to be made again.
func fresh(u *unstructured.Unstructured) *unstructured.Unstructured {
	c := u.DeepCopy()
	for _, field := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"} {
		unstructured.RemoveNestedField(c.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(c.Object, "status")
	return c
}
