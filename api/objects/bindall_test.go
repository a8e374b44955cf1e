package objects_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

// spying counts the commands that a store gets, and calls before ahead of each.
type spying struct {
	objects.Store
	commands atomic.Int32
	before   func(*kv.Command)
}

func (s *spying) Propose(ctx context.Context, c *kv.Command) (kv.Result, error) {
	s.commands.Add(1)
	if s.before != nil {
		s.before(c)
	}
	return s.Store.Propose(ctx, c)
}

// TestBindAll: many bindings are one command, and each succeeds or fails as it would alone.
func TestBindAll(t *testing.T) {
	store := &spying{}
	h := harness.NewOver(t, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	ctx := context.Background()
	pod := func(name string) *corev1.Pod {
		t.Helper()
		made, err := client.Create(ctx, h.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	var bindings []client.Binding
	for i := range 20 {
		bindings = append(bindings, client.Binding{Pod: pod(fmt.Sprint("p", i)), Node: fmt.Sprint("n", i)})
	}
	if err := h.Client.Bind(ctx, bindings[3].Pod, "elsewhere"); err != nil {
		t.Fatal(err)
	}
	bindings[7].Pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "unknown", Namespace: "default"}}
	again := bindings[9].Pod.DeepCopy()
	again.UID = "another"
	bindings[9].Pod = again
	want := map[int]string{3: `pod p3 is already assigned to node "elsewhere"`, 7: `"unknown" not found`, 9: "Precondition failed: UID in precondition: another"}
	check := func(bindings []client.Binding, errs []error) {
		t.Helper()
		view := h.Client.View()
		for i, err := range errs {
			if message, fails := want[i]; fails {
				if err == nil || !strings.Contains(err.Error(), message) {
					t.Errorf("binding %d: %v, want %s", i, err, message)
				}
				continue
			}
			if err != nil {
				t.Errorf("binding %d: %v", i, err)
			}
			if p, _ := client.Get[*corev1.Pod](view, "default", bindings[i].Pod.Name); p.Spec.NodeName != bindings[i].Node {
				t.Errorf("pod %d is on %q", i, p.Spec.NodeName)
			}
		}
	}
	store.commands.Store(0)
	check(bindings, h.Client.BindAll(ctx, bindings))
	if n := store.commands.Load(); n != 1 {
		t.Errorf("%d commands", n)
	}

	t.Run("a pod that changes meanwhile", func(t *testing.T) {
		var more []client.Binding
		for i := range 5 {
			more = append(more, client.Binding{Pod: pod(fmt.Sprint("q", i)), Node: "n"})
		}
		clear(want)
		changed := false
		store.before = func(c *kv.Command) {
			if changed || len(c.Ops) < 5 {
				return
			}
			changed = true
			p := more[2].Pod.DeepCopy()
			p.Labels = map[string]string{"changed": "yes"}
			p.ResourceVersion = ""
			if _, err := client.Update(ctx, h.Client, p); err != nil {
				t.Error(err)
			}
		}
		check(more, h.Client.BindAll(ctx, more))
		if !changed {
			t.Error("the pod was not changed")
		}
		if p, _ := client.Get[*corev1.Pod](h.Client.View(), "default", "q2"); p.Labels["changed"] != "yes" {
			t.Error("the change was lost")
		}
	})
}

// TestBindTogether: all pods are bound by one command, or none is.
func TestBindTogether(t *testing.T) {
	store := &spying{}
	h := harness.NewOver(t, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	ctx := context.Background()
	var bindings []client.Binding
	for i := range 5 {
		pod, err := client.Create(ctx, h.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i), Namespace: "default"},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
		if err != nil {
			t.Fatal(err)
		}
		bindings = append(bindings, client.Binding{Pod: pod, Node: "n"})
	}
	bound := func() (n int) {
		client.Each(h.Client.View(), "default", func(p *corev1.Pod) bool {
			if p.Spec.NodeName != "" {
				n++
			}
			return true
		})
		return n
	}
	missing := append(bindings[:4:4], client.Binding{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "unknown", Namespace: "default"}}, Node: "n"})
	if err := h.Client.BindTogether(ctx, missing); err == nil || bound() != 0 {
		t.Errorf("with a pod that does not exist: %v, %d are bound", err, bound())
	}
	// One that changes meanwhile is read again.
	changed := false
	store.before = func(c *kv.Command) {
		if changed || len(c.Ops) < 5 {
			return
		}
		changed = true
		p := bindings[2].Pod.DeepCopy()
		p.Labels, p.ResourceVersion = map[string]string{"changed": "yes"}, ""
		if _, err := client.Update(ctx, h.Client, p); err != nil {
			t.Error(err)
		}
	}
	if err := h.Client.BindTogether(ctx, bindings); err != nil || bound() != 5 || !changed {
		t.Errorf("%v, %d are bound", err, bound())
	}
}
