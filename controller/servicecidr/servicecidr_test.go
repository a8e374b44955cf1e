package servicecidr_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/allocate"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/servicecidr"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

func start(t *testing.T) *harness.Harness {
	t.Helper()
	h := harness.New(t)
	controllertest.Run(t, h.Client, servicecidr.New(servicecidr.Config{
		Client: h.Client, Range: netip.MustParsePrefix("10.96.0.0/16"), Address: allocate.IPAddress,
	}))
	return h
}

func awaitReady(t *testing.T, h *harness.Harness, name string, want metav1.ConditionStatus, reason string) {
	t.Helper()
	controllertest.Await(t, h.Client, "", name, "to be declared", func(c *networkingv1.ServiceCIDR) bool {
		condition := apimeta.FindStatusCondition(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
		return condition != nil && condition.Status == want && condition.Reason == reason
	})
}

func service(name, address string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{ClusterIP: address, Ports: []corev1.ServicePort{{Port: 80}}}}
}

// TestRanges: addresses come from the configured range and from ServiceCIDRs that are ready; a ServiceCIDR stays until no address needs
// it.
func TestRanges(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	awaitReady(t, h, servicecidr.Default, metav1.ConditionTrue, "")
	if _, err := client.Create(ctx, h.Client, service("a", "10.20.0.5")); err == nil || !strings.Contains(err.Error(), "not in the valid range") {
		t.Fatalf("an address outside of all ranges: %v", err)
	}
	if _, err := client.Create(ctx, h.Client, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.20.0.0/24"}}}); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, h, "more", metav1.ConditionTrue, "")
	a, err := client.Create(ctx, h.Client, service("a", "10.20.0.5"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Create(ctx, h.Client, service("b", "10.20.0.5")); err == nil || !strings.Contains(err.Error(), "already allocated") {
		t.Fatalf("an address twice: %v", err)
	}
	address, ok := client.Get[*networkingv1.IPAddress](h.Client.View(), "", "10.20.0.5")
	if !ok || address.Spec.ParentRef.Name != "a" || address.Labels[networkingv1.LabelManagedBy] != allocate.ManagedBy {
		t.Fatalf("its object is %+v", address)
	}
	if err := h.Client.Delete(ctx, address); !apierrors.IsForbidden(err) {
		t.Errorf("the address of a service is deleted: %v", err)
	}
	cidr, _ := client.Get[*networkingv1.ServiceCIDR](h.Client.View(), "", "more")
	if err := h.Client.Delete(ctx, cidr); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, h, "more", metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating)
	if _, err := client.Create(ctx, h.Client, service("c", "10.20.0.6")); err == nil {
		t.Error("an address of a range that is being deleted is allocated")
	}
	// A service keeps its address whatever becomes of the range.
	a.Labels = map[string]string{"x": "y"}
	if _, err := client.Update(ctx, h.Client, a); err != nil {
		t.Error(err)
	}
	if err := h.Client.Delete(ctx, a); err != nil {
		t.Fatal(err)
	}
	controllertest.AwaitGone[*networkingv1.ServiceCIDR](t, h.Client, "", "more")
	if _, ok := client.Get[*networkingv1.IPAddress](h.Client.View(), "", "10.20.0.5"); ok {
		t.Error("the address outlived its service")
	}
}

// TestAFullRangeIsFollowedByTheNext: with many services, addresses come from the next range.
func TestAFullRangeIsFollowedByTheNext(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	if _, err := client.Create(ctx, h.Client, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "v6"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"fd00::/112"}}}); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, h, "v6", metav1.ConditionFalse, "UnsupportedIPFamily")
	if _, err := client.Create(ctx, h.Client, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "small"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.21.0.0/28"}}}); err != nil {
		t.Fatal(err)
	}
	awaitReady(t, h, "small", metav1.ConditionTrue, "")
	services := &allocate.Services{Range: netip.MustParsePrefix("10.22.0.0/29"), Catalog: h.Objects.Catalog()}
	seen := map[string]bool{}
	for i := range 18 {
		s := service("s", "")
		ops, err := services.Allocate(h.Objects.Store().View(), s, nil, false)
		if err != nil {
			t.Fatalf("after %d: %v", i, err)
		}
		if _, err := h.Objects.Store().Propose(ctx, &kv.Command{ID: kv.CommandID{byte(i + 1)}, Ops: ops}); err != nil {
			t.Fatal(err)
		}
		if seen[s.Spec.ClusterIP] {
			t.Fatalf("%s twice", s.Spec.ClusterIP)
		}
		seen[s.Spec.ClusterIP] = true
	}
	first := 0
	for address := range seen {
		if netip.MustParsePrefix("10.22.0.0/29").Contains(netip.MustParseAddr(address)) {
			first++
		} else if in := netip.MustParseAddr(address); !netip.MustParsePrefix("10.21.0.0/28").Contains(in) && !netip.MustParsePrefix("10.96.0.0/16").Contains(in) {
			t.Errorf("%s is in no range", address)
		}
	}
	if first != 5 || len(seen)-first != 13 {
		t.Errorf("%d addresses of the first range, %d of the second", first, len(seen)-first)
	}
}

// TestMissingAddressesAreCreated: of a service from before there were IPAddresses.
func TestMissingAddressesAreCreated(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	s, err := client.Create(ctx, h.Client, service("old", ""))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(s.Spec.ClusterIPs, []string{s.Spec.ClusterIP}) {
		t.Fatal(s.Spec)
	}
	kind := h.Client.KindOf(&networkingv1.IPAddress{})
	if _, err := h.Objects.Store().Propose(ctx, &kv.Command{ID: kv.CommandID{9}, Ops: []kv.Op{{Key: kind.Key("", s.Spec.ClusterIP), Delete: true}}}); err != nil {
		t.Fatal(err)
	}
	controllertest.Run(t, h.Client, servicecidr.New(servicecidr.Config{Client: h.Client, Range: netip.MustParsePrefix("10.96.0.0/16"), Address: allocate.IPAddress}))
	controllertest.Await(t, h.Client, "", s.Spec.ClusterIP, "to exist", func(a *networkingv1.IPAddress) bool { return a.Spec.ParentRef.Name == "old" })
}
