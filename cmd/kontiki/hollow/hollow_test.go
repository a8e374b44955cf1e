package hollow

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/node/netapi"
)

// TestWorkersHaveAddressesOfTheirOwn: the addresses follow the numbers, and a range that is too small is refused before anything starts.
func TestWorkersHaveAddressesOfTheirOwn(t *testing.T) {
	o := Options{Count: 300, First: 1001, Addresses: netip.MustParsePrefix("10.201.0.0/16")}
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	for number, want := range map[int]string{1001: "10.201.0.1", 1256: "10.201.1.0", 1300: "10.201.1.44"} {
		if got, err := o.address(number); err != nil || got.String() != want {
			t.Errorf("worker %d: %s, %v, want %s", number, got, err, want)
		}
	}
	if got := Name(1001); got != "hollow-01001" {
		t.Errorf("name %s", got)
	}
	for field, bad := range map[string]Options{
		"--count":       {Count: 0, Addresses: o.Addresses},
		"--first":       {Count: 1, First: -1, Addresses: o.Addresses},
		"--addresses":   {Count: 1},
		"--start-delay": {Count: 1, Addresses: o.Addresses, StartDelay: -time.Second},
		"larger one":    {Count: 300, Addresses: netip.MustParsePrefix("10.201.0.0/24")},
	} {
		if err := Run(t.Context(), bad); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

// TestTheNetworkGivesEachPodAnAddress of the node's range, again after the pod is gone, and none without a range or beyond it.
func TestTheNetworkGivesEachPodAnAddress(t *testing.T) {
	ctx, n := context.Background(), &network{}
	if _, err := n.AddPod(ctx, netapi.PodNetwork{UID: "a"}); err == nil {
		t.Error("an address without a range")
	}
	if err := n.Configure(ctx, netapi.NetworkConfig{PodCIDR: netip.MustParsePrefix("100.64.3.0/29")}); err != nil {
		t.Fatal(err)
	}
	seen := map[netip.Addr]bool{}
	for i := range 6 {
		a, err := n.AddPod(ctx, netapi.PodNetwork{UID: fmt.Sprint(i)})
		if err != nil || seen[a] {
			t.Fatalf("pod %d: %s, %v", i, a, err)
		}
		seen[a] = true
	}
	if _, err := n.AddPod(ctx, netapi.PodNetwork{UID: "6"}); err == nil {
		t.Error("an address beyond the range")
	}
	again, _ := n.AddPod(ctx, netapi.PodNetwork{UID: "3"})
	if err := n.DelPod(ctx, "3"); err != nil {
		t.Fatal(err)
	}
	if got, err := n.AddPod(ctx, netapi.PodNetwork{UID: "6"}); err != nil || got != again {
		t.Errorf("%s, %v, want %s, which is free", got, err, again)
	}
}
