package endpoints_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/endpoints"
	"github.com/kontiki/kontiki/test/harness"
)

//lint:file-ignore SA1019 Endpoints are deprecated, and kept for the programs that still read them.

type bed struct {
	*harness.Harness
	t *testing.T
}

func start(t *testing.T) *bed {
	t.Helper()
	b := &bed{harness.New(t), t}
	controllertest.Run(t, b.Client, endpoints.New(b.Client))
	return b
}

var app = map[string]string{"app": "x"}

func (b *bed) service(change ...func(*corev1.Service)) *corev1.Service {
	b.t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "svc", Labels: map[string]string{"mine": "yes"}}, Spec: corev1.ServiceSpec{
		Selector: app, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("web")}}}}
	for _, c := range change {
		c(s)
	}
	return controllertest.Create(b.t, b.Client, s)
}

// pod returns a pod with its own address whose port web is 8080.
func (b *bed) pod(i int, ready bool, change ...func(*corev1.Pod)) string {
	b.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("p%03d", i), Labels: app}, Spec: corev1.PodSpec{NodeName: "n1",
		Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}}}}}
	for _, c := range change {
		c(p)
	}
	controllertest.Create(b.t, b.Client, p)
	controllertest.ChangeStatus(b.t, b.Client, "default", p.Name, func(p *corev1.Pod) {
		controllertest.MakeReady(p, ready)
		p.Status.PodIP = address(i)
		p.Status.PodIPs = []corev1.PodIP{{IP: p.Status.PodIP}}
	})
	return p.Name
}

func address(i int) string { return fmt.Sprintf("10.244.%d.%d", i/200, i%200+1) }

func slicesOf(v client.View) (out []*discoveryv1.EndpointSlice) {
	client.Each(v, "default", func(s *discoveryv1.EndpointSlice) bool {
		if s.Labels[discoveryv1.LabelServiceName] == "svc" {
			out = append(out, s)
		}
		return true
	})
	return out
}

func TestHintsFollowTheTrafficDistribution(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}})
	controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}) // in no zone
	prefer := func(distribution string) *string { return &distribution }
	b.service(func(s *corev1.Service) { s.Spec.TrafficDistribution = prefer("PreferClose") })
	b.pod(0, true)
	b.pod(1, true, func(p *corev1.Pod) { p.Spec.NodeName = "n2" })
	b.pod(2, false)
	for _, test := range []struct {
		distribution *string
		want         map[string]string
	}{
		{prefer("PreferClose"), map[string]string{address(0): "[z1] []", address(1): "none", address(2): "none"}},
		{prefer("PreferSameNode"), map[string]string{address(0): "[z1] [n1]", address(1): "[] [n2]", address(2): "none"}},
		{prefer("PreferSameZone"), map[string]string{address(0): "[z1] []", address(1): "none", address(2): "none"}},
		{nil, map[string]string{address(0): "none", address(1): "none", address(2): "none"}},
	} {
		controllertest.Change(t, b.Client, "default", "svc", func(s *corev1.Service) { s.Spec.TrafficDistribution = test.distribution })
		controllertest.AwaitView(t, b.Client, []client.Object{&discoveryv1.EndpointSlice{}}, func(v client.View) string {
			got := map[string]string{}
			for _, s := range slicesOf(v) {
				for _, e := range s.Endpoints {
					if e.Hints == nil {
						got[e.Addresses[0]] = "none"
						continue
					}
					var zones, nodes []string
					for _, z := range e.Hints.ForZones {
						zones = append(zones, z.Name)
					}
					for _, n := range e.Hints.ForNodes {
						nodes = append(nodes, n.Name)
					}
					got[e.Addresses[0]] = fmt.Sprint(zones, " ", nodes)
				}
			}
			if !maps.Equal(got, test.want) {
				return fmt.Sprintf("hints %v, want %v", got, test.want)
			}
			return ""
		})
	}
}

// told is the content of all slices: "address ready serving terminating ports", sorted.
func told(v client.View) (out []string) {
	for _, s := range slicesOf(v) {
		ports := ""
		for _, p := range s.Ports {
			ports += fmt.Sprintf(" %s:%d/%s", *p.Name, *p.Port, *p.Protocol)
		}
		for _, e := range s.Endpoints {
			out = append(out, fmt.Sprintf("%s %v %v %v%s", e.Addresses[0], *e.Conditions.Ready, *e.Conditions.Serving, *e.Conditions.Terminating, ports))
		}
	}
	slices.Sort(out)
	return out
}

func (b *bed) await(want ...string) client.View {
	b.t.Helper()
	slices.Sort(want)
	return controllertest.AwaitView(b.t, b.Client, []client.Object{&discoveryv1.EndpointSlice{}}, func(v client.View) string {
		if got := told(v); !slices.Equal(got, want) {
			return fmt.Sprintf("slices say %q, want %q", got, want)
		}
		return ""
	})
}

// legacy is the content of the Endpoints object.
func legacy(e *corev1.Endpoints) (out []string) {
	for _, s := range e.Subsets {
		ports := ""
		for _, p := range s.Ports {
			ports += fmt.Sprintf(" %s:%d", p.Name, p.Port)
		}
		for _, a := range s.Addresses {
			out = append(out, a.IP+" ready"+ports)
		}
		for _, a := range s.NotReadyAddresses {
			out = append(out, a.IP+" not"+ports)
		}
	}
	slices.Sort(out)
	return out
}

func (b *bed) awaitLegacy(want ...string) *corev1.Endpoints {
	b.t.Helper()
	slices.Sort(want)
	return controllertest.Await(b.t, b.Client, "default", "svc", fmt.Sprintf("%q", want), func(e *corev1.Endpoints) bool { return slices.Equal(legacy(e), want) })
}

func TestEndpointsFollowPods(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}})
	service := b.service()
	// One empty slice shows that the service exists and has no endpoints.
	controllertest.AwaitView(t, b.Client, []client.Object{&discoveryv1.EndpointSlice{}}, func(v client.View) string {
		if got := slicesOf(v); len(got) != 1 || len(got[0].Endpoints) != 0 {
			return fmt.Sprintf("%d slices of a service without pods", len(got))
		}
		return ""
	})
	b.pod(1, true)
	b.pod(2, false)
	b.pod(3, true, func(p *corev1.Pod) { p.Labels = map[string]string{"app": "other"} })
	b.pod(4, true, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 9090 }) // the same name, another number
	b.pod(5, true, func(p *corev1.Pod) { p.Spec.Containers[0].Ports = nil })                   // no such port
	v := b.await(
		"10.244.0.2 true true false http:8080/TCP", "10.244.0.3 false false false http:8080/TCP",
		"10.244.0.5 true true false http:9090/TCP", "10.244.0.6 true true false")
	for _, s := range slicesOf(v) {
		ref := metav1.GetControllerOf(s)
		if ref == nil || ref.UID != service.UID || s.Labels["mine"] != "yes" || s.Labels[discoveryv1.LabelManagedBy] != "endpointslice-controller.k8s.io" || s.AddressType != discoveryv1.AddressTypeIPv4 {
			t.Errorf("slice %+v", s.ObjectMeta)
		}
		for _, e := range s.Endpoints {
			if e.TargetRef == nil || e.TargetRef.Kind != "Pod" || e.NodeName == nil || *e.NodeName != "n1" || e.Zone == nil || *e.Zone != "z1" {
				t.Errorf("endpoint %+v", e)
			}
		}
	}
	e := b.awaitLegacy("10.244.0.2 ready http:8080", "10.244.0.3 not http:8080", "10.244.0.5 ready http:9090")
	if e.Labels["mine"] != "yes" {
		t.Errorf("labels %v", e.Labels)
	}

	// Changes of readiness and labels, and the end of pods.
	controllertest.ChangeStatus(t, b.Client, "default", "p002", func(p *corev1.Pod) {
		controllertest.MakeReady(p, true)
		p.Status.PodIP = address(2)
		p.Status.PodIPs = nil
	})
	controllertest.Change(t, b.Client, "default", "p004", func(p *corev1.Pod) { p.Labels = nil })
	controllertest.ChangeStatus(t, b.Client, "default", "p005", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	b.await("10.244.0.2 true true false http:8080/TCP", "10.244.0.3 true true false http:8080/TCP")
	b.awaitLegacy("10.244.0.2 ready http:8080", "10.244.0.3 ready http:8080")

	// A terminating pod still serves, but gets nothing new; Endpoints drop it.
	if err := b.Client.Delete(context.Background(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p001"}}); err != nil {
		t.Fatal(err)
	}
	b.await("10.244.0.2 false true true http:8080/TCP", "10.244.0.3 true true false http:8080/TCP")
	b.awaitLegacy("10.244.0.3 ready http:8080")

	// Changes of the service's ports and labels.
	controllertest.Change(t, b.Client, "default", "svc", func(s *corev1.Service) {
		s.Labels = map[string]string{"theirs": "yes"}
		s.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 1, TargetPort: intstr.FromInt32(1111)}, {Name: "b", Port: 2}}
	})
	v = b.await("10.244.0.2 false true true a:1111/TCP b:2/TCP", "10.244.0.3 true true false a:1111/TCP b:2/TCP")
	for _, s := range slicesOf(v) {
		if s.Labels["theirs"] != "yes" || s.Labels["mine"] != "" {
			t.Errorf("labels %v", s.Labels)
		}
	}
	// Changes by others are reverted.
	mine := slicesOf(v)[0]
	controllertest.Change(t, b.Client, "default", mine.Name, func(s *discoveryv1.EndpointSlice) { s.Endpoints = nil })
	b.await("10.244.0.2 false true true a:1111/TCP b:2/TCP", "10.244.0.3 true true false a:1111/TCP b:2/TCP")
	if err := b.Client.Delete(context.Background(), &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "svc"}}); err != nil {
		t.Fatal(err)
	}
	b.awaitLegacy("10.244.0.3 ready a:1111 b:2")

	if err := b.Client.Delete(context.Background(), service); err != nil {
		t.Fatal(err)
	}
	controllertest.AwaitGone[*corev1.Endpoints](t, b.Client, "default", "svc")
	controllertest.AwaitView(t, b.Client, []client.Object{&discoveryv1.EndpointSlice{}}, func(v client.View) string {
		if n := len(slicesOf(v)); n > 0 {
			return fmt.Sprintf("%d slices of a service that is gone", n)
		}
		return ""
	})
}

func TestPublishNotReadyAddresses(t *testing.T) {
	b := start(t)
	b.service(func(s *corev1.Service) {
		s.Spec.PublishNotReadyAddresses, s.Spec.ClusterIP = true, corev1.ClusterIPNone
	})
	b.pod(1, false)
	v := b.await("10.244.0.2 true false false http:8080/TCP")
	if _, ok := slicesOf(v)[0].Labels[corev1.IsHeadlessService]; !ok {
		t.Error("the slice is not marked as a headless service's")
	}
	b.awaitLegacy("10.244.0.2 ready http:8080")
}

func TestHostNetworkPodsShareAnAddress(t *testing.T) {
	b := start(t)
	b.service(func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(8080) })
	same := func(ready bool, i int) {
		name := b.pod(i, ready)
		controllertest.ChangeStatus(t, b.Client, "default", name, func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = address(7), nil })
	}
	same(true, 1)
	same(false, 2)
	b.await("10.244.0.8 true true false http:8080/TCP", "10.244.0.8 false false false http:8080/TCP")
}

func TestServicesWithoutSelectorAreTheUsers(t *testing.T) {
	b := start(t)
	b.service(func(s *corev1.Service) { s.Spec.Selector = nil })
	controllertest.Create(t, b.Client, &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "svc"},
		Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}, Ports: []corev1.EndpointPort{{Port: 80}}}}})
	b.pod(1, true)
	// The slices of another service show that the controller has processed the change.
	b.service(func(s *corev1.Service) { s.Name = "other" })
	controllertest.Await(t, b.Client, "default", "other", "an address", func(e *corev1.Endpoints) bool { return len(e.Subsets) == 1 })
	if e, _ := client.Get[*corev1.Endpoints](b.Client.View(), "default", "svc"); len(e.Subsets) != 1 || e.Subsets[0].Addresses[0].IP != "192.0.2.1" {
		t.Errorf("endpoints of the user: %+v", e)
	}
	if n := len(slicesOf(b.Client.View())); n != 0 {
		t.Errorf("%d slices", n)
	}
}

// TestEndpointsGoWithTheirService: they are deleted with their service, also if a user created them, but not if they exist before
// it.
func TestEndpointsGoWithTheirService(t *testing.T) {
	h := harness.New(t)
	endpointsOf := func(name string, change ...func(*corev1.Endpoints)) {
		e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}}, Ports: []corev1.EndpointPort{{Port: 80}}}}}
		for _, c := range change {
			c(e)
		}
		controllertest.Create(t, h.Client, e)
	}
	serviceOf := func(name string) *corev1.Service {
		return controllertest.Create(t, h.Client, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	}
	remove := func(obj client.Object) {
		t.Helper()
		if err := h.Client.Delete(context.Background(), obj); err != nil {
			t.Fatal(err)
		}
	}
	exists := func(name string) {
		t.Helper()
		if _, ok := client.Get[*corev1.Endpoints](h.Client.View(), "default", name); !ok {
			t.Errorf("the Endpoints %s are gone", name)
		}
	}
	endpointsOf("left") // by a service that went while nobody looked
	endpointsOf("lock", func(e *corev1.Endpoints) {
		e.Annotations = map[string]string{"control-plane.alpha.kubernetes.io/leader": "{}"}
	})
	stop := controllertest.Run(t, h.Client, endpoints.New(h.Client))
	controllertest.AwaitGone[*corev1.Endpoints](t, h.Client, "default", "left")

	svc := serviceOf("svc")
	endpointsOf("svc")
	endpointsOf("early")
	remove(svc)
	controllertest.AwaitGone[*corev1.Endpoints](t, h.Client, "default", "svc")
	endpointsOf("svc")  // for a service to come
	for i := range 20 { // when the last has gone, the controller has come by the others
		name := fmt.Sprint("s", i)
		endpointsOf(name)
		remove(serviceOf(name))
	}
	for i := range 20 {
		controllertest.AwaitGone[*corev1.Endpoints](t, h.Client, "default", fmt.Sprint("s", i))
	}
	stop()
	exists("lock")
	exists("early")
	exists("svc")
}

func TestManyEndpointsAndOneChangeIsOneSlice(t *testing.T) {
	b := start(t)
	for i := range 250 {
		b.pod(i, true)
	}
	b.service()
	v := controllertest.AwaitView(t, b.Client, []client.Object{&discoveryv1.EndpointSlice{}}, func(v client.View) string {
		if n := len(told(v)); n != 250 {
			return fmt.Sprintf("%d endpoints", n)
		}
		return ""
	})
	if n := len(slicesOf(v)); n != 3 {
		t.Errorf("%d slices for 250 endpoints", n)
	}
	for _, s := range slicesOf(v) {
		if len(s.Endpoints) > 100 {
			t.Errorf("%d endpoints in a slice", len(s.Endpoints))
		}
	}
	controllertest.Await(t, b.Client, "default", "svc", "250 addresses", func(e *corev1.Endpoints) bool { return len(legacy(e)) == 250 })

	var mu sync.Mutex
	writes := 0
	stop := controllertest.Follow(t, b.Client, []client.Object{&discoveryv1.EndpointSlice{}}, func(client.View) {}, func(events []client.Event) {
		mu.Lock()
		defer mu.Unlock()
		writes += len(events)
	})
	expect := func(what string, count int, want int) {
		t.Helper()
		controllertest.AwaitView(t, b.Client, []client.Object{&discoveryv1.EndpointSlice{}}, func(v client.View) string {
			if n := len(told(v)); n != count {
				return fmt.Sprintf("%s: %d endpoints, want %d", what, n, count)
			}
			return ""
		})
		// The Endpoints object is written after the slices: when it is right, no write of slices is in progress.
		controllertest.Await(t, b.Client, "default", "svc", "the same addresses", func(e *corev1.Endpoints) bool { return len(legacy(e)) == count })
		mu.Lock()
		defer mu.Unlock()
		if writes > want {
			t.Errorf("%s: %d writes of slices so far, want %d", what, writes, want)
		}
	}
	if err := b.Client.Delete(context.Background(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p007"}}, client.Grace(0)); err != nil {
		t.Fatal(err)
	}
	expect("a pod went", 249, 1)
	b.pod(300, true)
	expect("a pod came", 250, 2)
	stop()
	if n := len(slicesOf(b.Client.View())); n != 3 {
		t.Errorf("%d slices", n)
	}
}

func TestMoreThanAThousandAddressesAreTruncated(t *testing.T) {
	b := start(t)
	for i := range 1001 {
		b.pod(i, i > 0)
	}
	b.service()
	e := controllertest.Await(t, b.Client, "default", "svc", "1000 addresses", func(e *corev1.Endpoints) bool { return len(legacy(e)) == 1000 })
	if e.Annotations[corev1.EndpointsOverCapacity] != "truncated" {
		t.Errorf("annotations %v", e.Annotations)
	}
	if n := len(e.Subsets[0].NotReadyAddresses); n != 0 {
		t.Errorf("%d addresses that are not ready were kept before ready ones", n)
	}
}

// An address that validation refuses would refuse the slices and the Endpoints with it.
func TestAnImpossibleAddressIsOmittedAlone(t *testing.T) {
	b := start(t)
	b.service()
	bad := b.pod(1, true)
	controllertest.ChangeStatus(t, b.Client, "default", bad, func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "127.0.0.1", nil })
	b.pod(2, true)
	b.await("10.244.0.3 true true false http:8080/TCP")
	b.awaitLegacy("10.244.0.3 ready http:8080")
}
