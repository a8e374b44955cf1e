package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/scheduler/config"
	"github.com/kontiki/kontiki/test/harness"
)

func TestANamespacesSearchesTakeAShare(t *testing.T) {
	s, now := searches{}, time.Unix(1000, 0)
	paused := func(namespace string) time.Duration { return max(s.pausedUntil(namespace).Sub(now), 0) }
	for range 5 {
		if got := paused("a"); got != 0 {
			t.Fatalf("paused for %v before the burst is used up", got)
		}
		s.charge("a", time.Second, now)
	}
	s.charge("a", time.Second, now)
	if a, b := paused("a"), paused("b"); a != 20*time.Second || b != 0 {
		t.Errorf("a is paused for %v, b for %v", a, b)
	}
	// In the long run, attempts that are made as soon as they may be take 5 % of the time beyond the burst.
	taken, start := time.Duration(0), now
	for now.Sub(start) < time.Hour {
		now = now.Add(paused("a"))
		s.charge("a", time.Second, now)
		taken += time.Second
	}
	if limit := now.Sub(start) / 20; taken > limit+2*time.Second {
		t.Errorf("%v were taken in %v", taken, now.Sub(start))
	}
	s.charge("a", 24*time.Hour, now)
	if got := paused("a"); got != longestPause {
		t.Errorf("paused for %v after an attempt of a day", got)
	}
	now = now.Add(time.Hour)
	if s.charge("b", time.Second, now); len(s) != 1 {
		t.Errorf("%d namespaces are known, most of which owe nothing", len(s))
	}
}

// hard returns a scheduler that does not run, with claims hard-0 to hard-(n-1) in the namespace default that take exponential time to
// refuse. By its clock, at least a second passes between two looks at it.
func hard(t *testing.T, n int) (s *Scheduler, now *time.Time) {
	t.Helper()
	h := harness.New(t)
	conf, err := config.Parse([]byte(`apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles: [{pluginConfig: [{name: DynamicResources, args: {filterTimeout: 5ms}}]}]
`))
	if err != nil {
		t.Fatal(err)
	}
	s = New(Config{Client: h.Client, Recorder: record.NewFakeRecorder(1000), Log: slog.New(slog.DiscardHandler), Configuration: conf})
	now = new(time.Now())
	s.now = func() time.Time {
		*now = now.Add(time.Second)
		return *now
	}
	controllertest.Create(t, h.Client, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}})
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("110")}
	controllertest.Create(t, h.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Capacity: list, Allocatable: list}})
	var devices []resourcev1.Device
	for i := range 60 {
		model := fmt.Sprint("M", i%2)
		devices = append(devices, resourcev1.Device{Name: fmt.Sprint("d", i), Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"model": {StringValue: &model}}})
	}
	controllertest.Create(t, h.Client, &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "gpu.example.com", NodeName: new("n"), Pool: resourcev1.ResourcePool{Name: "n", ResourceSliceCount: 1, Generation: 1}, Devices: devices}})
	model := resourcev1.FullyQualifiedName("gpu.example.com/model")
	for i := range n {
		controllertest.Create(t, h.Client, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("hard-", i)}, Spec: resourcev1.ResourceClaimSpec{
			Devices: resourcev1.DeviceClaim{
				Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{
					DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 31}}},
				Constraints: []resourcev1.DeviceConstraint{{MatchAttribute: &model}},
			}}})
	}
	if err := s.start(h.Client.View()); err != nil {
		t.Fatal(err)
	}
	for _, work := range s.inbox.take() {
		work()
	}
	return s, now
}

func claiming(claim string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "c", ResourceClaimName: &claim}}
	}
}

// all makes decisions until the queue is empty, and returns how many pods were tried of those that are still in the queue.
func (s *Scheduler) all() (tried int) {
	for s.scheduleOne(context.Background()) {
	}
	for _, r := range s.reporter.pending {
		if strings.Contains(r.message, "timed out trying to allocate devices") {
			tried++
		}
	}
	return tried
}

func TestPodsWhoseSearchTakesLongHoldNobodyUp(t *testing.T) {
	const pods = 20
	s, now := hard(t, pods)
	for i := range pods {
		s.arrive(unassigned(fmt.Sprint("p", i), claiming(fmt.Sprint("hard-", i))))
	}
	s.arrive(unassigned("plain"))
	s.arrive(unassigned("elsewhere", func(p *corev1.Pod) { p.Namespace = "other" }))
	tried := s.all()
	if tried == 0 || tried > 9 { // each takes a second at least, of five, and of what is earned meanwhile
		t.Errorf("%d pods were tried at once", tried)
	}
	for _, name := range []string{"plain", "elsewhere"} {
		if s.assumed[unassigned(name).UID] == nil {
			t.Errorf("%s was not placed", name)
		}
	}
	waiting := 0
	for _, r := range s.reporter.pending {
		if r.message == searchesPaused {
			waiting++
		}
	}
	if waiting != pods-tried {
		t.Errorf("%d pods were told that they wait, and %d were tried", waiting, tried)
	}
	for uid := range s.reporter.pending {
		if e := s.queue.Get(uid); e.Attempts > 0 && e.Took < time.Second {
			t.Errorf("%s was charged %v", uid, e.Took)
		}
	}
	// After the pause the others get their turn, before those that were tried.
	*now = now.Add(10 * time.Minute)
	s.queue.Due(*now)
	if later := s.all(); later <= tried || later > tried+9 {
		t.Errorf("%d pods were tried, and later %d", tried, later)
	}
}

func TestAGangWhoseSearchTakesLongHoldsNobodyUp(t *testing.T) {
	const pods = 20
	s, _ := hard(t, pods)
	for i := range pods {
		s.arrive(unassigned(fmt.Sprint("p", i), claiming(fmt.Sprint("hard-", i)), func(p *corev1.Pod) {
			p.Annotations = map[string]string{"kontiki.io/gang": "g", gangSize: fmt.Sprint(pods)}
		}))
	}
	charged := 0
	for s.scheduleOne(context.Background()) {
	}
	for i := range pods {
		e := s.queue.Get(unassigned(fmt.Sprint("p", i)).UID)
		if e.Took > 0 {
			charged++
		}
	}
	if charged == 0 || charged > 9 {
		t.Errorf("%d pods of the gang were tried at once", charged)
	}
}
