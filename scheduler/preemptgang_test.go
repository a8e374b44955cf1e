package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
)

// ender ends pods that are being deleted, as their nodes would, and counts what was preempted.
type ender struct {
	stop func()

	mu      sync.Mutex
	victims map[string]bool
	early   []string // victims that were deleted before all of the gang that preempts was nominated
}

// endPods starts an ender. nominated says whether those that preempt are all nominated, or nil.
func (b *bed) endPods(nominated func(client.View) bool) *ender {
	e := &ender{victims: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var ends sync.WaitGroup
	end := func(p *corev1.Pod) {
		if p.DeletionTimestamp == nil || p.Spec.NodeName == "" {
			return
		}
		e.mu.Lock()
		known := e.victims[p.Name]
		if condition(p, corev1.DisruptionTarget).Status == corev1.ConditionTrue {
			e.victims[p.Name] = true
		}
		if !known && nominated != nil && !nominated(b.Client.View()) {
			e.early = append(e.early, p.Name)
		}
		e.mu.Unlock()
		if !known {
			ends.Go(func() {
				_ = b.Client.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: p.Name}}, client.Grace(0), client.IfUID(p.UID))
			})
		}
	}
	started := make(chan struct{})
	go func() {
		defer close(done)
		_ = b.Client.ViewAndWatch(ctx, []client.Object{&corev1.Pod{}}, func(client.View) error {
			close(started)
			return nil
		}, func(events []client.Event) error {
			for _, event := range events {
				if p, ok := event.New.(*corev1.Pod); ok && p != nil {
					end(p)
				}
			}
			return nil
		})
	}()
	<-started
	e.stop = func() {
		cancel()
		<-done
		ends.Wait()
	}
	b.t.Cleanup(e.stop)
	return e
}

func (e *ender) names() (out []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for name := range e.victims {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// settles waits until a condition holds for the state.
func (b *bed) settles(what string, holds func(client.View) bool) {
	b.t.Helper()
	settled := errors.New("settled")
	check := func(v client.View) error {
		if holds(v) {
			return settled
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := b.Client.ViewAndWatch(ctx, []client.Object{&corev1.Pod{}}, check, func([]client.Event) error { return check(b.Client.View()) })
	if !errors.Is(err, settled) {
		var all []string
		client.Each(b.Client.View(), "default", func(p *corev1.Pod) bool {
			all = append(all, fmt.Sprintf("%s on %q, nominated for %q, deleted %v: %s", p.Name, p.Spec.NodeName, p.Status.NominatedNodeName, p.DeletionTimestamp != nil, condition(p, corev1.PodScheduled).Message))
			return true
		})
		b.t.Fatalf("%s: %v\n%s", what, err, strings.Join(all, "\n"))
	}
}

func TestGangsPreempt(t *testing.T) {
	at := func(node string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node} }
	}
	gang := func(b *bed, name, priority string, size int, cpu string, change ...func(*corev1.Pod)) {
		for i := range size {
			b.pod(fmt.Sprint(name, i), cpu, append(change, ofGang(name, size), class(priority))...)
		}
	}
	allPlaced := func(b *bed, name string, size int) {
		for i := range size {
			b.placed(fmt.Sprint(name, i))
		}
	}
	t.Run("all fit, or nobody goes", func(t *testing.T) {
		b := start(t)
		b.classes()
		for _, node := range []string{"a", "b"} {
			b.node(node, "1")
			for i := range 4 {
				b.pod(fmt.Sprint(node, i), "200m", at(node), class("low"))
				b.placed(fmt.Sprint(node, i))
			}
		}
		ends := b.endPods(func(v client.View) bool {
			for i := range 3 {
				if p, ok := client.Get[*corev1.Pod](v, "default", fmt.Sprint("g", i)); ok && p.Spec.NodeName == "" && p.Status.NominatedNodeName == "" {
					return false
				}
			}
			return true
		})
		gang(b, "large", "high", 3, "600m")
		b.refused("large0", `gang "large": 0 of 3 pods fit; 0/2 nodes are available: 2 Insufficient cpu. preemption: No preemption victims found for incoming pod.`)
		gang(b, "never", "never", 3, "500m")
		b.refused("never0", `gang "never": 0 of 3 pods fit; 0/2 nodes are available: 2 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.`)
		if names := ends.names(); len(names) > 0 {
			t.Fatalf("victims for gangs that are not placed: %v", names)
		}
		// 200 m are free on each node: two pods need all of one node but that of one victim less, the third one two victims.
		gang(b, "g", "high", 3, "500m")
		allPlaced(b, "g", 3)
		if names := ends.names(); len(names) != 6 {
			t.Errorf("victims: %v", names)
		}
		if len(ends.early) > 0 {
			t.Errorf("deleted before the whole gang was nominated: %v", ends.early)
		}
	})
	t.Run("other gangs and budgets are spared", func(t *testing.T) {
		b := start(t)
		b.classes()
		for _, node := range []string{"a", "b", "c", "d"} {
			b.node(node, "1")
		}
		b.pod("other0", "800m", at("a"), class("low"), ofGang("other", 2))
		b.pod("other1", "800m", at("b"), class("low"), ofGang("other", 2))
		b.pod("alone", "800m", at("c"), class("middle"))
		b.pod("kept", "800m", at("d"), class("low"), func(p *corev1.Pod) { p.Labels["app"] = "kept" })
		for _, name := range []string{"other0", "other1", "alone", "kept"} {
			b.placed(name)
		}
		one := intstr.FromInt32(1)
		budget, err := client.Create(context.Background(), b.Client, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
			Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "kept"}}}})
		if err != nil {
			t.Fatal(err)
		}
		budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: budget.Generation, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1}
		if _, err := client.UpdateStatus(context.Background(), b.Client, budget); err != nil {
			t.Fatal(err)
		}
		ends := b.endPods(nil)
		gang(b, "g", "high", 1, "800m")
		allPlaced(b, "g", 1)
		if names := ends.names(); !slices.Equal(names, []string{"alone"}) {
			t.Errorf("victims: %v", names)
		}
		gang(b, "h", "high", 2, "800m")
		allPlaced(b, "h", 2)
		if names := ends.names(); !slices.Equal(names, []string{"alone", "other0", "other1"}) {
			t.Errorf("victims: %v", names)
		}
	})
	t.Run("a gang does not preempt itself", func(t *testing.T) {
		b := start(t)
		b.classes()
		b.node("a", "1")
		ends := b.endPods(nil)
		b.pod("g0", "800m", ofGang("g", 1), class("low"))
		b.placed("g0")
		b.pod("g1", "800m", ofGang("g", 2), class("high"))
		b.refused("g1", `gang "g": 1 of 2 pods fit; the pods of the gang disagree on its size (from 1 to 2), and the largest counts; 0/1 nodes are available: 1 Insufficient cpu.`)
		if names := ends.names(); len(names) > 0 {
			t.Errorf("victims: %v", names)
		}
	})
	t.Run("room is given up when the gang is not complete any more", func(t *testing.T) {
		b := start(t)
		b.classes()
		b.node("a", "1")
		b.pod("victim", "800m", class("low"))
		b.placed("victim")
		gang(b, "g", "high", 2, "500m")
		b.await("g0", "a nomination", nominated("a"))
		b.await("victim", "its deletion", leaving)
		b.kill("g1")
		b.await("g0", "the end of its nomination", nominated(""))
		b.kill("victim")
		b.pod("late", "800m", class("low"))
		b.placed("late")
	})
}

// TestGangsPreemptWithFaults: gangs that compete for too few nodes preempt while writes fail and schedulers follow one another. At every
// instant each gang has all of its pods bound or none; only as many pods are preempted as the placed gangs need room; and in the end no
// gang that fits is left.
func TestGangsPreemptWithFaults(t *testing.T) {
	store := &unwilling{}
	b := startOver(t, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	b.classes()
	random := rand.New(rand.NewSource(4))
	const nodes, perNode, firm, free = 6, 4, 3, 3
	for i := range nodes {
		b.node(fmt.Sprint("n", i), "1")
	}
	for i := range nodes*perNode - free {
		name, priority := fmt.Sprint("low", i), "low"
		if i < firm {
			name, priority = fmt.Sprint("firm", i), "high"
		}
		b.pod(name, "250m", class(priority))
		b.placed(name)
	}
	ends := b.endPods(nil)
	sizes := map[string]int{}
	for i := range 10 {
		sizes[fmt.Sprint("g", i)] = 1 + random.Intn(6)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watched := make(chan struct{})
	var half []string
	go func() {
		defer close(watched)
		bound := map[string]int{}
		_ = b.Client.ViewAndWatch(ctx, []client.Object{&corev1.Pod{}}, func(client.View) error { return nil }, func(events []client.Event) error {
			for _, e := range events { // those of one command
				old, _ := e.Old.(*corev1.Pod)
				if now, ok := e.New.(*corev1.Pod); ok && now.Spec.NodeName != "" && (old == nil || old.Spec.NodeName == "") {
					bound[now.Labels["kontiki.io/gang"]]++
				}
			}
			for name, n := range bound {
				if n < sizes[name] {
					half = append(half, fmt.Sprintf("%d of %d pods of %s are bound", n, sizes[name], name))
				}
			}
			return nil
		})
	}()
	for i := range 10 {
		name := fmt.Sprint("g", i)
		for j := range sizes[name] {
			b.pod(fmt.Sprint(name, "-", j), "250m", ofGang(name, sizes[name]), class("high"))
			switch random.Intn(6) {
			case 0:
				b.stop()
				b.run()
			case 1: // a nomination, a condition of a victim or a binding
				store.fail.Store(int32(1 + random.Intn(2)))
			}
		}
	}
	placed := 0
	b.settles("gangs that fit are not placed", func(v client.View) bool {
		placed = 0
		waiting, leave := map[string]bool{}, false
		client.Each(v, "default", func(p *corev1.Pod) bool {
			name := p.Labels["kontiki.io/gang"]
			switch {
			case name != "" && p.Spec.NodeName != "":
				placed++
			case name != "":
				waiting[name] = true
			}
			leave = leave || p.DeletionTimestamp != nil
			return true
		})
		for name := range waiting {
			if sizes[name] <= nodes*perNode-firm-placed {
				return false
			}
		}
		return !leave
	})
	b.stop() // what it has begun is finished
	b.run()
	cancel()
	<-watched
	if len(half) > 0 {
		t.Error(half[0])
	}
	if names := ends.names(); len(names) != max(0, placed-free) {
		t.Errorf("%d pods of gangs are placed, for which there was room for %d, and %d were preempted: %v", placed, free, len(names), names)
	}
	for i := range firm {
		if b.now(fmt.Sprint("firm", i)).DeletionTimestamp != nil {
			t.Error("a pod of the gangs' priority is preempted")
		}
	}
	if placed <= free {
		t.Error("no gang has preempted: the test tests nothing")
	}
}
