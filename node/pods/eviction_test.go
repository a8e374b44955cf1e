package pods

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/pods/eviction"
	"github.com/kontiki/kontiki/node/runtime"
)

// rooms are what a test's node has.
type rooms struct {
	mu sync.Mutex
	m  map[eviction.Signal]eviction.Room
}

func (r *rooms) set(s eviction.Signal, available, capacity int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.m[s] = eviction.Room{Available: available, Capacity: capacity}
}

func (r *rooms) get(context.Context) map[eviction.Signal]eviction.Room {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[eviction.Signal]eviction.Room{}
	for k, v := range r.m {
		out[k] = v
	}
	return out
}

// guarded restarts the node's manager with thresholds, and enough of everything.
func (n *node) guarded(soft, grace string) *rooms {
	n.t.Helper()
	r := &rooms{m: map[eviction.Signal]eviction.Room{}}
	for _, s := range []eviction.Signal{eviction.MemoryAvailable, eviction.NodeFsAvailable, eviction.NodeFsInodesFree, eviction.ImageFsAvailable, eviction.ImageFsInodesFree, eviction.PidAvailable} {
		r.set(s, 90<<30, 100<<30)
	}
	thresholds, err := eviction.ParseThresholds(eviction.Default+",pid.available<10%", soft, grace)
	if err != nil {
		n.t.Fatal(err)
	}
	n.stop()
	n.change = func(c *Config) { c.Rooms, c.Eviction, c.ImageGC = r.get, thresholds, n.images }
	n.start()
	return r
}

func using2(name string, memory string, priority int32) *corev1.Pod {
	p := pod(name, corev1.RestartPolicyAlways, trap)
	p.Spec.Containers[0].Name = "c-" + name // statistics are by name
	p.Spec.Priority = &priority
	if memory != "" {
		p.Spec.Containers[0].Resources.Requests = amounts("", memory)
	}
	return p
}

func TestPodsAreEvictedWhenMemoryRunsOut(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		r := n.guarded("", "")
		within, low, high, critical := using2("within", "200Mi", -5), using2("low", "50Mi", 0), using2("high", "50Mi", 100), using2("critical", "", systemCritical)
		for _, p := range []*corev1.Pod{within, low, high, critical} {
			n.m.Update(p)
			n.rt.SetStats("c-"+p.Name, runtime.Stats{Usage: runtime.Usage{MemoryWorkingSet: 100 << 20}})
			n.running(p, "c-"+p.Name)
		}
		if got := n.m.Pressure(); len(got) != 0 {
			t.Fatalf("pressure %v", got)
		}
		r.set(eviction.MemoryAvailable, 50<<20, 1<<30)
		pass(eviction.Period + time.Second)
		s := n.status(low)
		want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c-low was using 100Mi, request is 50Mi, has larger consumption of memory. "
		if s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != want || !n.hasEnded(low) {
			t.Fatalf("status %+v", s)
		}
		if c := condition(s.Conditions, corev1.DisruptionTarget); c == nil || c.Reason != "TerminationByKubelet" || c.Message != want {
			t.Errorf("condition %+v", c)
		}
		if said := n.said("Evicted"); !slices.Equal(said, []string{want}) {
			t.Errorf("said %q", said)
		}
		if got := n.m.Pressure(); !slices.Equal(got, []corev1.NodeConditionType{corev1.NodeMemoryPressure}) {
			t.Errorf("pressure %v", got)
		}
		// One after the other; what stays within its request comes last, what is critical never.
		pass(eviction.Period)
		if !n.hasEnded(high) || n.hasEnded(within) {
			t.Errorf("high ended %v, within ended %v", n.hasEnded(high), n.hasEnded(within))
		}
		pass(3 * eviction.Period)
		if !n.hasEnded(within) || n.hasEnded(critical) {
			t.Errorf("within ended %v, critical ended %v", n.hasEnded(within), n.hasEnded(critical))
		}
		// The condition stays for a while, and keeps pods away that would be the first to go.
		r.set(eviction.MemoryAvailable, 500<<20, 1<<30)
		pass(eviction.Holds - 2*eviction.Period)
		best, burstable := using2("best", "", 0), using2("burstable", "10Mi", 0)
		n.m.Update(best)
		n.m.Update(burstable)
		n.running(burstable, "c-burstable")
		if s := n.status(best); s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != "Pod was rejected: The node had condition: [MemoryPressure]. " {
			t.Errorf("a best-effort pod: %+v", s)
		}
		pass(4 * eviction.Period)
		if got := n.m.Pressure(); len(got) != 0 {
			t.Errorf("pressure %v", got)
		}
	})
}

func TestSoftThresholdsWait(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		r := n.guarded("memory.available<1Gi", "memory.available=1m")
		p := using2("a", "", 0)
		n.m.Update(p)
		n.running(p, "c-a")
		r.set(eviction.MemoryAvailable, 500<<20, 8<<30)
		pass(50 * time.Second)
		if n.hasEnded(p) || len(n.m.Pressure()) != 1 {
			t.Fatalf("evicted within the period of grace, or no pressure: %v", n.m.Pressure())
		}
		r.set(eviction.MemoryAvailable, 2<<30, 8<<30)
		pass(eviction.Period + time.Second)
		r.set(eviction.MemoryAvailable, 500<<20, 8<<30)
		pass(50 * time.Second)
		if n.hasEnded(p) {
			t.Fatal("the period did not begin again")
		}
		pass(30 * time.Second)
		if !n.hasEnded(p) {
			t.Error("not evicted after the period of grace")
		}
	})
}

func TestImagesGoBeforePods(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		r := n.guarded("", "")
		p := using2("a", "", 0)
		n.m.Update(p)
		n.running(p, "c-a")
		n.rt.SetStats("c-a", runtime.Stats{RootfsBytes: 5 << 30, RootfsInodes: 10, Usage: runtime.Usage{Processes: 3}})
		for _, ref := range []string{"docker.io/test/old:1", "docker.io/test/new:1"} {
			n.rt.Provide(ref)
			if _, err := n.rt.PullImage(context.Background(), ref, runtime.Auth{}); err != nil {
				t.Fatal(err)
			}
			pass(eviction.ImagesPeriod + time.Second)
		}
		if _, err := n.rt.ImportImage(context.Background(), strings.NewReader("docker.io/test/imported:1")); err != nil {
			t.Fatal(err)
		}
		names := func() []string {
			list, _ := n.rt.ListImages(context.Background())
			var out []string
			for _, i := range list {
				out = append(out, i.RepoTags...)
			}
			return out
		}
		// Above 85 percent the longest unused image goes, as far as needed: the fake's images have 1 MiB.
		r.set(eviction.ImageFsAvailable, 4<<20, 20<<20)
		pass(eviction.ImagesPeriod + time.Second)
		if got := names(); len(got) != 4 {
			t.Fatalf("removed below the threshold: %q", got)
		}
		r.set(eviction.ImageFsAvailable, 3<<20, 20<<20)
		pass(eviction.ImagesPeriod + time.Second)
		synctest.Wait()
		got := names()
		slices.Sort(got)
		if !slices.Equal(got, []string{image, "docker.io/test/imported:1", "docker.io/test/new:1"}) {
			t.Errorf("images %q", got)
		}
		if n.hasEnded(p) {
			t.Fatal("the pod was evicted although images could be removed")
		}
		// When only images in use are left, a pod goes.
		r.set(eviction.NodeFsAvailable, 5<<30, 100<<30)
		pass(2*eviction.Period + time.Second)
		s := n.status(p)
		want := "The node was low on resource: ephemeral-storage. Threshold quantity: 10Gi, available: 5Gi. Container c-a was using 5Gi, request is 0, has larger consumption of ephemeral-storage. "
		if s.Reason != "Evicted" || s.Message != want {
			t.Errorf("status %+v, want %q", s, want)
		}
		again := using2("again", "1Mi", 0)
		n.m.Update(again)
		if s := n.status(again); s.Reason != "Evicted" || s.Message != "Pod was rejected: The node had condition: [DiskPressure]. " {
			t.Errorf("a pod under disk pressure: %+v", s)
		}
	})
}

func TestUnusedImagesAge(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.images = eviction.DefaultImageGC
		n.images.MaxAge = time.Hour
		n.guarded("", "")
		n.rt.Provide("docker.io/test/old:1")
		if _, err := n.rt.PullImage(context.Background(), "docker.io/test/old:1", runtime.Auth{}); err != nil {
			t.Fatal(err)
		}
		p := using2("a", "", 0)
		n.m.Update(p)
		n.running(p, "c-a")
		count := func() int { list, _ := n.rt.ListImages(context.Background()); return len(list) }
		pass(50 * time.Minute)
		if count() != 2 {
			t.Fatalf("%d images", count())
		}
		pass(30 * time.Minute)
		if count() != 1 {
			t.Errorf("%d images", count())
		}
	})
}

// A period of any length may be asked for: as a duration it must not become negative.
func TestGreatPeriodsDoNotOverflow(t *testing.T) {
	p := pod("a", corev1.RestartPolicyAlways, trap)
	for _, n := range []int64{math.MaxInt64, math.MaxInt64 / 1000000000 * 10, 1 << 40} {
		p.Spec.TerminationGracePeriodSeconds = &n
		if got := gracePeriod(p, nil); got != maxGrace {
			t.Errorf("%d seconds: %v", n, got)
		}
	}
	bubble(t, func(t *testing.T, n *node) {
		long := int64(math.MaxInt64)
		p := pod("a", corev1.RestartPolicyAlways, `sh|-c|trap "" TERM; while :; do :; done`)
		p.Spec.TerminationGracePeriodSeconds, p.Spec.ActiveDeadlineSeconds = &long, &long
		n.m.Update(p)
		n.running(p, "c1")
		n.m.Update(deleting(p, long))
		pass(24 * time.Hour)
		if n.hasEnded(p) {
			t.Error("the pod was killed within its period of grace")
		}
		n.m.Update(deleting(p, 1))
		pass(5 * time.Second)
		if !n.hasEnded(p) {
			t.Error("a shorter period had no effect")
		}
	})
}
