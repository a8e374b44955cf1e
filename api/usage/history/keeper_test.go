package history_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/usage"
	"github.com/kontiki/kontiki/api/usage/history"
	"github.com/kontiki/kontiki/controller/controllertest"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// cluster is an API with a node, a Deployment "web" of two pods and a pod "alone", and what their worker reports.
type cluster struct {
	*harness.Harness
	local *usage.Local
	k     *history.Keeper
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{Harness: harness.New(t), local: usage.NewLocal()}
	c.k = c.keeper()
	node := controllertest.Create(t, c.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}).DeepCopy()
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi")}
	if _, err := client.UpdateStatus(t.Context(), c.Client, node); err != nil {
		t.Fatal(err)
	}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	selector := &metav1.LabelSelector{MatchLabels: template.Labels}
	owner := func(kind, name string, uid types.UID) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: uid, Controller: ptr.To(true)}}
	}
	d := controllertest.Create(t, c.Client, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}})
	rs := controllertest.Create(t, c.Client, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", OwnerReferences: owner("Deployment", "web", d.UID)},
		Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template}})
	c.run(t, "default", "web-1-a", owner("ReplicaSet", "web-1", rs.UID))
	c.run(t, "default", "web-1-b", owner("ReplicaSet", "web-1", rs.UID))
	c.run(t, "default", "alone", nil)
	return c
}

func (c *cluster) keeper() *history.Keeper {
	return history.New(history.Config{Usage: usage.NewDirectory(usage.Config{Local: c.local}), Client: func() *client.Client { return c.Client }, Log: slog.New(slog.DiscardHandler)})
}

func (c *cluster) run(t *testing.T, namespace, name string, owners []metav1.OwnerReference) {
	t.Helper()
	controllertest.Create(t, c.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, OwnerReferences: owners}, Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{
		{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
			Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")}}},
		{Name: "side", Image: "i"},
	}}})
	controllertest.ChangeStatus(t, c.Client, namespace, name, func(p *corev1.Pod) { p.Status.Phase = corev1.PodRunning })
}

// uses makes the worker report what each pod's main container uses, half of which the other one does, and the keeper record it.
func (c *cluster) uses(t *testing.T, at time.Time, cores float64, bytes uint64) {
	t.Helper()
	now := time.Now().UnixNano()
	compute := func(share uint64) *nodev1.ComputeUsage {
		return &nodev1.ComputeUsage{CpuNanocores: uint64(cores*1e9) / share, WindowMs: 15_000, MemoryWorkingSetBytes: bytes / share}
	}
	r := &nodev1.UsageReport{Node: &nodev1.NodeUsage{Time: now, Compute: compute(1)}}
	client.Each(c.Client.View(), "", func(pod *corev1.Pod) bool {
		r.Pods = append(r.Pods, &nodev1.PodUsage{Namespace: pod.Namespace, Name: pod.Name, Uid: string(pod.UID), Complete: true, Containers: []*nodev1.ContainerUsage{
			{Name: "c", Time: now, Compute: compute(1)}, {Name: "side", Time: now, Compute: compute(2)}}})
		return true
	})
	encoded, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.local.Put("n", encoded, func(*nodev1.PodUsage) bool { return true }); err != nil {
		t.Fatal(err)
	}
	c.k.Sample(t.Context(), at)
}

func (c *cluster) read(q history.Query, now time.Time) *history.Answer {
	q.Limit, q.Points = 100, 8
	return c.k.Read(q, now)
}

const mib = 1 << 20

func near(got, want float64) bool { return got <= want && got >= want*0.998 }

// TestSumsOfContainers: nodes, namespaces, workloads, pods and containers, each with what it requests, who uses most first.
func TestSumsOfContainers(t *testing.T) {
	c := newCluster(t)
	now := time.Unix(1_800_000_000, 0)
	for i := range 10 {
		cores := 1.0
		if i == 9 {
			cores = 2
		}
		c.uses(t, now.Add(time.Duration(i-9)*time.Minute), cores, 64*mib)
	}
	hour := c.read(history.Query{Of: "namespaces", Since: time.Hour}, now)
	if len(hour.Items) != 1 || hour.Step != 60 || hour.Count != 60 || hour.From != 1_800_000_000-59*60 {
		t.Fatalf("%+v", hour)
	}
	if i := hour.Items[0]; i.Name != "default" || !near(i.Now.CPU, 9) || !near(i.Peak.CPU, 9) || !near(i.Mean.CPU, 4.95) || !near(i.Mean.Memory, 3*96*mib) || !near(i.CPU[59], 9) || !near(i.CPU[58], 4.5) ||
		i.CPU[49] == i.CPU[49] || i.Requests != (history.Use{1.5, 3 * 64 * mib}) || i.Limits != (history.Use{0, 3 * 128 * mib}) || i.Unlimited.CPU != 3 {
		t.Errorf("the namespace: %+v", i)
	}
	list := c.read(history.Query{Of: "workloads", Namespace: "default", Since: 24 * time.Hour}, now)
	if len(list.Items) != 2 || list.Items[0].Name != "web" || list.Items[0].Kind != "Deployment" || list.Items[1].Kind != "Pod" || !near(list.Items[0].Now.CPU, 6) || list.Step != 300 || list.Count != 288 || list.Items[0].Requests.CPU != 1 {
		t.Errorf("workloads: %+v", list.Items)
	}
	if n := c.read(history.Query{Of: "nodes", Since: time.Hour}, now).Items; len(n) != 1 || !near(n[0].Now.CPU, 2) || n[0].Limits != (history.Use{4, 8 << 30}) || n[0].Requests.CPU != 1.5 {
		t.Errorf("nodes: %+v", n)
	}
	if p := c.read(history.Query{Of: "pods", Namespace: "default", Name: "alone", Since: time.Hour}, now).Items; len(p) != 1 || !near(p[0].Now.CPU, 3) || p[0].Requests.CPU != 0.5 {
		t.Errorf("a pod: %+v", p)
	}
	both := c.read(history.Query{Of: "containers", Namespace: "default", Name: "alone", Since: time.Hour, ByMemory: true}, now).Items
	if len(both) != 2 || both[0].Container != "c" || !near(both[0].Now.CPU, 2) || both[0].Limits.Memory != 128*mib || both[1].Container != "side" || both[1].Unlimited != (history.Unlimited{1, 1}) {
		t.Errorf("its containers: %+v", both)
	}
	// What does not run any more is still there, and said to be gone.
	later := now.Add(3 * time.Hour)
	if i := c.read(history.Query{Of: "pods", Since: 24 * time.Hour}, later).Items; len(i) != 3 || !i[0].Gone || i[0].Now != nil {
		t.Errorf("after three hours: %+v", i)
	}
	if i := c.read(history.Query{Of: "pods", Since: time.Hour}, later).Items; len(i) != 0 {
		t.Errorf("in the last of three hours: %+v", i)
	}
}

// TestUsageOfANamespaceBeforeIsNotShown: who may read a namespace does not see what one of its name had before.
func TestUsageOfANamespaceBeforeIsNotShown(t *testing.T) {
	c := newCluster(t)
	now := time.Unix(1_800_000_000, 0)
	controllertest.Create(t, c.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
	controllertest.Create(t, c.Client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "default"}})
	c.run(t, "shop", "cart", nil)
	c.uses(t, now, 1, mib)
	if n := len(c.read(history.Query{Of: "pods", Namespace: "shop", Since: time.Hour}, now).Items); n != 1 {
		t.Fatalf("%d pods", n)
	}
	c.k.ReplaceNamespace("shop", "before")
	for _, of := range []string{"namespaces", "workloads", "pods", "containers"} {
		for _, i := range c.read(history.Query{Of: of, Since: time.Hour}, now).Items {
			if i.Namespace == "shop" || i.Name == "shop" {
				t.Errorf("%s: %+v", of, i)
			}
		}
	}
	unseen := c.read(history.Query{Of: "namespaces", Since: time.Hour, Sees: func(string) bool { return false }}, now)
	if len(unseen.Items) != 0 {
		t.Errorf("who may see none sees %+v", unseen.Items)
	}
}

// TestAMasterThatStartsAsksAnother: it has the same day as the other, also when that master's list of masters begins with itself.
func TestAMasterThatStartsAsksAnother(t *testing.T) {
	c := newCluster(t)
	now := time.Now()
	for i := range 90 {
		c.uses(t, now.Add(time.Duration(i-90)*time.Minute), 1, mib)
	}
	listener, server := bufconn.Listen(1<<16), grpc.NewServer()
	c.k.Register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///m", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-done
	})
	want := c.read(history.Query{Of: "pods", Since: 24 * time.Hour}, now)
	other := c.keeper()
	other.Own, other.Masters = "own", func() []string { return []string{"own"} }
	other.Connect = func(address string) (grpc.ClientConnInterface, error) {
		if address != "other" {
			return nil, fmt.Errorf("there is no master %s", address)
		}
		return conn, nil
	}
	if other.FillFromOthers(t.Context()) {
		t.Error("a master that knows no other says that it has what they have")
	}
	other.Masters = func() []string { return []string{"own", "gone", "other"} }
	if !other.FillFromOthers(t.Context()) {
		t.Fatal("the other master did not answer")
	}
	c.k = other
	got := c.read(history.Query{Of: "pods", Since: 24 * time.Hour}, now)
	if len(got.Items) != 3 || len(want.Items) != 3 {
		t.Fatalf("%d and %d pods", len(got.Items), len(want.Items))
	}
	for i := range got.Items {
		if got.Items[i].Mean != want.Items[i].Mean || got.Items[i].Name != want.Items[i].Name || fmt.Sprint(got.Items[i].CPU) != fmt.Sprint(want.Items[i].CPU) {
			t.Errorf("%+v is not %+v", got.Items[i], want.Items[i])
		}
	}
}

// TestSeriesAreBounded: of those without new points the oldest go first, and what has no room is said.
func TestSeriesAreBounded(t *testing.T) {
	c := newCluster(t)
	now := time.Unix(1_800_000_000, 0)
	minute := now.Unix() / 60
	for i := range history.MostSeries {
		c.k.AddContainer(fmt.Sprint(i), minute-100-int64(i%200))
	}
	c.uses(t, now, 1, mib)
	if n := c.k.Series(); n > history.MostSeries || c.read(history.Query{Of: "pods", Since: time.Hour}, now).Unrecorded != 0 {
		t.Errorf("%d series", n)
	}
	if n := len(c.read(history.Query{Of: "pods", Since: time.Hour}, now).Items); n != 3 {
		t.Errorf("%d pods", n)
	}
	if oldest, newest := c.k.LastPoints(minute-100-199), c.k.LastPoints(minute-100); oldest == history.MostSeries/200 || newest != history.MostSeries/200 {
		t.Errorf("%d of the oldest are still there, and %d of the newest", oldest, newest)
	}
	c.k.Touch(minute) // now all are in use
	for i := 0; c.k.Series() < history.MostSeries; i++ {
		c.k.AddContainer(fmt.Sprint("more", i), minute)
	}
	c.run(t, "default", "late", nil)
	c.uses(t, now.Add(time.Minute), 1, mib)
	if got := c.read(history.Query{Of: "pods", Since: time.Hour}, now.Add(time.Minute)); c.k.Series() > history.MostSeries || got.Unrecorded != 3 {
		t.Errorf("%d series, %d not recorded", c.k.Series(), got.Unrecorded)
	}
	// A day later nothing is left of what does not run.
	c.k.Forget(minute + 24*60 + 1)
	if n := c.k.Series(); n != 10 { // those with a point a minute later
		t.Errorf("%d series after a day", n)
	}
}

// BenchmarkMemory measures what a series needs, with the map and the names: docs/dashboard.md has the figure.
func BenchmarkMemory(b *testing.B) {
	k := history.New(history.Config{})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		k.AddContainer(fmt.Sprintf("web-6d4cf56db6-%05d", i), int64(i+1))
	}
}
