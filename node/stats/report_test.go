package stats_test

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/fake"
	"github.com/kontiki/kontiki/node/stats"
)

// podList is the pods of a test.
type podList []*corev1.Pod

func (l podList) Pod(namespace, name string, uid types.UID) (*corev1.Pod, bool) {
	for _, p := range l {
		if p.Namespace == namespace && p.Name == name && (uid == "" || p.UID == uid) {
			return p, true
		}
	}
	return nil, false
}

const image = "docker.io/library/busybox:1"

// start runs a container of a pod.
func start(t *testing.T, rt *fake.Runtime, pod, container string) string {
	t.Helper()
	box := runtime.SandboxConfig{UID: "uid-" + pod, Namespace: "ns", Name: pod, Net: runtime.NamespaceHost}
	if _, err := rt.EnsureSandbox(t.Context(), box); err != nil {
		t.Fatal(err)
	}
	id, err := rt.CreateContainer(t.Context(), runtime.ContainerConfig{Sandbox: box, Name: container, Image: image, Command: []string{"sleep", "100000"}, LogPath: filepath.Join(t.TempDir(), "0.log")})
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := rt.KillContainer(context.Background(), id); err != nil {
			t.Error(err)
		}
	})
	return id
}

func testPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}}
}

func used(cpu time.Duration, memory uint64) runtime.Stats {
	return runtime.Stats{RootfsBytes: 7, LogBytes: 3, Usage: runtime.Usage{CPUNanoseconds: uint64(cpu), MemoryWorkingSet: memory}}
}

// TestRatesAreAveragesSinceTheReportBefore: also of a new container, whose first rate is an average since its start.
func TestRatesAreAveragesSinceTheReportBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New(image)
		rt.SetStats("c", used(time.Second, 100))
		start(t, rt, "a", "c")
		reporter := stats.NewReporter(stats.New(rt, podList{testPod("a"), testPod("b")}), t.TempDir())

		first, next := reporter.Report(t.Context(), 15*time.Second)
		if len(first.Pods) != 1 || first.Pods[0].Complete || first.Pods[0].Containers[0].Compute.WindowMs != 0 || next != 5*time.Second {
			t.Fatalf("a container that was just started has a rate: %v, or the next report comes in %s", first, next)
		}
		if c := first.Pods[0].Containers[0]; c.RootfsBytes != 7 || c.LogBytes != 3 || c.FilesTime == 0 {
			t.Errorf("the files of the container: %v", c)
		}
		time.Sleep(2 * time.Second) // virtual, as below
		if again, _ := reporter.Report(t.Context(), 15*time.Second); again != first {
			t.Error("a report was made anew soon after the last one: a rate would be an average of too short a time")
		}
		time.Sleep(8 * time.Second)
		rt.SetStats("c", used(6*time.Second, 200))
		rt.SetStats("new", used(3*time.Second, 50))
		second, next := reporter.Report(t.Context(), 15*time.Second)
		c := second.Pods[0].Containers[0].Compute
		if c.CpuNanocores != 5e8 || c.WindowMs != 10_000 || c.MemoryWorkingSetBytes != 200 || !second.Pods[0].Complete || next != 15*time.Second {
			t.Errorf("after 5 s of processor time in 10 s: %v, complete %v, next in %s", c, second.Pods[0].Complete, next)
		}

		start(t, rt, "b", "new")
		time.Sleep(15 * time.Second)
		third, _ := reporter.Report(t.Context(), 15*time.Second)
		if len(third.Pods) != 2 || third.Pods[1].Uid != "uid-b" || third.Pods[1].Containers[0].Compute.CpuNanocores != 2e8 || third.Pods[1].Containers[0].Compute.WindowMs != 15_000 {
			t.Errorf("a container that was started 15 s ago and has used 3 s: %v", third.Pods)
		}
		if c := third.Pods[0].Containers[0].Compute; c.CpuNanocores != 0 || c.WindowMs != 15_000 {
			t.Errorf("a container that has used nothing since: %v", c)
		}
	})
}

// TestReadersShareAMeasurement: what is asked within the age that is allowed is answered without measuring.
func TestReadersShareAMeasurement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := fake.New(image)
		rt.SetStats("c", used(time.Second, 100))
		id := start(t, rt, "a", "c")
		sampler := stats.New(rt, podList{testPod("a")})
		one := sampler.Sample(t.Context(), time.Second)
		if len(one.Containers) != 1 || one.Containers[0].ID != id || one.Node.CPU == 0 || one.Node.Total == 0 {
			t.Fatalf("%+v", one)
		}
		if sampler.Sample(t.Context(), time.Second) != one {
			t.Error("measured again at once")
		}
		time.Sleep(2 * time.Second)
		if sampler.Sample(t.Context(), time.Second) == one {
			t.Error("not measured again after two seconds")
		}
	})
}
