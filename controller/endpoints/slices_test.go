package endpoints

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/harness"
)

//lint:file-ignore SA1019 Endpoints are deprecated, and kept for the programs that still read them.

// TestAServiceOfTwoFamiliesHasSlicesOfBoth, and its Endpoints have the addresses of the first one. The service is not stored: the API has a
// range of addresses of one family only.
func TestAServiceOfTwoFamiliesHasSlicesOfBoth(t *testing.T) {
	h := harness.New(t)
	r := &reconciler{client: h.Client}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "svc", UID: "s"}, Spec: corev1.ServiceSpec{ClusterIP: corev1.ClusterIPNone,
		IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}}}
	pod := func(name string, addresses ...string) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
		p.Status.PodIP = addresses[0]
		for _, a := range addresses {
			p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a})
		}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		return p
	}
	check := func(want map[string]string, backing ...*corev1.Pod) {
		t.Helper()
		if err := r.reconcileSlices(t.Context(), h.Client.View(), service, backing); err != nil {
			t.Fatal(err)
		}
		if err := r.reconcileEndpoints(t.Context(), h.Client.View(), service, backing); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		client.Each(h.Client.View(), "default", func(s *discoveryv1.EndpointSlice) bool {
			names := []string{}
			for _, e := range s.Endpoints {
				names = append(names, e.TargetRef.Name+"="+e.Addresses[0])
			}
			slices.Sort(names)
			got[string(s.AddressType)] += fmt.Sprint(names)
			return true
		})
		if e, ok := client.Get[*corev1.Endpoints](h.Client.View(), "default", "svc"); ok {
			for _, subset := range e.Subsets {
				for _, a := range subset.Addresses {
					got["Endpoints"] += a.IP + " "
				}
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
	both, four, six := pod("both", "10.244.0.1", "2001:db8::1"), pod("four", "10.244.0.2"), pod("six", "2001:db8::3", "fe80::1")
	check(map[string]string{"IPv4": "[both=10.244.0.1 four=10.244.0.2]", "IPv6": "[both=2001:db8::1 six=2001:db8::3]", "Endpoints": "10.244.0.1 10.244.0.2 "}, both, four, six)
	check(map[string]string{"IPv4": "[four=10.244.0.2]", "IPv6": "[]", "Endpoints": "10.244.0.2 "}, four)
	slices.Reverse(service.Spec.IPFamilies)
	check(map[string]string{"IPv4": "[four=10.244.0.2]", "IPv6": "[six=2001:db8::3]", "Endpoints": "2001:db8::3 "}, four, six)
	service.Spec.IPFamilies = service.Spec.IPFamilies[:1]
	check(map[string]string{"IPv6": "[six=2001:db8::3]", "Endpoints": "2001:db8::3 "}, four, six)
	if before, after := pod("a", "10.244.0.1"), pod("a", "10.244.0.1", "2001:db8::1"); sameEndpoint(before, after) {
		t.Error("a further address is no change")
	}
}
