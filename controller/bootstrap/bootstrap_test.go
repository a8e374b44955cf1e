package bootstrap_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/controller/bootstrap"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/namespace"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

//lint:file-ignore SA1019 Endpoints are deprecated, and kept for the programs that still read them.

func TestTheClustersOwnObjects(t *testing.T) {
	h := harness.New(t)
	var mu sync.Mutex
	var masters []netip.AddrPort
	changed := make(chan struct{}, 1)
	set := func(addresses ...string) {
		mu.Lock()
		masters = nil
		for _, a := range addresses {
			masters = append(masters, netip.MustParseAddrPort(a))
		}
		mu.Unlock()
		changed <- struct{}{}
	}
	config := bootstrap.Config{Client: h.Client, ServiceAddress: netip.MustParseAddr("10.96.0.1"), Changed: changed,
		Masters: func() []netip.AddrPort {
			mu.Lock()
			defer mu.Unlock()
			return append([]netip.AddrPort(nil), masters...)
		}}
	run := func() func() {
		return controllertest.Go(t, "bootstrap", func(ctx context.Context) error { return bootstrap.Run(ctx, config) })
	}
	stop := run()
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		controllertest.Await(t, h.Client, "", name, "to be there", func(*corev1.Namespace) bool { return true })
	}
	holds := func(want ...string) {
		t.Helper()
		controllertest.Await(t, h.Client, "default", "kubernetes", fmt.Sprint("endpoints ", want), func(s *discoveryv1.EndpointSlice) bool {
			var got []string
			for _, e := range s.Endpoints {
				got = append(got, e.Addresses...)
			}
			return fmt.Sprint(got) == fmt.Sprint(want) && *s.Ports[0].Port == 6443 && *s.Ports[0].Name == "https" && s.Labels[discoveryv1.LabelServiceName] == "kubernetes"
		})
		controllertest.Await(t, h.Client, "default", "kubernetes", fmt.Sprint("addresses ", want), func(e *corev1.Endpoints) bool {
			var got []string
			for _, a := range e.Subsets[0].Addresses {
				got = append(got, a.IP)
			}
			return fmt.Sprint(got) == fmt.Sprint(want) && e.Subsets[0].Ports[0].Port == 6443
		})
	}
	set("192.0.2.2:6443", "192.0.2.1:6443")
	holds("192.0.2.1", "192.0.2.2")
	s, ok := client.Get[*corev1.Service](h.Client.View(), "default", "kubernetes")
	if !ok || s.Spec.ClusterIP != "10.96.0.1" || s.Spec.Ports[0].Port != 443 || s.Spec.Ports[0].TargetPort.IntVal != 6443 {
		t.Errorf("service %+v", s)
	}
	set("192.0.2.2:6443")
	holds("192.0.2.2")
	set() // gossip knows nobody: what is there stays
	set("192.0.2.3:6443", "192.0.2.2:6443")
	holds("192.0.2.2", "192.0.2.3")
	stop()
	before := h.Client.View().Revision()
	stop = run()  // a new leader finds everything in order
	for range 3 { // when the last is taken, the ones before have been looked at
		set("192.0.2.3:6443", "192.0.2.2:6443")
	}
	stop()
	if after := h.Client.View().Revision(); after != before {
		t.Errorf("a second start wrote: revision %d, then %d", before, after)
	}
}

// Deleted objects are created again without any other event, as the defaults or as somebody has changed them.
func TestTheClustersOwnObjectsComeBack(t *testing.T) {
	h := harness.New(t)
	config := bootstrap.Config{Client: h.Client, ServiceAddress: netip.MustParseAddr("10.96.0.1"),
		Masters: func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6443")} }}
	controllertest.Go(t, "bootstrap", func(ctx context.Context) error { return bootstrap.Run(ctx, config) })
	service := controllertest.Await(t, h.Client, "default", "kubernetes", "to be there", func(*corev1.Service) bool { return true })
	endpoints := controllertest.Await(t, h.Client, "default", "kubernetes", "to be there", func(*corev1.Endpoints) bool { return true })
	slice := controllertest.Await(t, h.Client, "default", "kubernetes", "to be there", func(*discoveryv1.EndpointSlice) bool { return true })
	lease := controllertest.Await(t, h.Client, "", "kube-node-lease", "to be there", func(*corev1.Namespace) bool { return true })
	for _, obj := range []client.Object{service, endpoints, slice, lease} {
		if err := h.Client.Delete(context.Background(), obj); err != nil {
			t.Fatal(err)
		}
	}
	controllertest.Await(t, h.Client, "default", "kubernetes", "to be made again", func(s *corev1.Service) bool {
		return s.UID != service.UID && s.Spec.ClusterIP == "10.96.0.1"
	})
	controllertest.Await(t, h.Client, "default", "kubernetes", "to be made again", func(e *corev1.Endpoints) bool { return e.UID != endpoints.UID })
	controllertest.Await(t, h.Client, "default", "kubernetes", "to be made again", func(s *discoveryv1.EndpointSlice) bool { return s.UID != slice.UID })

	controllertest.Run(t, h.Client, namespace.New(h.Client, nil)) // it ends the deletion of the namespace
	controllertest.Await(t, h.Client, "", "kube-node-lease", "to be made again", func(n *corev1.Namespace) bool { return n.UID != lease.UID })

	controllertest.Change(t, h.Client, "default", "kubernetes", func(s *discoveryv1.EndpointSlice) { s.Endpoints, s.Labels = nil, nil })
	controllertest.Await(t, h.Client, "default", "kubernetes", "its endpoint and label", func(s *discoveryv1.EndpointSlice) bool {
		return len(s.Endpoints) == 1 && s.Labels[discoveryv1.LabelServiceName] == "kubernetes"
	})
	controllertest.Change(t, h.Client, "default", "kubernetes", func(e *corev1.Endpoints) { e.Subsets = nil })
	controllertest.Await(t, h.Client, "default", "kubernetes", "its address", func(e *corev1.Endpoints) bool { return len(e.Subsets) == 1 })
}

// losing is a store whose leader is lost with the first proposal, when the test asks for it.
type losing struct {
	objects.Store
	lose atomic.Pointer[context.CancelFunc]
}

func (s *losing) Propose(ctx context.Context, c *kv.Command) (kv.Result, error) {
	if cancel := s.lose.Load(); cancel != nil {
		(*cancel)()
		return kv.Result{}, ctx.Err()
	}
	return s.Store.Propose(ctx, c)
}

func TestTheEndOfTheLeadIsNoFailure(t *testing.T) {
	store := &losing{}
	h := harness.NewOver(t, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	ctx, cancel := context.WithCancel(context.Background())
	store.lose.Store(&cancel)
	err := bootstrap.Run(ctx, bootstrap.Config{Client: h.Client, ServiceAddress: netip.MustParseAddr("10.96.0.1"), Masters: func() []netip.AddrPort { return nil }})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}
