package scheduler_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
)

// TestNoNodeIsOvercommittedOverChangesOfLeader: schedulers follow one another while pods of several templates come and go, and writes
// fail. At the end every pod that fits is placed, and at no time did the pods of a node request more than it has.
func TestNoNodeIsOvercommittedOverChangesOfLeader(t *testing.T) {
	store := &unwilling{}
	b := startOver(t, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	const nodes, perNode = 10, 4
	for i := range nodes {
		b.node(fmt.Sprint("n", i), "1")
	}
	random := rand.New(rand.NewSource(1))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	overcommitted := make(chan string, 1)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		on := map[string]map[string]bool{}
		_ = b.Client.ViewAndWatch(ctx, []client.Object{&corev1.Pod{}}, func(client.View) error { return nil }, func(events []client.Event) error {
			for _, e := range events {
				p := e.Object().(*corev1.Pod)
				if p.Spec.NodeName == "" {
					continue
				}
				if on[p.Spec.NodeName] == nil {
					on[p.Spec.NodeName] = map[string]bool{}
				}
				if e.New == nil {
					delete(on[p.Spec.NodeName], p.Name)
				} else {
					on[p.Spec.NodeName][p.Name] = true
				}
				if len(on[p.Spec.NodeName]) > perNode {
					select {
					case overcommitted <- fmt.Sprintf("node %s has %d pods", p.Spec.NodeName, len(on[p.Spec.NodeName])):
					default:
					}
				}
			}
			return nil
		})
	}()
	for i := range 60 {
		b.pod(fmt.Sprint("p", i), "250m", func(p *corev1.Pod) { p.Labels["template"] = fmt.Sprint(i % 3) })
		switch random.Intn(6) {
		case 0:
			b.stop()
			b.run()
		case 1:
			store.fail.Store(1)
		case 2:
			if name := fmt.Sprint("p", random.Intn(i+1)); random.Intn(2) == 0 {
				if _, ok := client.Get[*corev1.Pod](b.Client.View(), "default", name); ok {
					b.kill(name)
				}
			}
		}
	}
	settled := errors.New("all that have room are placed")
	check := func(v client.View) error {
		placed, pods := 0, 0
		client.Each(v, "default", func(p *corev1.Pod) bool {
			pods++
			if p.Spec.NodeName != "" {
				placed++
			}
			return true
		})
		if placed == min(pods, nodes*perNode) {
			return settled
		}
		return nil
	}
	waiting, stop := context.WithTimeout(ctx, 30*time.Second)
	defer stop()
	err := b.Client.ViewAndWatch(waiting, []client.Object{&corev1.Pod{}}, check, func([]client.Event) error { return check(b.Client.View()) })
	if !errors.Is(err, settled) {
		t.Fatalf("not all pods that have room are placed: %v", err)
	}
	cancel()
	<-watched
	select {
	case what := <-overcommitted:
		t.Error(what)
	default:
	}
}

// holding is a store that keeps bindings instead of carrying them out, as a leader may that has lost its connections.
type holding struct {
	objects.Store
	hold atomic.Bool
	held chan *kv.Command
}

func (s *holding) Propose(ctx context.Context, c *kv.Command) (kv.Result, error) {
	for i := range c.Ops {
		if strings.Contains(c.Ops[i].Key, "/pods/") && bytes.Contains(c.Ops[i].Value, []byte("Scheduled")) && s.hold.Load() {
			s.held <- c
			<-ctx.Done()
			return kv.Result{}, kv.ErrOutcomeUnknown
		}
	}
	return s.Store.Propose(ctx, c)
}

// TestALateBindingOfAnEarlierLeaderIsRefused: it arrives when the next leader has given the room away.
func TestALateBindingOfAnEarlierLeaderIsRefused(t *testing.T) {
	store := &holding{held: make(chan *kv.Command, 10)}
	b := startOver(t, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	b.classes()
	b.node("a", "1")
	store.hold.Store(true)
	b.pod("late", "600m")
	command := <-store.held
	b.stop()
	store.hold.Store(false)
	b.pod("first", "600m", class("high"))
	b.run()
	b.placed("first")
	result, err := store.Store.Propose(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	if result.Failed == nil || b.now("late").Spec.NodeName != "" {
		t.Errorf("the late binding was carried out: %+v", b.now("late").Spec.NodeName)
	}
}
