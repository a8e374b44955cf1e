package statefulset_test

import (
	"context"
	"fmt"
	"math/rand"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/statefulset"
	"github.com/kontiki/kontiki/test/harness"
)

// TestControllersThatStopAnywhere: the leader changes after any few events, and at times the next one begins before the last one has
// ended. The roll-outs and sizes end as declared, no more pods are unavailable than allowed, and a pod is created only when its
// predecessors are ready.
func TestControllersThatStopAnywhere(t *testing.T) {
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	b := &bed{Harness: harness.New(t), t: t, recorder: controllertest.NewRecorder()}
	b.kubelet = controllertest.StartKubelet(t, b.Client)
	run := func() (stop func()) { return controllertest.Run(t, b.Client, statefulset.New(b.Client, b.recorder)) }
	events := make(chan struct{}, 10000)
	stopFollowing := b.follow(func(revision uint64, e client.Event, all map[string]*corev1.Pod) {
		select {
		case events <- struct{}{}:
		default:
		}
		if e.Old == nil {
			for i := range 5 {
				if before := fmt.Sprintf("web-%d", i); before < e.New.GetName() && !healthy(all[before]) {
					t.Errorf("revision %d: %s is created before %s is ready", revision, e.New.GetName(), before)
				}
			}
		}
		unready := 0
		for _, p := range all {
			if p.DeletionTimestamp != nil {
				unready++
			}
		}
		if unready > 1 {
			t.Errorf("revision %d: %d pods are being deleted at once", revision, unready)
		}
	})
	defer stopFollowing()
	controllertest.Create(t, b.Client, web(5))
	for step := range 4 {
		switch step {
		case 1, 3:
			b.image(fmt.Sprint("v", step+1))
		case 2:
			b.scale(2)
		}
		stop := run()
		for !b.settled() {
			wait, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond) // at the end there are no more events
			for range 1 + random.Intn(6) {
				select {
				case <-events:
				case <-wait.Done():
				}
			}
			cancel()
			if random.Intn(3) == 0 {
				last := stop
				stop = run() // for a moment there are two
				last()
			} else {
				stop()
				stop = run()
			}
		}
		b.complete()
		stop()
	}
	b.awaitImages("web-0=v4 web-1=v4")
}

// settled says whether the set is rolled out, by its status.
func (b *bed) settled() bool {
	set, ok := client.Get[*appsv1.StatefulSet](b.Client.View(), "default", "web")
	return ok && set.Status.ObservedGeneration == set.Generation && set.Status.UpdatedReplicas == *set.Spec.Replicas &&
		set.Status.ReadyReplicas == *set.Spec.Replicas && set.Status.Replicas == *set.Spec.Replicas
}
