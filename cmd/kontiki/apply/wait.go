package apply

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/kubectl/pkg/polymorphichelpers"
)

// wait follows the roll-outs of the release's workloads, and prints their progress. It returns an error when the first one fails,
// or on the timeout.
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

// status returns what an object is waiting for, and whether its roll-out is complete. Kinds without a roll-out are complete at
// once.
func status(u *unstructured.Unstructured) (message string, done bool, err error) {
	kind := u.GroupVersionKind().GroupKind()
	if viewer, err := polymorphichelpers.StatusViewerFor(kind); err == nil {
		return viewer.Status(u, 0)
	}
	switch kind {
	case schema.GroupKind{Kind: "Pod"}:
		return podStatus(u)
	case schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}, schema.GroupKind{Kind: "ReplicationController"}:
		want, found, _ := unstructured.NestedInt64(u.Object, "spec", "replicas") // the API sets a default
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

// waitFor follows one object until its roll-out is complete.
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
		if done, err := r.follow(ctx, t, "", func(event watch.Event, u *unstructured.Unstructured) (bool, error) {
			if event.Type == watch.Deleted {
				return false, fmt.Errorf("%s was deleted while it was waited for", t)
			}
			return look(u)
		}); done || err != nil {
			return err
		}
	}
}

// gone waits until an object that is being deleted no longer exists, or was replaced.
func (r *run) gone(ctx context.Context, t *target) error {
	told := false
	for {
		now, err := r.resource(t).Get(ctx, t.object.GetName(), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err), err == nil && now.GetUID() != t.before.GetUID():
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil && !told:
			told = true
			fmt.Fprintf(r.Out, "%s: waiting until it is gone, to create it again\n", t)
		}
		from := ""
		if err == nil {
			from = now.GetResourceVersion()
		}
		if done, err := r.follow(ctx, t, from, func(event watch.Event, _ *unstructured.Unstructured) (bool, error) {
			return event.Type == watch.Deleted, nil
		}); done || err != nil {
			return err
		}
	}
}

// follow calls look with an object's changes after a resource version, or with its present state and its changes, until look
// returns true or an error. If the watch ends because its master did, it returns false after a moment.
func (r *run) follow(ctx context.Context, t *target, from string, look func(watch.Event, *unstructured.Unstructured) (bool, error)) (bool, error) {
	watcher, err := r.resource(t).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", t.object.GetName()).String(), ResourceVersion: from,
	})
	if err == nil {
		defer watcher.Stop()
		for event := range watcher.ResultChan() {
			u, ok := event.Object.(*unstructured.Unstructured)
			if !ok {
				break
			}
			if done, err := look(event, u); done || err != nil {
				return done, err
			}
		}
	}
	select {
	case <-ctx.Done():
		return false, ctx.Err()
	case <-time.After(200 * time.Millisecond):
		return false, nil
	}
}
