package network

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/kontiki/kontiki/node/netapi"
)

func TestAddressesAreUniqueAndReusedLate(t *testing.T) {
	s, err := openStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cidr := netip.MustParsePrefix("10.0.0.0/29") // .1 to .6 for pods
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if _, err := s.allocate(cidr, netapi.PodNetwork{UID: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[netip.Addr]bool{}
	for _, r := range s.all() {
		seen[r.Address] = true
	}
	if len(seen) != 6 || seen[netip.MustParseAddr("10.0.0.0")] || seen[netip.MustParseAddr("10.0.0.7")] {
		t.Errorf("addresses %v", seen)
	}
	if _, err := s.allocate(cidr, netapi.PodNetwork{UID: "x"}); !errors.Is(err, ErrNoAddress) {
		t.Errorf("full range: %v", err)
	}

	s, _ = openStore(t.TempDir())
	first, _ := s.allocate(cidr, netapi.PodNetwork{UID: "1"})
	if err := s.remove("1"); err != nil {
		t.Fatal(err)
	}
	if second, _ := s.allocate(cidr, netapi.PodNetwork{UID: "2"}); second.Address == first.Address {
		t.Errorf("%s was given out again at once", first.Address)
	}
}

func TestStoreSurvivesRestartAndDamage(t *testing.T) {
	dir := t.TempDir()
	s, err := openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	cidr := netip.MustParsePrefix("10.0.0.0/24")
	uid := "../weird/uid" // must not leave the directory
	r, err := s.allocate(cidr, netapi.PodNetwork{UID: uid, Name: "p", HostPorts: []netapi.HostPort{{HostPort: 1, ContainerPort: 2, Protocol: "TCP"}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{".tmp-123": "{", "torn.json": `{"uid":"torn","addr`, "other.json": `{"uid":"u","address":"10.0.0.9"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err = openStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := s.get(uid); !ok || got.Address != r.Address || !samePorts(got.HostPorts, r.HostPorts) {
		t.Errorf("after a restart: %+v, want %+v", got, r)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 || len(s.all()) != 1 {
		t.Errorf("damaged files were kept: %v", files)
	}
	if next, _ := s.allocate(cidr, netapi.PodNetwork{UID: "next"}); next.Address == r.Address {
		t.Errorf("%s given out twice", r.Address)
	}
}

func TestInsideRanges(t *testing.T) {
	p := netip.MustParsePrefix
	got := insideRanges(netapi.NetworkConfig{
		ClusterCIDR: p("10.244.0.0/16"), ServiceCIDR: p("10.96.0.0/12"), PodCIDR: p("10.244.1.0/24"),
		Peers: []netapi.Peer{{PodCIDR: p("10.245.0.0/24")}, {PodCIDR: p("10.244.2.0/24")}, {}},
	})
	want := "[10.96.0.0/12 10.244.0.0/16 10.245.0.0/24]"
	if fmt.Sprint(got) != want {
		t.Errorf("ranges %v, want %v", got, want)
	}
}
