package endpointslicemirroring_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/endpointslicemirroring"
	"github.com/kontiki/kontiki/test/harness"
)

//lint:file-ignore SA1019 Endpoints are deprecated, and mirrored for the programs that still write them.

const manager = "endpointslicemirroring-controller.k8s.io"

type bed struct {
	*harness.Harness
	t      *testing.T
	events *controllertest.Recorder
}

func start(t *testing.T) *bed {
	h := harness.New(t)
	b := &bed{h, t, controllertest.NewRecorder()}
	controllertest.Run(t, h.Client, endpointslicemirroring.New(h.Client, b.events))
	return b
}

func (b *bed) service(name string, selector map[string]string) {
	b.t.Helper()
	controllertest.Create(b.t, b.Client, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{Selector: selector, Ports: []corev1.ServicePort{{Port: 80}}}})
}

func endpoints(name string, change ...func(*corev1.Endpoints)) *corev1.Endpoints {
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"team": "a"},
		Annotations: map[string]string{"note": "b", corev1.EndpointsLastChangeTriggerTime: "2026-01-01T00:00:00Z"}},
		Subsets: []corev1.EndpointSubset{{
			Addresses:         []corev1.EndpointAddress{{IP: "192.0.2.2", Hostname: "h"}, {IP: "2001:db8::1"}},
			NotReadyAddresses: []corev1.EndpointAddress{{IP: "192.0.2.1"}},
			Ports:             []corev1.EndpointPort{{Name: "http", Port: 8080, Protocol: corev1.ProtocolTCP}},
		}}}
	for _, c := range change {
		c(e)
	}
	return e
}

// mirrors returns a service's slices, each as text.
func mirrors(v client.View, service string) (out []string) {
	for _, s := range client.List[*discoveryv1.EndpointSlice](v, "default", nil) {
		if s.Labels[discoveryv1.LabelServiceName] != service || s.Labels[discoveryv1.LabelManagedBy] != manager {
			continue
		}
		text := string(s.AddressType)
		for _, p := range s.Ports {
			text += fmt.Sprintf(" %s:%d/%s", *p.Name, *p.Port, *p.Protocol)
		}
		for _, e := range s.Endpoints {
			text += " " + e.Addresses[0]
			if !*e.Conditions.Ready {
				text += "!"
			}
		}
		out = append(out, text)
	}
	slices.Sort(out)
	return out
}

func (b *bed) await(service string, want ...string) client.View {
	b.t.Helper()
	return controllertest.AwaitView(b.t, b.Client, []client.Object{&discoveryv1.EndpointSlice{}}, func(v client.View) string {
		if got := mirrors(v, service); !slices.Equal(got, want) {
			return fmt.Sprintf("slices of %s: %q, want %q", service, got, want)
		}
		return ""
	})
}

const four, six = "IPv4 http:8080/TCP 192.0.2.1! 192.0.2.2", "IPv6 http:8080/TCP 2001:db8::1"

func TestEndpointsAreMirrored(t *testing.T) {
	b := start(t)
	b.service("s", nil)
	e := controllertest.Create(t, b.Client, endpoints("s"))
	v := b.await("s", four, six)
	first := map[string]bool{}
	for _, s := range client.List[*discoveryv1.EndpointSlice](v, "default", nil) {
		first[s.Name] = true
		if s.Labels["team"] != "a" || s.Annotations["note"] != "b" || len(s.Annotations) != 1 || !metav1.IsControlledBy(s, e) || s.GenerateName != "s-" {
			t.Errorf("metadata %+v", s.ObjectMeta)
		}
		if s.AddressType == discoveryv1.AddressTypeIPv4 && (s.Endpoints[1].Hostname == nil || *s.Endpoints[1].Hostname != "h") {
			t.Errorf("hostname of %+v", s.Endpoints[1])
		}
	}
	// Changes are written into the existing slices.
	controllertest.Change(t, b.Client, "default", "s", func(e *corev1.Endpoints) {
		e.Subsets[0].Ports[0].Port = 9090
		e.Subsets[0].NotReadyAddresses = nil
	})
	v = b.await("s", "IPv4 http:9090/TCP 192.0.2.2", "IPv6 http:9090/TCP 2001:db8::1")
	for _, s := range client.List[*discoveryv1.EndpointSlice](v, "default", nil) {
		if !first[s.Name] {
			t.Errorf("%s is new", s.Name)
		}
		// A slice that somebody deletes, or whose label somebody removes, is created again.
		if s.AddressType == discoveryv1.AddressTypeIPv6 {
			if err := b.Client.Delete(context.Background(), s); err != nil {
				t.Fatal(err)
			}
		} else {
			controllertest.Change(t, b.Client, "default", s.Name, func(s *discoveryv1.EndpointSlice) { delete(s.Labels, discoveryv1.LabelManagedBy) })
		}
	}
	b.await("s", "IPv4 http:9090/TCP 192.0.2.2", "IPv6 http:9090/TCP 2001:db8::1")
	if err := b.Client.Delete(context.Background(), e); err != nil {
		t.Fatal(err)
	}
	b.await("s")
}

func TestWhatIsNotMirrored(t *testing.T) {
	b := start(t)
	for _, name := range []string{"skip", "lock", "plain"} {
		b.service(name, nil)
	}
	b.service("selects", map[string]string{"app": "x"})
	controllertest.Create(t, b.Client, endpoints("skip", func(e *corev1.Endpoints) { e.Labels[discoveryv1.LabelSkipMirror] = "true" }))
	controllertest.Create(t, b.Client, endpoints("lock", func(e *corev1.Endpoints) { e.Annotations["control-plane.alpha.kubernetes.io/leader"] = "{}" }))
	controllertest.Create(t, b.Client, endpoints("selects"))
	controllertest.Create(t, b.Client, endpoints("alone"))
	controllertest.Create(t, b.Client, endpoints("plain"))
	v := b.await("plain", four, six)
	for _, name := range []string{"skip", "lock", "selects", "alone"} {
		if got := mirrors(v, name); got != nil {
			t.Errorf("%s is mirrored: %q", name, got)
		}
	}
	// Each of these can change later.
	controllertest.Change(t, b.Client, "default", "skip", func(e *corev1.Endpoints) { delete(e.Labels, discoveryv1.LabelSkipMirror) })
	b.await("skip", four, six)
	b.service("alone", nil)
	b.await("alone", four, six)
	controllertest.Change(t, b.Client, "default", "selects", func(s *corev1.Service) { s.Spec.Selector = nil })
	b.await("selects", four, six)
	controllertest.Change(t, b.Client, "default", "plain", func(s *corev1.Service) { s.Spec.Selector = map[string]string{"app": "x"} })
	b.await("plain")
	controllertest.Change(t, b.Client, "default", "skip", func(e *corev1.Endpoints) { e.Labels[discoveryv1.LabelSkipMirror] = "true" })
	b.await("skip")
	if err := b.Client.Delete(context.Background(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "alone"}}); err != nil {
		t.Fatal(err)
	}
	b.await("alone")
}

func TestTooManyAddressesAreLeftOut(t *testing.T) {
	b := start(t)
	b.service("s", nil)
	controllertest.Create(t, b.Client, endpoints("s", func(e *corev1.Endpoints) {
		e.Subsets[0].Addresses, e.Subsets[0].NotReadyAddresses = nil, nil
		for i := range 1003 {
			e.Subsets[0].Addresses = append(e.Subsets[0].Addresses, corev1.EndpointAddress{IP: fmt.Sprintf("10.0.%d.%d", i/250, i%250+1)})
		}
	}))
	controllertest.AwaitView(t, b.Client, []client.Object{&discoveryv1.EndpointSlice{}}, func(v client.View) string {
		for _, s := range client.List[*discoveryv1.EndpointSlice](v, "default", nil) {
			if len(s.Endpoints) == 1000 {
				return ""
			}
		}
		return "no slice with 1000 endpoints"
	})
	b.events.Await(t, "Warning TooManyAddressesToMirror A max of 1000 addresses can be mirrored to EndpointSlices per Endpoints subset. 3 addresses were skipped")
}
