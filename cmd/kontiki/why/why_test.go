package why_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/cmd/kontiki/why"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/scheduler/config"
	"github.com/kontiki/kontiki/test/harness"
)

func create[T client.Object](t *testing.T, h *harness.Harness, obj T) T {
	t.Helper()
	made, err := client.Create(context.Background(), h.Client, obj)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func pod(name, cpu string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Image: "registry.example/i:1", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}}}}
}

func TestWhy(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	for name, change := range map[string]func(*corev1.Node){
		"small": func(*corev1.Node) {}, "full": func(*corev1.Node) {}, "cordoned": func(n *corev1.Node) { n.Spec.Unschedulable = true },
	} {
		list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("10")}
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Capacity: list, Allocatable: list}}
		change(n)
		create(t, h, n)
	}
	there := pod("there", "900m")
	there.Spec.NodeName = "full"
	there = create(t, h, there)
	var scheduler *config.Config
	var err error
	explain := func(name string) (string, error) {
		var out bytes.Buffer
		err := why.Run(ctx, why.Options{Client: h.Clientset(), Namespace: "default", Name: name, Out: &out, Now: time.Now, Scheduler: scheduler})
		return out.String(), err
	}
	says := func(name string, want ...string) {
		t.Helper()
		got, err := explain(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range want {
			if !strings.Contains(got, text) {
				t.Errorf("it does not say %q:\n%s", text, got)
			}
		}
	}
	set := func(p *corev1.Pod) {
		t.Helper()
		if _, err := client.UpdateStatus(ctx, h.Client, p); err != nil {
			t.Fatal(err)
		}
	}

	other := pod("other", "2")
	other.Spec.SchedulerName = "bin-packing"
	create(t, h, other)
	says("other", "Nodes: not looked at, as no profile of the masters' scheduler is called bin-packing, of default-scheduler")
	if scheduler, err = config.Parse([]byte(`{apiVersion: kubescheduler.config.k8s.io/v1, kind: KubeSchedulerConfiguration, profiles: [{schedulerName: default-scheduler},
		{schedulerName: bin-packing, plugins: {filter: {disabled: [{name: NodeUnschedulable}]}}}]}`)); err != nil {
		t.Fatal(err)
	}
	says("other", "3: Insufficient cpu [NodeResourcesFit]: cordoned, full, small")
	create(t, h, pod("big", "2"))
	says("big", "Pod default/big: Pending", "Scheduling: default-scheduler has not looked at it yet", "Nodes (3), volumes and devices aside:",
		"2: Insufficient cpu [NodeResourcesFit]: full, small", "1: node(s) were unschedulable [NodeUnschedulable]: cordoned")
	fits := create(t, h, pod("fits", "500m")).DeepCopy()
	fits.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes are available: x."}}
	fits.Status.NominatedNodeName = "full"
	set(fits)
	says("fits", "Scheduling: Unschedulable: 0/3 nodes are available: x.", "Preemption: it waits for pods that leave node full", "Nodes: 1 of 3 fit now, volumes and devices aside: small")

	gated := pod("gated", "1")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/hold"}}
	create(t, h, gated)
	says("gated", "it is held by its scheduling gates: example.com/hold")

	claims := pod("claims", "100m")
	claims.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	create(t, h, claims)
	says("claims", `Volume v: there is no claim "data"`)
	class := "slow"
	create(t, h, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class,
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}})
	says("claims", `Volume v: claim "data" (class "slow") is Pending`)

	device := pod("device", "100m")
	device.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: new("card")}, {Name: "nic", ResourceClaimTemplateName: new("nics")}}
	create(t, h, device)
	says("device", `Devices gpu: there is no claim "card"`, `Devices nic: no claim has been made from template "nics" yet, which does not exist`)
	create(t, h, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "card"}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
		Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpus"}},
			{Name: "f", FirstAvailable: []resourcev1.DeviceSubRequest{{Name: "a", DeviceClassName: "fast"}, {Name: "b", DeviceClassName: "gpus"}}}}}}})
	says("device", `Devices gpu: claim "card" is not allocated; it needs r: 1 of class gpus (there is no such class), f: 1 of class fast (there is no such class) or 1 of class gpus (there is no such class)`)
	controllertest.ChangeStatus(t, h.Client, "default", "card", func(c *resourcev1.ResourceClaim) {
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Request: "r", Driver: "d.example.com", Pool: "full", Device: "0", BindingConditions: []string{"example.com/attached"}, BindingFailureConditions: []string{"example.com/failed"}}}}}
	})
	says("device", `Devices gpu: claim "card" has d.example.com/full/0; condition example.com/attached of d.example.com/full/0 is awaited`)

	there = there.DeepCopy()
	there.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", Image: "registry.example/i:1", RestartCount: 3,
		State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "not found"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}}}
	set(there)
	create(t, h, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "e"}, Type: corev1.EventTypeWarning, Reason: "BackOff", Message: "Back-off pulling image",
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "there", UID: there.UID}, LastTimestamp: metav1.Now()})
	says("there", "Node: full", "Container c: waits: ImagePullBackOff: not found (image registry.example/i:1); restarted 3 times, last after exit code 137 (OOMKilled)",
		"Warnings:", "BackOff: Back-off pulling image")

	if _, err := explain("absent"); !apierrors.IsNotFound(err) {
		t.Errorf("a pod that does not exist: %v", err)
	}
	create(t, h, &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "f"}, Type: corev1.EventTypeWarning, Reason: "FailedCreate", Message: "exceeded quota: q",
		InvolvedObject: corev1.ObjectReference{Kind: "ReplicaSet", Namespace: "default", Name: "rs"}, LastTimestamp: metav1.Now()})
	if got, err := explain("absent"); !apierrors.IsNotFound(err) || !strings.Contains(got, "FailedCreate: exceeded quota: q") {
		t.Errorf("%v: %s", err, got)
	}
}
