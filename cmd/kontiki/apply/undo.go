package apply

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// undoTimeout limits the API requests of a rollback. It does not depend on the timeout for roll-outs: a release that was given up
// quickly must be rolled back as well.
const undoTimeout = time.Minute

// undo rolls back all changes of the release by one transaction: created objects are deleted, changed ones are restored, pruned
// ones are created again once they are gone. It returns what could not be restored, and why: objects that were deleted or replaced
// by others meanwhile are not changed, and those that are not gone within the timeout cannot be created again.
func (r *run) undo(ctx context.Context) (left []string, err error) {
	going, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	for _, t := range r.targets {
		if t.pruned {
			_ = r.gone(going, t) // undoing will report objects that still exist
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
	r.targets = undone // errors refer to these
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

// undoing returns the operation that rolls back one object, nil if there is nothing to do; or why it cannot be rolled back.
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
		return operation{"create": Fresh(t.before).Object}, "", nil
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
	back.SetResourceVersion("") // only its status has changed since
	return operation{"update": back.Object, "keepManagedFields": true}, "", nil
}

// Fresh returns a copy of an object to be created again: without what the API assigns, and without its status.
func Fresh(u *unstructured.Unstructured) *unstructured.Unstructured {
	c := u.DeepCopy()
	for _, field := range []string{"managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"} {
		unstructured.RemoveNestedField(c.Object, "metadata", field)
	}
	unstructured.RemoveNestedField(c.Object, "status")
	return c
}
