package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/kubectl/pkg/polymorphichelpers"
)

// wait follows the roll-outs of the release's workloads, and tells their progress. It fails with the first that fails, or when the
// time is up.
func (r *run) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	defer cancel()
	for _, t := range r.targets {
		if t.pruned {
			continue
		}
		if err := r.waitFor(ctx, t); err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				err = fmt.Errorf("%s was not done within %s", t, r.Timeout)
			}
			return err
		}
	}
	return nil
}

// status says what an object waits for: a message, and whether it is done. A kind that rolls nothing out is done at once.
func status(u *unstructured.Unstructured) (message string, done bool, err error) {
	kind := u.GroupVersionKind().GroupKind()
	if viewer, err := polymorphichelpers.StatusViewerFor(kind); err == nil {
		return viewer.Status(u, 0)
	}
	switch kind {
	case schema.GroupKind{Kind: "Pod"}:
		return podStatus(u)
	case schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}, schema.GroupKind{Kind: "ReplicationController"}:
		want, found, _ := unstructured.NestedInt64(u.Object, "spec", "replicas") // it is defaulted
		have, _, _ := unstructured.NestedInt64(u.Object, "status", "availableReplicas")
		seen, _, _ := unstructured.NestedInt64(u.Object, "status", "observedGeneration")
		return fmt.Sprintf("%d of %d replicas are available...\n", have, want), found && have >= want && seen >= u.GetGeneration(), nil
	}
	return "", true, nil
}

func podStatus(u *unstructured.Unstructured) (string, bool, error) {
	phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
	if phase == "Succeeded" {
		return "", true, nil
	}
	if phase == "Failed" {
		reason, _, _ := unstructured.NestedString(u.Object, "status", "message")
		return "", false, fmt.Errorf("pod %s failed: %s", u.GetName(), reason)
	}
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, c := range conditions {
		if c, ok := c.(map[string]any); ok && c["type"] == "Ready" && c["status"] == "True" {
			return "", true, nil
		}
	}
	return fmt.Sprintf("pod %s is %s and not ready...\n", u.GetName(), phase), false, nil
}

// waitFor follows one object until it is done.
func (r *run) waitFor(ctx context.Context, t *target) error {
	if message, done, err := status(t.after); err != nil || done && message == "" {
		return err
	}
	told := ""
	look := func(u *unstructured.Unstructured) (bool, error) {
		message, done, err := status(u)
		if err != nil {
			return false, fmt.Errorf("%s: %w", t, err)
		}
		if message = strings.TrimSpace(message); message != told && message != "" {
			told = message
			fmt.Fprintf(r.Out, "%s: %s\n", t, message)
		}
		return done, nil
	}
	for {
		watcher, err := r.resource(t).Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", t.object.GetName()).String()})
		if err == nil {
			done, err := follow(ctx, watcher, t, look)
			watcher.Stop()
			if done || err != nil {
				return err
			}
		}
		select { // the master went away: another watch, of the present state first
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// follow looks at what a watch tells until the object is done or the watch ends.
func follow(ctx context.Context, watcher watch.Interface, t *target, look func(*unstructured.Unstructured) (bool, error)) (bool, error) {
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case event, ok := <-watcher.ResultChan():
			u, is := event.Object.(*unstructured.Unstructured)
			switch {
			case !ok || !is:
				return false, nil
			case event.Type == watch.Deleted:
				return false, fmt.Errorf("%s was deleted while it was waited for", t)
			}
			if done, err := look(u); done || err != nil {
				return done, err
			}
		}
	}
}
