package resources

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kontiki/kontiki/node/runtime"
)

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func container(name string, requests, limits corev1.ResourceList) corev1.Container {
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits}}
}

func podOf(containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: containers}}
}

func TestForContainer(t *testing.T) {
	const node = 8 << 30
	for name, c := range map[string]struct {
		c    corev1.Container
		want runtime.Resources
	}{
		"best effort":                {container("c", nil, nil), runtime.Resources{CPUShares: 2, CPUPeriod: CPUPeriod, OOMScoreAdj: 1000}},
		"a limit is the request":     {container("c", nil, list("500m", "")), runtime.Resources{CPUShares: 512, CPUQuota: 50_000, CPUPeriod: CPUPeriod, OOMScoreAdj: 999}},
		"a quarter of the memory":    {container("c", list("2", "2Gi"), nil), runtime.Resources{CPUShares: 2048, CPUPeriod: CPUPeriod, OOMScoreAdj: 750}},
		"guaranteed":                 {container("c", list("1", "1Gi"), list("1", "1Gi")), runtime.Resources{CPUShares: 1024, CPUQuota: 100_000, CPUPeriod: CPUPeriod, MemoryLimit: 1 << 30, OOMScoreAdj: -997}},
		"the lowest quota":           {container("c", nil, list("1m", "")), runtime.Resources{CPUShares: 2, CPUQuota: MinQuota, CPUPeriod: CPUPeriod, OOMScoreAdj: 999}},
		"more than the kernel takes": {container("c", list("9223372036854775807", ""), nil), runtime.Resources{CPUShares: 262144, CPUPeriod: CPUPeriod, OOMScoreAdj: 999}},
	} {
		if got := ForContainer(podOf(c.c), &c.c, node); !equality.Semantic.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	huge := container("c", nil, corev1.ResourceList{"hugepages-2Mi": resource.MustParse("4Mi"), "hugepages-1Gi": resource.MustParse("1Gi")})
	if got := ForContainer(podOf(huge), &huge, node).HugePages; len(got) != 2 || got["2MB"] != 4<<20 || got["1GB"] != 1<<30 {
		t.Errorf("huge pages %v", got)
	}
}

// A pod's cgroup is limited only if every container is, or the pod itself.
func TestForPod(t *testing.T) {
	limited := container("a", nil, list("1", "1Gi"))
	if got := ForPod(podOf(limited, container("b", list("1", ""), nil))); got.CPUQuota != 0 || got.MemoryLimit != 0 {
		t.Errorf("one container has no limit, the pod's are %+v", got)
	}
	if got := ForPod(podOf(limited, limited)); got.CPUQuota != 200_000 || got.MemoryLimit != 2<<30 {
		t.Errorf("the sum of the limits is %+v", got)
	}
	p := podOf(limited, container("b", nil, nil))
	p.Spec.Resources = &corev1.ResourceRequirements{Limits: list("3", "512Mi")}
	if got := ForPod(p); got.CPUQuota != 300_000 || got.MemoryLimit != 512<<20 {
		t.Errorf("the pod's own limits became %+v", got)
	}
}

// TestAllocationOnDisk: another agent finds what was granted and set, in the directory of the pod, and a damaged file is an error.
func TestAllocationOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pod")
	if a, err := LoadAllocation(dir); a != nil || err != nil {
		t.Fatalf("nothing was stored, got %v, %v", a, err)
	}
	pod := podOf(container("c", list("1", "1Gi"), nil))
	a := Allocate(pod).With(runtime.Resources{CPUShares: 512}, map[string]Limits{"id": {CPURequest: 500}, "gone": {}}, func(id string) bool { return id == "id" })
	if err := a.Save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := LoadAllocation(dir)
	if err != nil || !equality.Semantic.DeepEqual(got, a) || len(got.Applied) != 1 {
		t.Errorf("stored %+v, read %+v, %v", a, got, err)
	}
	if l, known := got.AppliedTo(&runtime.Container{ID: "id"}); !known || l.CPURequest != 500 {
		t.Errorf("the container that was resized has %+v, %v", l, known)
	}
	if l, known := got.AppliedTo(&runtime.Container{ID: "other", Labels: map[string]string{LabelLimits: Limits{MemoryLimit: 7}.Label()}}); !known || l.MemoryLimit != 7 {
		t.Errorf("the container with a label has %+v, %v", l, known)
	}
	if _, known := got.AppliedTo(&runtime.Container{ID: "old"}); known {
		t.Error("the limits of a container without a label are known")
	}
	if err := os.WriteFile(filepath.Join(dir, allocationFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadAllocation(dir); err == nil {
		t.Error("a damaged file is no error")
	}
}

// TestApplyKeepsWhatIsTheSame: the pod itself is returned unless its spec requires something else than was granted.
func TestApplyKeepsWhatIsTheSame(t *testing.T) {
	pod := podOf(container("c", list("1", "1Gi"), nil))
	a := Allocate(pod)
	if a.Apply(pod) != pod || !a.Granted(pod) {
		t.Error("a copy was made of a pod that requires what it has")
	}
	more := podOf(container("c", list("2", "1Gi"), nil))
	if got := a.Apply(more); got == more || got.Spec.Containers[0].Resources.Requests.Cpu().Value() != 1 || more.Spec.Containers[0].Resources.Requests.Cpu().Value() != 2 || a.Granted(more) {
		t.Errorf("granted %v, required %v", got.Spec.Containers[0].Resources, more.Spec.Containers[0].Resources)
	}
	if next := a.Grant(more); !next.Granted(more) || next.AppliedPod.CPUShares != a.AppliedPod.CPUShares {
		t.Errorf("a grant changed what is set: %+v", next)
	}
}

func TestOrderOfLimits(t *testing.T) {
	if !Less(1, 2) || Less(2, 1) || Less(0, 5) || !Less(5, 0) || Less(0, 0) {
		t.Error("no limit is more than any other")
	}
	if ByGrowth(2, 1, 1, 2) >= 0 || ByGrowth(1, 0, 0, 1) <= 0 {
		t.Error("limits that fall come first")
	}
	if have := (runtime.Resources{CPUShares: 2, MemoryLimit: 5}); !Same(have, runtime.Resources{CPUShares: 2}) || Same(have, runtime.Resources{CPUShares: 2, MemoryLimit: 6}) {
		t.Error("a limit that is no longer required stays, and a different one is set")
	}
}
