package scheduler_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/internal/kv"
)

func ofGang(name string, size int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Labels["kontiki.io/gang"] = name
		p.Annotations = map[string]string{"kontiki.io/gang-size": fmt.Sprint(size)}
	}
}

func TestGangs(t *testing.T) {
	t.Run("all its pods must be there", func(t *testing.T) {
		b := start(t)
		b.node("a", "8")
		b.pod("p0", "1", ofGang("g", 3))
		b.pod("p1", "1", ofGang("g", 3))
		b.refused("p1", `waiting for minCount pods from a gang to appear in scheduling queue: gang "g" has 2 of 3`)
		b.pod("other", "1")
		b.placed("other")
		if b.now("p0").Spec.NodeName != "" {
			t.Error("a pod of an incomplete gang is placed")
		}
		b.pod("p2", "1", ofGang("g", 3))
		for i := range 3 {
			b.placed(fmt.Sprint("p", i))
		}
		// A pod that takes the place of another one finds its gang complete.
		b.kill("p1")
		b.pod("p1", "1", ofGang("g", 3))
		b.placed("p1")
	})
	t.Run("a pod that changes to another gang does not count any more", func(t *testing.T) {
		b := start(t)
		b.node("a", "8")
		b.pod("p0", "1", ofGang("g", 2))
		b.refused("p0", `waiting for minCount pods from a gang to appear in scheduling queue: gang "g" has 1 of 2`)
		moved := b.now("p0").DeepCopy()
		moved.Labels["kontiki.io/gang"], moved.Annotations["kontiki.io/gang-size"] = "other", "1"
		if _, err := client.Update(t.Context(), b.Client, moved); err != nil {
			t.Fatal(err)
		}
		b.placed("p0")
		b.pod("p1", "1", ofGang("g", 2))
		b.refused("p1", `waiting for minCount pods from a gang to appear in scheduling queue: gang "g" has 1 of 2`)
	})
	t.Run("all its pods must fit", func(t *testing.T) {
		b := start(t)
		b.node("a", "2")
		for i := range 3 {
			b.pod(fmt.Sprint("p", i), "1", ofGang("g", 3), func(p *corev1.Pod) { p.Annotations["kontiki.io/gang-timeout"] = "1ns" })
		}
		b.refused("p0", `gang "g": 2 of 3 pods fit; 0/1 nodes are available: 1 Insufficient cpu.`)
		b.event(`GangNotPlaced gang "g" was not placed within 1ns: 0/1 nodes are available: 1 Insufficient cpu.`)
		// What the gang does not take is free for others.
		b.pod("other", "1500m")
		b.placed("other")
		b.node("b", "3")
		for i := range 3 {
			if at := b.placed(fmt.Sprint("p", i)); at != "b" {
				t.Errorf("p%d is on %s", i, at)
			}
		}
	})
	t.Run("its timeout passes while nothing changes", func(t *testing.T) {
		b := start(t)
		b.node("a", "2")
		for i := range 3 {
			b.pod(fmt.Sprint("p", i), "1", ofGang("g", 3), func(p *corev1.Pod) { p.Annotations["kontiki.io/gang-timeout"] = "500ms" })
		}
		b.event(`GangNotPlaced gang "g" was not placed within 500ms: 0/1 nodes are available: 1 Insufficient cpu.`)
		b.pod("q0", "100m", ofGang("lacking", 2), func(p *corev1.Pod) { p.Annotations["kontiki.io/gang-timeout"] = "500ms" })
		b.event(`GangNotPlaced gang "lacking" was not placed within 500ms: waiting for minCount pods from a gang to appear in scheduling queue: gang "lacking" has 1 of 2`)
	})
	t.Run("its pods disagree on the size", func(t *testing.T) {
		b := start(t)
		b.classes()
		b.pod("half-0", "1", ofGang("half", 3))
		b.pod("half-1", "4", ofGang("half", 3))
		b.refused("half-1", `waiting for minCount pods from a gang to appear in scheduling queue: gang "half" has 2 of 3`)
		b.pod("half-2", "1", ofGang("half", 1), class("high"))
		const disagree = "; the pods of the gang disagree on its size (from 1 to 3), and the largest counts"
		b.refused("half-2", `gang "half": 0 of 3 pods fit`+disagree+"; no nodes available to schedule pods")
		b.node("a", "2")
		for i := range 3 {
			b.refused(fmt.Sprint("half-", i), `gang "half": 2 of 3 pods fit`+disagree+"; 0/1 nodes are available: 1 Insufficient cpu.")
		}
		// One that asks for more pods than there are keeps the others from being tried.
		b.pod("half-3", "1", ofGang("half", 5))
		b.refused("half-3", `waiting for minCount pods from a gang to appear in scheduling queue: gang "half" has 4 of 5; the pods of the gang disagree on its size (from 1 to 5), and the largest counts`)
		b.kill("half-3")
		b.node("b", "4")
		for i := range 3 {
			b.placed(fmt.Sprint("half-", i))
		}
	})
	t.Run("its pods are larger than a command", func(t *testing.T) {
		store, log := &measuring{}, &lines{}
		b := startOver(t, func(inner objects.Store) objects.Store {
			store.Store = inner
			return store
		})
		b.stop()
		b.log = log
		b.run()
		b.node("a", "16")
		for i := range 9 {
			b.pod(fmt.Sprint("p", i), "1", ofGang("g", 9), func(p *corev1.Pod) { p.Annotations["large"] = strings.Repeat("x", 250_000) })
		}
		const why = `gang "g": its pods are together larger than one command may be (2 MiB); make the pods or the gang smaller`
		for i := range 9 {
			b.await(fmt.Sprint("p", i), why, func(p *corev1.Pod) bool {
				c := condition(p, corev1.PodScheduled)
				return c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonSchedulerError && c.Message == why && p.Spec.NodeName == ""
			})
		}
		b.event("FailedScheduling " + why)
		// With one of them smaller, the others fit.
		controllertest.Change(t, b.Client, "default", "p0", func(p *corev1.Pod) { delete(p.Annotations, "large"); p.Labels["small"] = "yes" })
		for i := range 9 {
			b.placed(fmt.Sprint("p", i))
		}
		b.stop()
		b.stop = func() {}
		attempts, ofGangs, ofPods := store.refused.Load(), log.count("binding a gang failed"), log.count("binding failed")
		if ofGangs == 0 || ofGangs > attempts || ofPods != 0 {
			t.Errorf("of %d attempts, %d lines in the log about the gang, %d about pods", attempts, ofGangs, ofPods)
		}
	})
	t.Run("more pods than one command can bind", func(t *testing.T) {
		b := start(t)
		for i := range 9 { // together they are larger than a command may be
			b.pod(fmt.Sprint("p", i), "1", ofGang("g", 2), func(p *corev1.Pod) { p.Annotations["large"] = strings.Repeat("x", 250_000) })
		}
		b.refused("p8", `gang "g": 0 of 2 pods fit; no nodes available to schedule pods`)
		b.node("a", "16")
		for i := range 9 {
			b.placed(fmt.Sprint("p", i))
		}
	})
	t.Run("wrong annotations", func(t *testing.T) {
		b := start(t)
		b.node("a", "2")
		b.pod("p", "1", func(p *corev1.Pod) { p.Annotations = map[string]string{"kontiki.io/gang": "g"} })
		b.refused("p", `annotation kontiki.io/gang-size: "" must be a number from 1 to 256`)
		b.pod("q", "1", ofGang("h", 1), func(p *corev1.Pod) { p.Annotations["kontiki.io/gang-timeout"] = "soon" })
		b.refused("q", `annotation kontiki.io/gang-timeout: "soon" must be a duration such as 2m`)
	})
}

// measuring is a store that counts the commands that are refused because they are too large.
type measuring struct {
	objects.Store
	refused atomic.Int32
}

func (s *measuring) Propose(ctx context.Context, c *kv.Command) (kv.Result, error) {
	result, err := s.Store.Propose(ctx, c)
	if errors.Is(err, kv.ErrTooLarge) {
		s.refused.Add(1)
	}
	return result, err
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// count returns how often a text occurs.
func (l *lines) count(text string) int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int32(strings.Count(l.text.String(), text))
}

// TestNoHalfGangsWithFaults: gangs that compete for too few nodes are placed while bindings fail and schedulers follow one another. At
// every instant each gang has all of its pods bound or none, and in the end nothing more fits.
func TestNoHalfGangsWithFaults(t *testing.T) {
	store := &unwilling{}
	b := startOver(t, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	random := rand.New(rand.NewSource(2))
	const nodes, perNode = 5, 4
	for i := range nodes {
		b.node(fmt.Sprint("n", i), "1")
	}
	sizes := map[string]int{}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	half := make(chan string, 1)
	watched := make(chan struct{})
	bound := map[string]int{}
	for i := range 12 {
		sizes[fmt.Sprint("g", i)] = 1 + random.Intn(6)
	}
	go func() {
		defer close(watched)
		_ = b.Client.ViewAndWatch(ctx, []client.Object{&corev1.Pod{}}, func(client.View) error { return nil }, func(events []client.Event) error {
			for _, e := range events { // those of one command
				old, _ := e.Old.(*corev1.Pod)
				if now, ok := e.New.(*corev1.Pod); ok && now.Spec.NodeName != "" && (old == nil || old.Spec.NodeName == "") {
					bound[now.Labels["kontiki.io/gang"]]++
				}
			}
			for name, n := range bound {
				if n < sizes[name] {
					select {
					case half <- fmt.Sprintf("%d of %d pods of %s are bound", n, sizes[name], name):
					default:
					}
				}
			}
			return nil
		})
	}()
	for i := range 12 {
		name := fmt.Sprint("g", i)
		for j := range sizes[name] {
			b.pod(fmt.Sprint(name, "-", j), "250m", ofGang(name, sizes[name]))
			switch random.Intn(8) {
			case 0:
				b.stop()
				b.run()
			case 1:
				store.fail.Store(1)
			}
		}
	}
	// No gang that is left fits.
	settled := errors.New("nothing more fits")
	check := func(v client.View) error {
		free, waiting := nodes*perNode, map[string]int{}
		client.Each(v, "default", func(p *corev1.Pod) bool {
			if p.Spec.NodeName != "" {
				free--
			} else {
				waiting[p.Labels["kontiki.io/gang"]]++
			}
			return true
		})
		for name := range waiting {
			if sizes[name] <= free {
				return nil
			}
		}
		return settled
	}
	until, stop := context.WithTimeout(ctx, 40*time.Second)
	defer stop()
	if err := b.Client.ViewAndWatch(until, []client.Object{&corev1.Pod{}}, check, func([]client.Event) error { return check(b.Client.View()) }); !errors.Is(err, settled) {
		var left []string
		client.Each(b.Client.View(), "default", func(p *corev1.Pod) bool {
			if p.Spec.NodeName == "" {
				left = append(left, p.Name+": "+condition(p, corev1.PodScheduled).Message)
			}
			return true
		})
		t.Fatalf("gangs that fit are not placed: %v\n%s", err, strings.Join(left, "\n"))
	}
	cancel()
	<-watched
	select {
	case what := <-half:
		t.Error(what)
	default:
	}
}
