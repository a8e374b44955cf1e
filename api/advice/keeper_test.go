package advice

import (
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/usage"
	"github.com/kontiki/kontiki/controller/controllertest"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// cluster is an API with a Deployment of two pods, and what their worker reports.
type cluster struct {
	*harness.Harness
	local *usage.Local
	k     *Keeper
	pods  []*corev1.Pod
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{Harness: harness.New(t), local: usage.NewLocal()}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	selector := &metav1.LabelSelector{MatchLabels: template.Labels}
	owner := func(kind, name string, uid types.UID) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: uid, Controller: ptr.To(true)}}
	}
	d := controllertest.Create(t, c.Client, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}})
	rs := controllertest.Create(t, c.Client, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", OwnerReferences: owner("Deployment", "web", d.UID)},
		Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template}})
	for _, name := range []string{"web-1-a", "web-1-b"} {
		controllertest.Create(t, c.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, OwnerReferences: owner("ReplicaSet", "web-1", rs.UID)},
			Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}}}}}})
		c.pods = append(c.pods, controllertest.ChangeStatus(t, c.Client, "default", name, func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning }))
	}
	c.k = New(Config{Usage: usage.NewDirectory(usage.Config{Local: c.local}), Client: c.Client, Log: slog.New(slog.DiscardHandler)})
	return c
}

// uses makes the worker report what each pod uses, and the keeper sample it.
func (c *cluster) uses(t *testing.T, at time.Time, cores float64, bytes uint64) {
	t.Helper()
	now := time.Now().UnixNano()
	compute := &nodev1.ComputeUsage{CpuNanocores: uint64(cores * 1e9), WindowMs: 15_000, MemoryWorkingSetBytes: bytes}
	r := &nodev1.UsageReport{Node: &nodev1.NodeUsage{Time: now, Compute: compute}}
	for _, pod := range c.pods {
		r.Pods = append(r.Pods, &nodev1.PodUsage{Namespace: pod.Namespace, Name: pod.Name, Uid: string(pod.UID), Complete: true, Containers: []*nodev1.ContainerUsage{{Name: "c", Time: now, Compute: compute}}})
	}
	encoded, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.local.Put("n", encoded, func(*nodev1.PodUsage) bool { return true }); err != nil {
		t.Fatal(err)
	}
	c.k.sample(t.Context(), at)
}

func TestAWorkloadsPodsAreOneItem(t *testing.T) {
	c := newCluster(t)
	if l := c.k.Advise(""); len(l.Items) != 0 {
		t.Errorf("without samples: %+v", l)
	}
	began := time.Now()
	for i := range 60 {
		c.uses(t, began.Add(time.Duration(i)*time.Minute), 0.2, 100<<20)
	}
	l := c.k.Advise("default")
	if len(l.Items) != 1 || len(c.k.Advise("kube-system").Items) != 0 {
		t.Fatalf("%+v", l)
	}
	i := l.Items[0]
	if i.Workload != (usage.Workload{Namespace: "default", Kind: "Deployment", Name: "web"}) || i.Container != "c" || i.Pods != 2 || i.Samples != 120 || i.CPU.Request.String() != "1" || i.Memory.Request.String() != "1Gi" || i.CPU.Limit != nil {
		t.Errorf("%+v", i)
	}
	if m := i.CPU.Target.MilliValue(); m < 230 || m > 260 {
		t.Errorf("processors: %s", &i.CPU.Target)
	}
	if m := i.Memory.Target.Value() >> 20; m < 115 || m > 130 {
		t.Errorf("memory: %s", &i.Memory.Target)
	}
	s := c.k.Usage.Now(t.Context())
	if n := c.k.Need(s, c.pods[0], 2*time.Hour); len(n) != 0 {
		t.Errorf("advice of an hour is taken for one of two: %+v", n)
	}
	if n := c.k.Need(s, c.pods[0], 30*time.Minute)["c"]; n.UsedCPU != 0.2 || n.UsedMemory != 100<<20 || n.CPU < 0.23 || n.Memory < 115<<20 {
		t.Errorf("%+v", n)
	}
}

func TestAContainerThatWasOutOfMemoryNeedsMore(t *testing.T) {
	c := newCluster(t)
	began := time.Now()
	c.uses(t, began, 0.1, 100<<20)
	for _, pod := range c.pods {
		controllertest.ChangeStatus(t, c.Client, "default", pod.Name, func(p *corev1.Pod) {
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", Image: "i", ImageID: "i", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137, FinishedAt: metav1.NewTime(began.Add(30 * time.Second))}}}}
		})
	}
	c.uses(t, began.Add(time.Minute), 0.1, 100<<20)
	first := c.k.Advise("").Items[0].Memory.Target
	if first.Value() < 1200<<20 { // 1 GiB and 20 percent, and the margin
		t.Errorf("memory: %s", &first)
	}
	c.uses(t, began.Add(2*time.Minute), 0.1, 100<<20) // the same kill does not count again
	if again := c.k.Advise("").Items[0].Memory.Target; again.Cmp(first) > 0 {
		t.Errorf("then: %s", &again)
	}
}

// What is kept is bounded, and what runs has its place before what ran.
func TestTheKeeperIsBounded(t *testing.T) {
	c := newCluster(t)
	now := time.Now()
	of := func(i int) key {
		return key{usage.Workload{Namespace: "default", Kind: "Pod", Name: string(rune('a'+i%26)) + time.Duration(i).String()}, "c"}
	}
	for i := range mostTracked + 100 {
		c.k.add(of(i), now, 1, 1, 1)
	}
	if len(c.k.known) != mostTracked {
		t.Errorf("%d are known", len(c.k.known))
	}
	c.uses(t, now.Add(2*time.Hour), 0.1, 1<<20)
	if len(c.k.known) != 1 {
		t.Errorf("%d are known", len(c.k.known))
	}
	c.k.sample(t.Context(), now.Add(9*24*time.Hour))
	if c.k.sampled.IsZero() || len(c.k.known) > 1 {
		t.Errorf("%d are known after nine days", len(c.k.known))
	}
	var none client.Object = c.pods[0]
	if w := usage.WorkloadOf(c.Client.View(), none.(*corev1.Pod)); w.Kind != "Deployment" {
		t.Errorf("%+v", w)
	}
}

// A sample costs what changed: pods that are as before are not decoded again.
func TestOnlyChangedPodsAreLookedAt(t *testing.T) {
	c := newCluster(t)
	began := time.Now()
	at := c.Client.KindOf(&corev1.Pod{}).Key("default", "web-1-a")
	c.uses(t, began, 0.1, 1<<20)
	first := c.k.pods[at]
	c.uses(t, began.Add(time.Minute), 0.1, 1<<20)
	if first == nil || c.k.pods[at] != first {
		t.Error("a pod that did not change was looked at again")
	}
	controllertest.Change(t, c.Client, "default", "web-1-a", func(p *corev1.Pod) { p.Labels = map[string]string{"new": "label"} })
	c.uses(t, began.Add(2*time.Minute), 0.1, 1<<20)
	if c.k.pods[at] == first || len(c.k.pods) != 2 || c.k.Advise("").Items[0].Samples != 6 {
		t.Errorf("%d pods, advice %+v", len(c.k.pods), c.k.Advise(""))
	}
}
