package proxy

import (
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/kontiki/kontiki/node/netapi"
)

// hint sets the hints of a world's endpoints, by their addresses: "zone/node", each of which may be empty.
func hint(w *world, hints map[string]string) {
	_, all := w.lists()
	for _, s := range all {
		for i := range s.Endpoints {
			zone, node, ok := strings.Cut(hints[s.Endpoints[i].Addresses[0]], "/")
			if !ok {
				continue
			}
			h := &discoveryv1.EndpointHints{}
			if zone != "" {
				h.ForZones = []discoveryv1.ForZone{{Name: zone}}
			}
			if node != "" {
				h.ForNodes = []discoveryv1.ForNode{{Name: node}}
			}
			s.Endpoints[i].Hints = h
		}
	}
}

func TestEndpointsAreChosenByHints(t *testing.T) {
	const one, two, three, waits, drains = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"
	for _, c := range []struct {
		name  string
		hints map[string]string
		want  string
	}{
		{"none", nil, "10.0.0.1 10.0.0.2 10.0.0.3"},
		{"zones", map[string]string{one: "z1/", two: "z1/", three: "z2/"}, "10.0.0.1 10.0.0.2"},
		{"none for this zone", map[string]string{one: "z3/", two: "z3/", three: "z2/"}, "10.0.0.1 10.0.0.2 10.0.0.3"},
		{"one has none", map[string]string{one: "z1/", two: "z1/"}, "10.0.0.1 10.0.0.2 10.0.0.3"},
		{"nodes before zones", map[string]string{one: "z1/a", two: "z1/b", three: "z2/c"}, "10.0.0.1"},
		{"zones where none is for this node", map[string]string{one: "z1/d", two: "z1/b", three: "z2/c"}, "10.0.0.1 10.0.0.2"},
		{"zones where one has no node", map[string]string{one: "z1/a", two: "z1/", three: "z2/c"}, "10.0.0.1 10.0.0.2"},
		{"those of endpoints that are not ready do not count", map[string]string{one: "z2/", two: "z2/", three: "z2/", waits: "z1/a", drains: "z1/a"}, "10.0.0.1 10.0.0.2 10.0.0.3"},
	} {
		w := newWorld()
		w.endpoints("s", ep{one, "a", ""}, ep{two, "b", ""}, ep{three, "c", ""}, ep{waits, "a", notReady}, ep{drains, "a", draining})
		hint(w, c.hints)
		_, of := w.lists()
		got := choose(corev1.ServicePort{Name: "t", Port: 80}, of, place{node: "a", zone: "z1"})
		if list(got.cluster) != c.want || list(got.local) != one {
			t.Errorf("%s: cluster %q, local %q; want %q and %q", c.name, list(got.cluster), list(got.local), c.want, one)
		}
	}
}

func TestANodeThatMovesToAnotherZoneChoosesAnew(t *testing.T) {
	p, nft := fakeProxy(t, Options{})
	w := newWorld()
	w.service("s", "10.96.0.1", nil)
	w.endpoints("s", ep{"10.244.1.1", "b", ""}, ep{"10.244.2.1", "c", ""})
	hint(w, map[string]string{"10.244.1.1": "z1/", "10.244.2.1": "z2/"})
	w.apply(t, p)
	config := netapi.NetworkConfig{ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16")}
	for _, c := range []struct{ zone, has, hasNot string }{
		{"z1", "10.244.1.1", "10.244.2.1"}, {"z2", "10.244.2.1", "10.244.1.1"},
	} {
		config.Zone = c.zone
		if err := p.Configure(ctx, config); err != nil {
			t.Fatal(err)
		}
		if err := p.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		if dump := nft.Dump(); !strings.Contains(dump, c.has) || strings.Contains(dump, c.hasNot) {
			t.Errorf("in zone %s, want %s alone:\n%s", c.zone, c.has, dump)
		}
	}
}
