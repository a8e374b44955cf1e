package scheduler_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/scheduler"
	"github.com/kontiki/kontiki/scheduler/config"
	"github.com/kontiki/kontiki/test/harness"
)

// bed is a running scheduler over a real object service.
type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *record.FakeRecorder
	events   chan string
	metrics  *scheduler.Metrics
	// configuration is the scheduler's; nil for the default one.
	configuration *config.Config
	// log takes the scheduler's log; nil to drop it.
	log io.Writer
	// stop ends the scheduler, and returns when it has ended.
	stop func()
}

func start(t testing.TB) *bed {
	return startOver(t, func(inner objects.Store) objects.Store { return inner })
}

// startOver is start with a wrapper around the store.
func startOver(t testing.TB, over func(objects.Store) objects.Store) *bed {
	t.Helper()
	return startWith(t, nil, over)
}

// startWith is startOver with a configuration of the scheduler.
func startWith(t testing.TB, configuration *config.Config, over func(objects.Store) objects.Store) *bed {
	t.Helper()
	// The usual range has room for 256 nodes; some of these have more.
	h := harness.NewConfigured(t, func(c *apiserver.Config) {
		c.PodRange, c.Store = netip.MustParsePrefix("10.128.0.0/10"), over(c.Store)
	})
	recorder := record.NewFakeRecorder(10000)
	b := &bed{Harness: h, t: t, recorder: recorder, events: recorder.Events, metrics: scheduler.NewMetrics(), configuration: configuration}
	b.run()
	t.Cleanup(func() { b.stop() })
	return b
}

// run starts a scheduler.
func (b *bed) run() {
	service, err := b.Objects.Fence(context.Background(), "scheduler")
	if err != nil {
		b.t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if b.log != nil {
		log = slog.New(slog.NewTextHandler(b.log, nil))
	}
	s := scheduler.New(scheduler.Config{
		Client: client.New(service, "system:kube-scheduler", "kube-scheduler"), Recorder: b.recorder, Log: log,
		Configuration: b.configuration, Metrics: b.metrics,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	b.stop = func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			b.t.Errorf("the scheduler ended with %v", err)
		}
	}
}

func (b *bed) node(name, cpu string, change ...func(*corev1.Node)) {
	b.t.Helper()
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("110")}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}, Status: corev1.NodeStatus{Capacity: list, Allocatable: list}}
	for _, c := range change {
		c(n)
	}
	if _, err := client.Create(context.Background(), b.Client, n); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) pod(name, cpu string, change ...func(*corev1.Pod)) *corev1.Pod {
	b.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", Labels: map[string]string{"app": "x"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}}}}
	for _, c := range change {
		c(p)
	}
	made, err := client.Create(context.Background(), b.Client, p)
	if err != nil {
		b.t.Fatal(err)
	}
	return made
}

// await waits until the pod satisfies the condition, following its changes.
func (b *bed) await(name, what string, holds func(*corev1.Pod) bool) *corev1.Pod {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var last *corev1.Pod
	found := errors.New("found")
	check := func(p *corev1.Pod) error {
		last = p
		if holds(p) {
			return found
		}
		return nil
	}
	err := b.Client.ViewAndWatch(ctx, []client.Object{&corev1.Pod{}}, func(v client.View) error {
		if p, ok := client.Get[*corev1.Pod](v, "default", name); ok {
			return check(p)
		}
		return nil
	}, func(events []client.Event) error {
		for _, e := range events {
			if p, ok := e.New.(*corev1.Pod); ok && p.Name == name {
				if err := check(p); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if !errors.Is(err, found) {
		b.t.Fatalf("pod %s: waited for %s: %v; last: %+v", name, what, err, last)
	}
	return last
}

func (b *bed) placed(name string) string {
	b.t.Helper()
	return b.await(name, "a node", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" }).Spec.NodeName
}

// refused waits until a pod is refused with a message, which need not contain what preemption says.
func (b *bed) refused(name, message string) {
	b.t.Helper()
	means := func(text string) bool {
		without, _, _ := strings.Cut(text, " preemption: ")
		return text == message || without == message
	}
	p := b.await(name, "a refusal with "+message, func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && means(c.Message) {
				return true
			}
		}
		return false
	})
	if p.Spec.NodeName != "" {
		b.t.Fatalf("refused and placed: %+v", p.Spec)
	}
	const want = "Warning FailedScheduling "
	for {
		select {
		case event := <-b.events:
			if text, ok := strings.CutPrefix(event, want); ok && means(text) {
				return
			}
		default:
			b.t.Fatalf("no event %q", want+message)
		}
	}
}

func TestPodsSpreadOverNodesByWhatIsLeft(t *testing.T) {
	b := start(t)
	b.node("a", "2")
	b.node("b", "2")
	count := map[string]int{}
	for i := range 6 {
		b.pod(fmt.Sprint("p", i), "100m")
		count[b.placed(fmt.Sprint("p", i))]++
	}
	if count["a"] != 3 || count["b"] != 3 {
		t.Errorf("6 equal pods on 2 equal nodes: %v", count)
	}
	got := b.await("p0", "a condition", func(p *corev1.Pod) bool { return len(p.Status.Conditions) > 0 })
	if c := got.Status.Conditions[0]; c.Type != corev1.PodScheduled || c.Status != corev1.ConditionTrue {
		t.Errorf("condition: %+v", c)
	}
}

func TestRefusalsSayHowManyNodesFailedForWhat(t *testing.T) {
	taint := func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}
	}
	b := start(t)
	b.pod("lonely", "1")
	b.refused("lonely", "no nodes available to schedule pods")
	b.node("small", "500m")
	b.node("tainted", "8", taint)
	b.node("cordoned", "8", func(n *corev1.Node) { n.Spec.Unschedulable = true })
	b.pod("p", "1")
	b.refused("p", "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.")
	b.pod("picky", "1", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} })
	b.refused("picky", "0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.")
	b.pod("claims", "1", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	})
	b.refused("claims", `0/3 nodes are available: persistentvolumeclaim "data" not found.`)
	b.pod("ephemeral", "1", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}}}}}
	})
	b.refused("ephemeral", `0/3 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "ephemeral-v".`)
	b.pod("tolerant", "1", func(p *corev1.Pod) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists}}
	})
	if at := b.placed("tolerant"); at != "tainted" {
		t.Errorf("the tolerant pod is on %s", at)
	}
}

func TestARefusedPodIsTriedAgainWhenSomethingChanges(t *testing.T) {
	b := start(t)
	b.node("a", "1")
	big := b.pod("big", "800m")
	if b.placed("big") != "a" {
		t.Fatal("not placed")
	}
	b.pod("next", "800m")
	b.refused("next", "0/1 nodes are available: 1 Insufficient cpu.")
	if err := b.Client.Delete(context.Background(), big, client.Grace(0)); err != nil {
		t.Fatal(err)
	}
	if b.placed("next") != "a" {
		t.Fatal("not placed after room was made")
	}
	b.pod("third", "800m")
	b.refused("third", "0/1 nodes are available: 1 Insufficient cpu.")
	b.node("b", "1")
	if at := b.placed("third"); at != "b" {
		t.Errorf("on %s, not on the new node", at)
	}
}

func TestConstraintsOnOtherPods(t *testing.T) {
	zone := func(z string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Labels["zone"] = z }
	}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
	apart := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: selector, TopologyKey: "zone"}}}}
	}
	t.Run("anti-affinity", func(t *testing.T) {
		b := start(t)
		b.node("a", "8", zone("1"))
		b.node("b", "8", zone("2"))
		b.pod("p1", "100m", apart)
		b.pod("p2", "100m", apart)
		if b.placed("p1") == b.placed("p2") {
			t.Error("both in one zone")
		}
		b.pod("p3", "100m", apart)
		b.refused("p3", "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.")
		b.pod("p4", "100m")
		b.refused("p4", "0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.")
		// Once the last of these pods is deleted from a node, the others can run there.
		gone := b.placed("p1")
		for _, name := range []string{"p3", "p1"} {
			if err := b.Client.Delete(context.Background(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}, client.Grace(0)); err != nil {
				t.Fatal(err)
			}
		}
		if at := b.placed("p4"); at != gone {
			t.Errorf("p4 is on %s, p1 was on %s", at, gone)
		}
	})
	t.Run("affinity", func(t *testing.T) {
		b := start(t)
		b.node("a", "8", zone("1"))
		b.node("b", "8", zone("2"))
		together := func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: selector, TopologyKey: "zone"}}}}
		}
		b.pod("p1", "100m", together)
		first := b.placed("p1")
		for _, name := range []string{"p2", "p3"} {
			b.pod(name, "100m", together)
			if at := b.placed(name); at != first {
				t.Errorf("%s is on %s, the first on %s", name, at, first)
			}
		}
	})
	labelled := func(name string, labels map[string]string, b *bed, change ...func(*corev1.Pod)) {
		b.pod(name, "10m", append(change, func(p *corev1.Pod) { p.Labels = labels })...)
	}
	// near returns a pod with an affinity to pods that have all of the labels, with a term for each.
	near := func(names ...string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			affinity := &corev1.PodAffinity{}
			for _, name := range names {
				affinity.RequiredDuringSchedulingIgnoredDuringExecution = append(affinity.RequiredDuringSchedulingIgnoredDuringExecution, corev1.PodAffinityTerm{
					LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{name: "yes"}}, TopologyKey: "zone"})
			}
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: affinity}
		}
	}
	t.Run("affinity to a pod that comes later", func(t *testing.T) {
		b := start(t)
		b.node("a", "8", zone("1"))
		b.node("b", "8", zone("2"))
		labelled("waits", nil, b, near("db"))
		b.refused("waits", "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.")
		labelled("db", map[string]string{"db": "yes"}, b)
		if at, db := b.placed("waits"), b.placed("db"); at != db {
			t.Errorf("it is on %s, what it waited for on %s", at, db)
		}
	})
	t.Run("affinity to pods of a namespace that is labelled later", func(t *testing.T) {
		b := start(t)
		ctx := context.Background()
		b.node("a", "8", zone("1"))
		b.node("b", "8", zone("2"))
		other, err := client.Create(ctx, b.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Create(ctx, b.Client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "other"}}); err != nil {
			t.Fatal(err)
		}
		labelled("db", map[string]string{"db": "yes"}, b, func(p *corev1.Pod) { p.Namespace, p.Spec.NodeName = "other", "b" })
		labelled("waits", nil, b, near("db"), func(p *corev1.Pod) {
			p.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
		})
		b.refused("waits", "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.")
		other.Labels["team"] = "a"
		if _, err := client.Update(ctx, b.Client, other); err != nil {
			t.Fatal(err)
		}
		if at := b.placed("waits"); at != "b" {
			t.Errorf("it is on %s, what it waited for on b", at)
		}
	})
	t.Run("several terms are one condition", func(t *testing.T) {
		b := start(t)
		b.node("a", "8", zone("1"))
		labelled("x", map[string]string{"x": "yes"}, b)
		labelled("y", map[string]string{"y": "yes"}, b)
		b.placed("x")
		b.placed("y")
		labelled("other", nil, b, near("x", "y"))
		b.refused("other", "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.")
		// No other pod matches both: it is the first of its group.
		labelled("first", map[string]string{"x": "yes", "y": "yes"}, b, near("x", "y"))
		b.placed("first")
		b.placed("other") // now there is one
	})
	t.Run("nodes that a spread leaves out", func(t *testing.T) {
		honor, ignore := corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore
		for name, test := range map[string]struct {
			affinity, taints *corev1.NodeInclusionPolicy
			tainted, fits    bool
		}{
			"taints count by default":         {nil, nil, true, false},
			"taints are honoured if asked":    {nil, &honor, true, true},
			"affinity is honoured by default": {nil, nil, false, true},
			"affinity is ignored if asked":    {&ignore, nil, false, false},
		} {
			t.Run(name, func(t *testing.T) {
				b := start(t)
				b.node("a", "8", zone("1"))
				b.node("b", "8", zone("2"), func(n *corev1.Node) {
					if test.tainted {
						n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
					}
				})
				spread := func(p *corev1.Pod) {
					p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule,
						LabelSelector: selector, NodeAffinityPolicy: test.affinity, NodeTaintsPolicy: test.taints}}
					if !test.tainted {
						p.Spec.NodeSelector = map[string]string{"zone": "1"}
					}
				}
				b.pod("p1", "10m", spread)
				b.placed("p1")
				b.pod("p2", "10m", spread)
				if test.fits {
					b.placed("p2")
					return
				}
				want := "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) didn't match pod topology spread constraints."
				if test.tainted {
					want = "0/2 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) had untolerated taint(s)."
				}
				b.refused("p2", want)
			})
		}
	})
	t.Run("a spread that another pod makes even", func(t *testing.T) {
		b := start(t)
		b.node("a", "8", zone("1"))
		b.node("b", "8", zone("2"))
		in := func(z string) func(*corev1.Pod) {
			return func(p *corev1.Pod) {
				ignore := corev1.NodeInclusionPolicyIgnore
				p.Spec.NodeSelector = map[string]string{"zone": z}
				p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule,
					LabelSelector: selector, NodeAffinityPolicy: &ignore}}
			}
		}
		b.pod("p1", "10m", in("1"))
		b.placed("p1")
		b.pod("p2", "10m", in("1"))
		b.refused("p2", "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) didn't match pod topology spread constraints.")
		b.pod("p3", "10m", in("2"))
		b.placed("p3")
		b.placed("p2")
	})
	t.Run("spread", func(t *testing.T) {
		b := start(t)
		b.node("a", "8", zone("1"))
		b.node("b", "2", zone("2"))
		even := func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: selector}}
		}
		count := map[string]int{}
		for i := range 4 {
			b.pod(fmt.Sprint("p", i), "10m", even)
			count[b.placed(fmt.Sprint("p", i))]++
		}
		if count["a"] != 2 || count["b"] != 2 {
			t.Errorf("4 pods with a skew of at most 1: %v", count)
		}
	})
	t.Run("host ports", func(t *testing.T) {
		b := start(t)
		b.node("a", "8")
		port := func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 8080}}
			p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}}}
		}
		b.pod("p1", "10m", port)
		b.placed("p1")
		b.pod("p2", "10m", port)
		b.refused("p2", "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.")
	})
}

func TestPodsOfOthersAndGatedOnesAreLeftAlone(t *testing.T) {
	b := start(t)
	b.node("a", "8")
	b.pod("other", "10m", func(p *corev1.Pod) { p.Spec.SchedulerName = "another" })
	b.pod("gated", "10m", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/hold"}} })
	b.pod("plain", "10m")
	b.placed("plain")
	view := b.Client.View()
	for _, name := range []string{"other", "gated"} {
		if p, _ := client.Get[*corev1.Pod](view, "default", name); p.Spec.NodeName != "" {
			t.Errorf("%s was scheduled to %s", name, p.Spec.NodeName)
		}
	}
	stored, _ := client.Get[*corev1.Pod](view, "default", "gated")
	gated := stored.DeepCopy()
	gated.Spec.SchedulingGates = nil
	if _, err := client.Update(context.Background(), b.Client, gated); err != nil {
		t.Fatal(err)
	}
	b.placed("gated")
}

// unwilling is a store that fails a number of times to bind a pod.
type unwilling struct {
	objects.Store
	fail atomic.Int32
}

func (s *unwilling) Propose(ctx context.Context, c *kv.Command) (kv.Result, error) {
	for i := range c.Ops {
		if strings.Contains(c.Ops[i].Key, "/pods/") && bytes.Contains(c.Ops[i].Value, []byte("Scheduled")) && s.fail.Add(-1) >= 0 {
			return kv.Result{}, errors.New("the disk is full")
		}
	}
	return s.Store.Propose(ctx, c)
}

func TestABindingThatFailsIsTriedAgain(t *testing.T) {
	store := &unwilling{}
	store.fail.Store(2)
	b := startOver(t, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	b.node("a", "8")
	b.pod("p", "1")
	b.placed("p")
	if n := store.fail.Load(); n >= 0 {
		t.Errorf("%d failures are left", n+1)
	}
}
