package pods

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kontiki/kontiki/node/resources"
	"github.com/kontiki/kontiki/node/runtime"
)

func amounts(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func sized(p *corev1.Pod, cpu, memory string) *corev1.Pod {
	p = p.DeepCopy()
	p.Generation++
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].Resources = corev1.ResourceRequirements{Requests: amounts(cpu, memory), Limits: amounts(cpu, memory)}
	}
	return p
}

func withCapacity(n *node, cpu, memory string) {
	n.node = &corev1.Node{}
	n.node.Name = "n1"
	n.node.Status.Allocatable = amounts(cpu, memory)
	n.node.Status.Capacity = amounts(cpu, memory)
}

// updates returns the changes of limits that the runtime was asked for.
func (n *node) updates() []string {
	return slices.DeleteFunc(n.rt.Calls(), func(s string) bool { return !strings.HasPrefix(s, "Update") })
}

func TestResizeInPlace(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		withCapacity(n, "4", "4Gi")
		p := sized(pod("a", corev1.RestartPolicyAlways, trap, trap), "100m", "100Mi")
		n.m.Update(p)
		first := n.running(p, "c1")
		p = sized(p, "200m", "200Mi")
		n.m.Update(p)
		s := n.status(p)
		c := s.ContainerStatuses[0]
		if c.ContainerID != "containerd://"+first.ID || c.RestartCount != 0 {
			t.Fatalf("the container was replaced: %+v", c)
		}
		if c.AllocatedResources.Cpu().MilliValue() != 200 || c.Resources.Limits.Memory().Value() != 200<<20 || c.Resources.Requests.Cpu().MilliValue() != 200 {
			t.Errorf("status has %v, %+v", c.AllocatedResources, c.Resources)
		}
		if s.Resources.Limits.Memory().Value() != 400<<20 || s.AllocatedResources.Cpu().MilliValue() != 400 || s.ObservedGeneration != p.Generation {
			t.Errorf("the pod's status has %+v, %v, generation %d", s.Resources, s.AllocatedResources, s.ObservedGeneration)
		}
		want := []string{"UpdateSandbox memory=419430400", "UpdateResources c1 memory=209715200", "UpdateResources c2 memory=209715200",
			"UpdateSandbox quota=40000", "UpdateSandbox shares=409", "UpdateResources c1 shares=204 quota=20000", "UpdateResources c2 shares=204 quota=20000"}
		if got := n.updates(); !slices.Equal(got, want) {
			t.Errorf("growing: %q, want %q", got, want)
		}
		for _, typ := range []corev1.PodConditionType{corev1.PodResizePending, corev1.PodResizeInProgress} {
			if c := condition(s.Conditions, typ); c != nil {
				t.Errorf("condition %+v stays", c)
			}
		}
		started, completed := n.said("ResizeStarted"), n.said("ResizeCompleted")
		if len(started) != 1 || len(completed) != 1 || !strings.HasPrefix(started[0], `Pod resize started: {"containers":[{"name":"c1","resources":{"limits":{"cpu":"200m"`) ||
			!strings.HasSuffix(completed[0], `"generation":3}`) {
			t.Errorf("events %q, %q", started, completed)
		}
		p = sized(p, "50m", "50Mi")
		n.m.Update(p)
		n.status(p)
		want = []string{"UpdateResources c1 memory=52428800", "UpdateResources c2 memory=52428800", "UpdateSandbox memory=104857600",
			"UpdateResources c1 shares=51 quota=5000", "UpdateResources c2 shares=51 quota=5000", "UpdateSandbox shares=102", "UpdateSandbox quota=10000"}
		if got := n.updates()[7:]; !slices.Equal(got, want) {
			t.Errorf("shrinking: %q, want %q", got, want)
		}
	})
}

func TestResizeRestartsWhatAsksForIt(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		withCapacity(n, "4", "4Gi")
		always := corev1.ContainerRestartPolicyAlways
		p := pod("a", corev1.RestartPolicyNever, trap)
		p.Spec.InitContainers = []corev1.Container{{Name: "side", Image: image, Command: strings.Split(trap, "|"), RestartPolicy: &always}}
		p = sized(p, "100m", "100Mi")
		p.Spec.InitContainers[0].Resources.Requests = amounts("100m", "")
		p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}}
		n.m.Update(p)
		n.running(p, "c1")
		cpu := sized(p, "200m", "100Mi")
		cpu.Spec.InitContainers[0].Resources.Requests = amounts("300m", "")
		n.m.Update(cpu)
		s := n.status(p)
		if s.ContainerStatuses[0].RestartCount != 0 || s.InitContainerStatuses[0].RestartCount != 0 || s.InitContainerStatuses[0].Resources.Requests.Cpu().MilliValue() != 300 {
			t.Fatalf("a change of CPU restarted something, or was not made: %+v %+v", s.ContainerStatuses, s.InitContainerStatuses)
		}
		memory := sized(cpu, "200m", "150Mi")
		n.m.Update(memory)
		c := n.running(p, "c1")
		if c.Attempt != 1 || n.rt.Config(c.ID).Resources.MemoryLimit != 150<<20 || n.rt.PodLimits(string(p.UID)).MemoryLimit != 0 {
			t.Errorf("after a change of memory: %+v", n.rt.Config(c.ID))
		}
		if got, want := n.said("Killing"), []string{"Container c1 resize requires restart"}; !slices.Equal(got, want) {
			t.Errorf("said %q, want %q", got, want)
		}
		s = n.status(p)
		if s.Phase != corev1.PodRunning || s.ContainerStatuses[0].RestartCount != 1 || s.ContainerStatuses[0].Resources.Limits.Memory().Value() != 150<<20 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestResizeIsDeferredUntilItFits(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		withCapacity(n, "1", "1Gi")
		big := sized(pod("big", corev1.RestartPolicyNever, trap), "600m", "100Mi")
		low, high := sized(pod("low", corev1.RestartPolicyNever, trap), "100m", "100Mi"), sized(pod("high", corev1.RestartPolicyNever, trap), "100m", "100Mi")
		priority := int32(10)
		high.Spec.Priority = &priority
		for _, p := range []*corev1.Pod{big, low, high} {
			n.m.Update(p)
			n.running(p, "c1")
		}
		low, high = sized(low, "500m", "100Mi"), sized(high, "600m", "100Mi")
		n.m.Update(low)
		synctest.Wait()
		n.m.Update(high)
		for _, p := range []*corev1.Pod{low, high} {
			s := n.status(p)
			c := condition(s.Conditions, corev1.PodResizePending)
			if c == nil || c.Status != corev1.ConditionTrue || c.Reason != corev1.PodReasonDeferred || c.ObservedGeneration != p.Generation ||
				!strings.HasPrefix(c.Message, "Node didn't have enough resource: cpu, requested: ") {
				t.Fatalf("condition %+v", c)
			}
			if s.ContainerStatuses[0].AllocatedResources.Cpu().MilliValue() != 100 || s.ContainerStatuses[0].Resources.Limits.Cpu().MilliValue() != 100 || s.ObservedGeneration != p.Generation {
				t.Errorf("status %+v", s)
			}
		}
		if said := n.said("ResizeDeferred"); len(said) != 2 || !strings.HasPrefix(said[0], "Pod resize OutOfcpu: {") {
			t.Errorf("said %q", said)
		}
		n.stop() // what was granted outlives the agent
		n.start()
		for _, p := range []*corev1.Pod{big, low, high} {
			p.Status = n.status(p)
			n.m.Update(p)
		}
		if s := n.status(low); s.ContainerStatuses[0].AllocatedResources.Cpu().MilliValue() != 100 || condition(s.Conditions, corev1.PodResizePending) == nil {
			t.Errorf("after a restart of the agent: %+v", s)
		}
		n.m.Update(deleting(big, 1))
		time.Sleep(3 * time.Second)
		if s := n.status(high); s.ContainerStatuses[0].Resources.Limits.Cpu().MilliValue() != 600 || condition(s.Conditions, corev1.PodResizePending) != nil {
			t.Errorf("the more important pod was not resized: %+v", s)
		}
		if s := n.status(low); s.ContainerStatuses[0].Resources.Limits.Cpu().MilliValue() != 100 {
			t.Errorf("the less important pod was resized, too: %+v", s)
		}
		n.m.Update(sized(low, "100m", "100Mi")) // taken back
		if s := n.status(low); condition(s.Conditions, corev1.PodResizePending) != nil {
			t.Errorf("conditions %+v", s.Conditions)
		}
	})
}

func TestMemoryIsNotTakenWhileItIsUsed(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		withCapacity(n, "1", "1Gi")
		p := sized(pod("a", corev1.RestartPolicyNever, trap), "100m", "200Mi")
		n.m.Update(p)
		n.running(p, "c1")
		n.rt.SetStats("c1", runtime.Stats{Usage: runtime.Usage{MemoryBytes: 150 << 20}})
		p = sized(p, "100m", "100Mi")
		n.m.Update(p)
		s := n.status(p)
		c := condition(s.Conditions, corev1.PodResizeInProgress)
		want := `cannot decrease memory limits: [attempting to set pod memory limit (104857600) below current usage (157286400), attempting to set container "c1" memory limit (104857600) below current usage (157286400)]`
		if c == nil || c.Reason != corev1.PodReasonError || c.Message != want || c.ObservedGeneration != p.Generation {
			t.Fatalf("condition %+v", c)
		}
		if r := s.ContainerStatuses[0]; r.AllocatedResources.Memory().Value() != 100<<20 || r.Resources.Limits.Memory().Value() != 200<<20 || s.Resources.Limits.Memory().Value() != 200<<20 {
			t.Errorf("status %+v %+v", r, s.Resources)
		}
		if len(n.updates()) != 0 || len(n.said("ResizeError")) != 1 {
			t.Errorf("updates %q, errors %q", n.updates(), n.said("ResizeError"))
		}
		n.rt.SetStats("c1", runtime.Stats{Usage: runtime.Usage{MemoryBytes: 50 << 20}})
		time.Sleep(resizeRetry + time.Second)
		s = n.status(p)
		if condition(s.Conditions, corev1.PodResizeInProgress) != nil || s.ContainerStatuses[0].Resources.Limits.Memory().Value() != 100<<20 || len(n.said("ResizeCompleted")) != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestResizePodLevelResources(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		withCapacity(n, "2", "1Gi")
		p := pod("a", corev1.RestartPolicyNever, trap, trap)
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: amounts("500m", "100Mi"), Limits: amounts("1", "200Mi")}
		p.Spec.Containers[0].Resources.Limits = amounts("", "50Mi")
		n.m.Update(p)
		c1, c2 := n.running(p, "c1"), n.running(p, "c2")
		if a, b := n.rt.Config(c1.ID).Resources, n.rt.Config(c2.ID).Resources; a.MemoryLimit != 50<<20 || b.MemoryLimit != 200<<20 || b.CPUQuota != resources.CPUPeriod {
			t.Fatalf("limits %+v and %+v: what the container does not limit, the pod does", a, b)
		}
		p = p.DeepCopy()
		p.Generation++
		p.Spec.Resources = &corev1.ResourceRequirements{Requests: amounts("1", "100Mi"), Limits: amounts("2", "300Mi")}
		n.m.Update(p)
		s := n.status(p)
		if got := n.rt.PodLimits(string(p.UID)); got.MemoryLimit != 300<<20 || got.CPUQuota != 2*resources.CPUPeriod || got.CPUShares != 1024 {
			t.Errorf("the pod's limits are %+v", got)
		}
		if a, b := n.rt.Config(c1.ID).Resources, n.rt.Config(c2.ID).Resources; a.MemoryLimit != 50<<20 || b.MemoryLimit != 300<<20 {
			t.Errorf("limits %+v and %+v", a, b)
		}
		if s.Resources.Limits.Memory().Value() != 300<<20 || s.AllocatedResources.Cpu().MilliValue() != 1000 || s.Resources.Requests.Cpu().MilliValue() != 1000 {
			t.Errorf("status %+v, %v", s.Resources, s.AllocatedResources)
		}
	})
}
