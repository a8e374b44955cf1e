package admission_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/admission"
	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/harness"
)

func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

func create[T client.Object](t *testing.T, h *harness.Harness, obj T) T {
	t.Helper()
	made, err := client.Create(context.Background(), h.Client, obj)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func refused[T client.Object](t *testing.T, h *harness.Harness, obj T, says ...string) {
	t.Helper()
	_, err := client.Create(context.Background(), h.Client, obj)
	for _, text := range says {
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want: %s", err, text)
		}
	}
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func inDefault(name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "default", Name: name}
}

func claim(name, size string, change func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{ObjectMeta: inDefault(name), Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: list("storage", size)}}}
	if change != nil {
		change(c)
	}
	return c
}

func TestLimitRanger(t *testing.T) {
	h := harness.New(t)
	create(t, h, &corev1.LimitRange{ObjectMeta: inDefault("l"), Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
		{Type: corev1.LimitTypeContainer, Default: list("cpu", "500m", "memory", "200Mi"), DefaultRequest: list("cpu", "100m"),
			Min: list("cpu", "50m"), Max: list("cpu", "1", "memory", "1Gi"), MaxLimitRequestRatio: list("cpu", "5")},
		{Type: corev1.LimitTypePod, Max: list("memory", "1100Mi")},
		{Type: corev1.LimitTypePersistentVolumeClaim, Min: list("storage", "1Gi"), Max: list("storage", "5Gi")},
	}}})
	one := func(name string, requests, limits corev1.ResourceList) *corev1.Pod {
		return pod(name, func(p *corev1.Pod) {
			p.Spec.InitContainers, p.Spec.Containers = nil, p.Spec.Containers[:1]
			p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
		})
	}
	made := create(t, h, pod("defaults", nil))
	for _, c := range append(made.Spec.InitContainers, made.Spec.Containers...) {
		if c.Resources.Requests.Cpu().String() != "100m" || c.Resources.Limits.Cpu().String() != "500m" || c.Resources.Requests.Memory().String() != "200Mi" {
			t.Errorf("%s: %+v", c.Name, c.Resources)
		}
	}
	if got := made.Annotations["kubernetes.io/limit-ranger"]; got != "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c; cpu, memory request for container d; cpu, memory limit for container d; cpu, memory request for init container i; cpu, memory limit for init container i" {
		t.Errorf("%q", got)
	}
	refused(t, h, one("small", list("cpu", "10m"), list("cpu", "40m")), "minimum cpu usage per Container is 50m, but request is 10m")
	refused(t, h, one("large", list("cpu", "2"), list("cpu", "2", "memory", "2Gi")), "maximum cpu usage per Container is 1, but limit is 2", "maximum memory usage per Container is 1Gi, but limit is 2Gi", "maximum memory usage per Pod is 1100Mi, but limit is 2Gi")
	refused(t, h, one("ratio", list("cpu", "100m"), list("cpu", "1")), "cpu max limit to request ratio per Container is 5, but provided ratio is 10.000000")
	refused(t, h, claim("small", "1Mi", nil), "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi")
	refused(t, h, claim("large", "6Gi", nil), "maximum storage usage per PersistentVolumeClaim is 5Gi, but request is 6Gi")
	create(t, h, claim("right", "2Gi", nil))
	create(t, h, one("right", list("cpu", "500m"), list("cpu", "1")))
}

func TestTaintNodesByCondition(t *testing.T) {
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Admission.Disable = nil })
	for _, name := range []string{"new", "tainted"} {
		node := &corev1.Node{ObjectMeta: named(name)}
		if name == "tainted" {
			node.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}
		}
		if taints := create(t, h, node).Spec.Taints; len(taints) != 1 || taints[0].Key != "node.kubernetes.io/not-ready" || taints[0].Effect != corev1.TaintEffectNoSchedule {
			t.Errorf("%s: %+v", name, taints)
		}
	}
}

func TestPriority(t *testing.T) {
	h := harness.New(t)
	never := corev1.PreemptNever
	create(t, h, &schedulingv1.PriorityClass{ObjectMeta: named("high"), Value: 1000, PreemptionPolicy: &never})
	if p := create(t, h, pod("plain", nil)); *p.Spec.Priority != 0 || p.Spec.PriorityClassName != "" {
		t.Errorf("%+v", p.Spec)
	}
	create(t, h, &schedulingv1.PriorityClass{ObjectMeta: named("usual"), Value: 10, GlobalDefault: true})
	if p := create(t, h, pod("usual", nil)); *p.Spec.Priority != 10 || p.Spec.PriorityClassName != "usual" || *p.Spec.PreemptionPolicy != corev1.PreemptLowerPriority {
		t.Errorf("%+v", p.Spec)
	}
	if p := create(t, h, pod("high", func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" })); *p.Spec.Priority != 1000 || *p.Spec.PreemptionPolicy != never {
		t.Errorf("%+v", p.Spec)
	}
	refused(t, h, pod("eager", func(p *corev1.Pod) {
		lower := corev1.PreemptLowerPriority
		p.Spec.PriorityClassName, p.Spec.PreemptionPolicy = "high", &lower
	}), "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority admission controller computed Never from the given PriorityClass name")
	refused(t, h, &schedulingv1.PriorityClass{ObjectMeta: named("other"), Value: 11, GlobalDefault: true}, "PriorityClass usual is already marked as default. Only one default can exist")
	_, err := client.Patch(context.Background(), h.Client, &schedulingv1.PriorityClass{ObjectMeta: named("high")}, types.MergePatchType, []byte(`{"globalDefault":true}`), "")
	if !apierrors.IsForbidden(err) {
		t.Errorf("a second default by an update: %v", err)
	}
	if _, err := client.Patch(context.Background(), h.Client, &schedulingv1.PriorityClass{ObjectMeta: named("usual")}, types.MergePatchType, []byte(`{"description":"x"}`), ""); err != nil {
		t.Error(err)
	}
}

func TestRuntimeClass(t *testing.T) {
	h := harness.New(t)
	create(t, h, &nodev1.RuntimeClass{ObjectMeta: named("vm"), Handler: "kata", Overhead: &nodev1.Overhead{PodFixed: list("cpu", "250m")}, Scheduling: &nodev1.Scheduling{
		NodeSelector: map[string]string{"kvm": "yes"}, Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}}}})
	with := func(name string, change func(*corev1.Pod)) *corev1.Pod {
		return pod(name, func(p *corev1.Pod) {
			p.Spec.RuntimeClassName = of("vm")
			if change != nil {
				change(p)
			}
		})
	}
	p := create(t, h, with("p", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }))
	if p.Spec.Overhead.Cpu().String() != "250m" || p.Spec.NodeSelector["kvm"] != "yes" || p.Spec.NodeSelector["disk"] != "ssd" || len(p.Spec.Tolerations) != 3 {
		t.Errorf("%+v", p.Spec)
	}
	refused(t, h, with("q", func(p *corev1.Pod) { p.Spec.Overhead = list("cpu", "1") }), "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
	refused(t, h, with("q", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"kvm": "no"} }),
		"conflict: runtimeClass.scheduling.nodeSelector[kvm] = yes; pod.spec.nodeSelector[kvm] = no")
}

func TestDefaultClasses(t *testing.T) {
	h := harness.New(t)
	ingress := func(name string) *networkingv1.Ingress {
		return &networkingv1.Ingress{ObjectMeta: inDefault(name), Spec: networkingv1.IngressSpec{DefaultBackend: &networkingv1.IngressBackend{
			Service: &networkingv1.IngressServiceBackend{Name: "s", Port: networkingv1.ServiceBackendPort{Number: 80}}}}}
	}
	if c := create(t, h, claim("none", "1Gi", nil)); c.Spec.StorageClassName != nil {
		t.Errorf("%+v", c.Spec)
	}
	if i := create(t, h, ingress("none")); i.Spec.IngressClassName != nil {
		t.Errorf("%+v", i.Spec)
	}
	for _, name := range []string{"b", "a", "c"} {
		class := &storagev1.StorageClass{ObjectMeta: named(name), Provisioner: "x/y"}
		other := &networkingv1.IngressClass{ObjectMeta: named(name), Spec: networkingv1.IngressClassSpec{Controller: "x/y"}}
		if name != "c" {
			class.Annotations = map[string]string{"storageclass.kubernetes.io/is-default-class": "true"}
			other.Annotations = map[string]string{"ingressclass.kubernetes.io/is-default-class": "true"}
		}
		create(t, h, class)
		create(t, h, other)
	}
	newest := func(created map[string]metav1.Time) string {
		if a, b := created["a"], created["b"]; b.After(a.Time) {
			return "b"
		}
		return "a"
	}
	created := map[string]metav1.Time{}
	client.Each(h.Client.View(), "", func(c *storagev1.StorageClass) bool { created[c.Name] = c.CreationTimestamp; return true })
	if c := create(t, h, claim("default", "1Gi", nil)); c.Spec.StorageClassName == nil || *c.Spec.StorageClassName != newest(created) {
		t.Errorf("%+v", c.Spec)
	}
	if c := create(t, h, claim("own", "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = of("") })); *c.Spec.StorageClassName != "" {
		t.Errorf("%+v", c.Spec)
	}
	client.Each(h.Client.View(), "", func(c *networkingv1.IngressClass) bool { created[c.Name] = c.CreationTimestamp; return true })
	if i := create(t, h, ingress("default")); i.Spec.IngressClassName == nil || *i.Spec.IngressClassName != newest(created) {
		t.Errorf("%+v", i.Spec)
	}
	annotated := ingress("annotated")
	annotated.Annotations = map[string]string{"kubernetes.io/ingress.class": "old"}
	if i := create(t, h, annotated); i.Spec.IngressClassName != nil {
		t.Errorf("%+v", i.Spec)
	}
}

func TestPersistentVolumeClaimResize(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	create(t, h, &storagev1.StorageClass{ObjectMeta: named("grows"), Provisioner: "x/y", AllowVolumeExpansion: of(true)})
	create(t, h, &storagev1.StorageClass{ObjectMeta: named("stays"), Provisioner: "x/y"})
	grow := func(name string) error {
		_, err := client.Patch(ctx, h.Client, &corev1.PersistentVolumeClaim{ObjectMeta: inDefault(name)}, types.MergePatchType, []byte(`{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`), "")
		return err
	}
	for _, class := range []string{"grows", "stays"} {
		c := create(t, h, claim(class, "1Gi", func(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = &class }))
		c = c.DeepCopy()
		c.Status.Phase = corev1.ClaimBound
		if _, err := client.UpdateStatus(ctx, h.Client, c); err != nil {
			t.Fatal(err)
		}
	}
	if err := grow("grows"); err != nil {
		t.Error(err)
	}
	if err := grow("stays"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize") {
		t.Error(err)
	}
}

// TestPodSecurity: namespaces' labels, defaults and exemptions decide; templates are warned of.
func TestPodSecurity(t *testing.T) {
	config := `{"apiVersion":"apiserver.config.k8s.io/v1","kind":"AdmissionConfiguration","plugins":[{"name":"PodSecurity","configuration":
		{"apiVersion":"pod-security.admission.config.k8s.io/v1","kind":"PodSecurityConfiguration","defaults":{"enforce":"baseline"},"exemptions":{"namespaces":["free"]}}}]}`
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Admission.Configuration = []byte(config) })
	ctx := context.Background()
	for name, labels := range map[string]map[string]string{
		"free": nil, "strict": {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/warn": "restricted"},
		"warned": {"pod-security.kubernetes.io/enforce": "privileged", "pod-security.kubernetes.io/warn": "baseline"},
	} {
		create(t, h, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
		create(t, h, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "default"}})
	}
	in := func(namespace, name string, change func(*corev1.Pod)) *corev1.Pod {
		p := pod(name, change)
		p.Namespace = namespace
		return p
	}
	host := func(p *corev1.Pod) { p.Spec.HostNetwork = true }
	refused(t, h, in("default", "p", host), `pods "p" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`)
	create(t, h, in("default", "p", nil))
	create(t, h, in("free", "p", host))
	refused(t, h, in("strict", "p", nil), `violates PodSecurity "restricted:latest"`, `allowPrivilegeEscalation != false`)
	post := func(path, body string) *httptest.ResponseRecorder {
		request := httptest.NewRequest("POST", path, strings.NewReader(body))
		request.Header.Set("Content-Type", "application/json")
		response := httptest.NewRecorder()
		h.AsAdmin().ServeHTTP(response, request)
		return response
	}
	spec := `{"hostNetwork":true,"containers":[{"name":"c","image":"x"}]}`
	response := post("/api/v1/namespaces/warned/pods", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":`+spec+`}`)
	if got := response.Header().Get("Warning"); response.Code != 201 || !strings.Contains(got, `would violate PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)`) {
		t.Errorf("%d: %q", response.Code, got)
	}
	response = post("/apis/apps/v1/namespaces/strict/deployments", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":`+spec+`}}}`)
	if got := response.Header().Get("Warning"); response.Code != 201 || !strings.Contains(got, "would violate PodSecurity") {
		t.Errorf("%d: %q", response.Code, got)
	}
	if _, ok := client.Get[*appsv1.Deployment](h.Client.View(), "strict", "d"); !ok {
		t.Error("a controller's template is warned of and not refused")
	}
	_, err := client.Patch(ctx, h.Client, &corev1.Namespace{ObjectMeta: named("warned")}, types.MergePatchType, []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"nonsense"}}}`), "")
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "must be one of privileged, baseline, restricted") {
		t.Errorf("a level that does not exist: %v", err)
	}
}

func TestStepsOnRequest(t *testing.T) {
	clock := time.Unix(1000, 0)
	limits := `{"apiVersion":"apiserver.config.k8s.io/v1","kind":"AdmissionConfiguration","plugins":[{"name":"EventRateLimit","configuration":
		{"apiVersion":"eventratelimit.admission.k8s.io/v1alpha1","kind":"Configuration","limits":[{"type":"Namespace","qps":1,"burst":2}]}}]}`
	h := harness.NewConfigured(t, func(c *apiserver.Config) {
		c.Admission = admission.Config{Enable: []string{"AlwaysPullImages", "DenyServiceExternalIPs", "ExtendedResourceToleration", "EventRateLimit"}, Disable: []string{"DefaultTolerationSeconds"},
			Configuration: []byte(limits), Now: func() time.Time { return clock }}
	})
	p := create(t, h, pod("p", func(p *corev1.Pod) {
		p.Spec.Containers[0].ImagePullPolicy = corev1.PullNever
		p.Spec.Containers[1].Resources = corev1.ResourceRequirements{Requests: list("example.com/gpu", "1"), Limits: list("example.com/gpu", "1")}
	}))
	for _, c := range append(p.Spec.InitContainers, p.Spec.Containers...) {
		if c.ImagePullPolicy != corev1.PullAlways {
			t.Errorf("%s: %s", c.Name, c.ImagePullPolicy)
		}
	}
	if len(p.Spec.Tolerations) != 1 || p.Spec.Tolerations[0].Key != "example.com/gpu" {
		t.Errorf("%+v", p.Spec.Tolerations)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Spec: corev1.ServiceSpec{
		ExternalIPs: []string{"192.168.7.1"}, Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := client.Create(t.Context(), h.Client, service); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "Use of external IPs is denied by admission control") {
		t.Errorf("a service with an external address: %v", err)
	}
	service.Spec.ExternalIPs, service.Spec.ExternalTrafficPolicy = nil, ""
	if _, err := client.Create(t.Context(), h.Client, service); err != nil {
		t.Errorf("a service without one: %v", err)
	}
	event := func(i int) error {
		_, err := client.Create(context.Background(), h.Client, &corev1.Event{ObjectMeta: inDefault(fmt.Sprint("e", i)), InvolvedObject: corev1.ObjectReference{Namespace: "default"}})
		return err
	}
	for i := range 2 {
		if err := event(i); err != nil {
			t.Fatal(err)
		}
	}
	if err := event(2); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "limit reached on type Namespace for key default") {
		t.Error(err)
	}
	clock = clock.Add(time.Second)
	if err := event(2); err != nil {
		t.Error(err)
	}
	for _, wrong := range []string{`x`, `{"apiVersion":"v1","kind":"AdmissionConfiguration"}`, strings.Replace(limits, `"qps":1`, `"qps":0`, 1), strings.Replace(limits, `"Namespace"`, `"Other"`, 1),
		strings.Replace(limits, `"EventRateLimit"`, `"LimitRanger"`, 1), strings.Replace(limits, `"burst"`, `"bursts"`, 1)} {
		if _, err := admission.Steps(admission.Config{Enable: []string{"EventRateLimit"}, Configuration: []byte(wrong)}); err == nil {
			t.Errorf("accepted: %s", wrong)
		}
	}
}

func TestPodResizeValidator(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	node := create(t, h, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelOSStable: "linux"}}}).DeepCopy()
	node.Status.Allocatable = list("cpu", "2", "memory", "1Gi")
	if _, err := client.UpdateStatus(ctx, h.Client, node); err != nil {
		t.Fatal(err)
	}
	create(t, h, pod("p", func(p *corev1.Pod) {
		p.Spec.NodeName, p.Spec.InitContainers, p.Spec.Containers = "n", nil, p.Spec.Containers[:1]
		p.Spec.Containers[0].Resources.Requests = list("cpu", "1", "memory", "1Mi")
	}))
	resize := func(cpu, memory string) error {
		p, _ := client.Get[*corev1.Pod](h.Client.View(), "default", "p")
		p = p.DeepCopy()
		p.Spec.Containers[0].Resources.Requests = list("cpu", cpu, "memory", memory)
		_, err := client.UpdateSubresource(ctx, h.Client, p, "resize")
		return err
	}
	err := resize("3", "2Gi")
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824") ||
		!apierrors.HasStatusCause(err, "NodeCapacity") {
		t.Error(err)
	}
	if err := resize("2", "1Gi"); err != nil {
		t.Error(err)
	}
}
