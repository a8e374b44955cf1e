package advice_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/advice"
	"github.com/kontiki/kontiki/controller/controllertest"
	internaladvice "github.com/kontiki/kontiki/internal/advice"
	"github.com/kontiki/kontiki/test/harness"
)

const mi = 1 << 20

func quantity(name corev1.ResourceName, amount float64) resource.Quantity {
	if name == corev1.ResourceCPU {
		return *resource.NewMilliQuantity(int64(amount*1000), resource.DecimalSI)
	}
	return *resource.NewQuantity(int64(amount), resource.BinarySI)
}

func list(cpu, memory string) corev1.ResourceList {
	out := corev1.ResourceList{}
	if cpu != "" {
		out[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		out[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return out
}

// running creates a ready pod.
func running(t *testing.T, h *harness.Harness, name string, change func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i",
		Resources: corev1.ResourceRequirements{Requests: list("1", "512Mi")}}}}}
	change(pod)
	controllertest.Create(t, h.Client, pod)
	return controllertest.ChangeStatus(t, h.Client, "default", name, func(p *corev1.Pod) {
		controllertest.MakeReady(p, true)
		p.Status.Phase = corev1.PodRunning
	})
}

type applying struct {
	*harness.Harness
	clock    *controllertest.Clock
	recorder *controllertest.Recorder
	need     internaladvice.Need
}

// newAPI returns an API with the node of the pods.
func newAPI(t *testing.T) *harness.Harness {
	t.Helper()
	h := harness.New(t)
	controllertest.Create(t, h.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}})
	controllertest.ChangeStatus(t, h.Client, "", "n", func(n *corev1.Node) {
		n.Status.Capacity = list("64", "64Gi")
		n.Status.Allocatable = n.Status.Capacity
		n.Status.NodeInfo.OperatingSystem = "linux"
	})
	return h
}

func start(t *testing.T, h *harness.Harness, need internaladvice.Need) *applying {
	a := &applying{Harness: h, clock: controllertest.NewClock(time.Now()), recorder: controllertest.NewRecorder(), need: need}
	controllertest.Run(t, h.Client, advice.New(advice.Config{Client: h.Client, Recorder: a.recorder, Quantity: quantity, Period: 20 * time.Millisecond, Now: a.clock.Now,
		Needs: func(_ context.Context, pods []*corev1.Pod) map[types.UID]map[string]internaladvice.Need {
			out := map[types.UID]map[string]internaladvice.Need{}
			for _, pod := range pods {
				out[pod.UID] = map[string]internaladvice.Need{"c": need}
			}
			return out
		}}))
	return a
}

func annotated(pod *corev1.Pod) { pod.Annotations = map[string]string{advice.Annotation: advice.Apply} }

// requests returns a pod's requests and limits, "cpu memory / cpu memory".
func requests(pod *corev1.Pod) string {
	r := pod.Spec.Containers[0].Resources
	return fmt.Sprintf("%s %s / %s %s", r.Requests.Cpu(), r.Requests.Memory(), r.Limits.Cpu(), r.Limits.Memory())
}

func (a *applying) becomes(t *testing.T, name, want string) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Log(a.recorder.Events(""))
		}
	}()
	controllertest.Await(t, a.Client, "default", name, "requests "+want, func(p *corev1.Pod) bool { return requests(p) == want })
}

// Requests follow the advice by steps, and only of pods that ask for it.
func TestAdviceIsApplied(t *testing.T) {
	h := newAPI(t)
	running(t, h, "asks", annotated)
	running(t, h, "asks-not", func(*corev1.Pod) {})
	running(t, h, "restarts", func(p *corev1.Pod) {
		annotated(p)
		p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: corev1.ResourceMemory, RestartPolicy: corev1.RestartContainer}, {ResourceName: corev1.ResourceCPU, RestartPolicy: corev1.NotRequired}}
	})
	running(t, h, "guaranteed", func(p *corev1.Pod) {
		annotated(p)
		p.Spec.Containers[0].Resources.Limits = list("1", "512Mi")
	})
	running(t, h, "limited", func(p *corev1.Pod) {
		annotated(p)
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("1", "200Mi"), Limits: list("2", "220Mi")}
	})
	running(t, h, "best-effort", func(p *corev1.Pod) {
		annotated(p)
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{}
	})
	a := start(t, h, internaladvice.Need{CPU: 0.1, Memory: 300 * mi, UsedCPU: 0.05, UsedMemory: 100 * mi})
	a.becomes(t, "asks", "500m 300Mi / 0 0") // processors by a step of a half
	a.becomes(t, "restarts", "500m 512Mi / 0 0")
	a.becomes(t, "guaranteed", "500m 300Mi / 500m 300Mi")
	a.becomes(t, "limited", "500m 200Mi / 2 220Mi") // memory would exceed the limit
	a.recorder.Await(t, "Normal AdviceApplied Changed requests to what is advised: cpu of container c from 1 to 500m, memory of container c from 512Mi to 300Mi")
	a.clock.Advance(11 * time.Minute)
	a.becomes(t, "asks", "250m 300Mi / 0 0")
	a.clock.Advance(11 * time.Minute)
	a.becomes(t, "asks", "125m 300Mi / 0 0")
	a.clock.Advance(11 * time.Minute)
	a.becomes(t, "asks", "100m 300Mi / 0 0")
	for name, want := range map[string]string{"asks-not": "1 512Mi / 0 0", "best-effort": "0 0 / 0 0"} {
		if pod, _ := client.Get[*corev1.Pod](h.Client.View(), "default", name); requests(pod) != want {
			t.Errorf("%s has %s", name, requests(pod))
		}
	}
}

// Nothing is set below what is used, and what the namespace does not allow is refused, said once, and left as it is.
func TestAdviceIsBounded(t *testing.T) {
	h := newAPI(t)
	running(t, h, "busy", annotated)
	a := start(t, h, internaladvice.Need{CPU: 0.1, Memory: 64 * mi, UsedCPU: 0.8, UsedMemory: 400 * mi})
	a.becomes(t, "busy", "800m 440Mi / 0 0")

	other := newAPI(t)
	controllertest.Create(t, other.Client, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "l"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: corev1.LimitTypeContainer, Min: list("900m", "")}}}})
	running(t, other, "limited", annotated)
	b := start(t, other, internaladvice.Need{CPU: 0.5, Memory: 512 * mi})
	b.recorder.Await(t, "Warning AdviceRefused Requests could not be changed to what is advised (cpu of container c from 1 to 500m)")
	if pod, _ := client.Get[*corev1.Pod](other.Client.View(), "default", "limited"); requests(pod) != "1 512Mi / 0 0" {
		t.Errorf("it has %s", requests(pod))
	}
}

// Of a workload one pod is changed at a time.
func TestAWorkloadChangesPodByPod(t *testing.T) {
	h := newAPI(t)
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	selector := &metav1.LabelSelector{MatchLabels: template.Labels}
	d := controllertest.Create(t, h.Client, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Annotations: map[string]string{advice.Annotation: advice.Apply}}, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}})
	owner := func(kind, name string, uid types.UID) []metav1.OwnerReference {
		return []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: kind, Name: name, UID: uid, Controller: ptr.To(true)}}
	}
	rs := controllertest.Create(t, h.Client, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", OwnerReferences: owner("Deployment", "web", d.UID)}, Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template}})
	for _, name := range []string{"web-1-a", "web-1-b", "web-1-c"} {
		running(t, h, name, func(p *corev1.Pod) { p.OwnerReferences = owner("ReplicaSet", "web-1", rs.UID) })
	}
	a := start(t, h, internaladvice.Need{CPU: 0.6, Memory: 512 * mi})
	for _, name := range []string{"web-1-a", "web-1-b", "web-1-c"} {
		a.becomes(t, name, "600m 512Mi / 0 0")
	}
	if said := a.recorder.Events("Normal AdviceApplied"); len(said) != 3 || !strings.Contains(said[0], "from 1 to 600m") {
		t.Errorf("%q", said)
	}
}
