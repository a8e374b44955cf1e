package network

import (
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"sigs.k8s.io/knftables"

	"github.com/kontiki/kontiki/node/netapi"
)

// TestHostPortsLeaveTheClustersPorts: whoever may create pods must not receive what hosts send to masters and workers.
func TestHostPortsLeaveTheClustersPorts(t *testing.T) {
	nft := knftables.NewFake(knftables.IPv4Family, tableName)
	n := &Network{o: Options{Reserved: netapi.PortsOf(6444)}, log: slog.New(slog.DiscardHandler), nft: nft}
	tx := nft.NewTransaction()
	n.render(tx, netapi.NetworkConfig{PodCIDR: netip.MustParsePrefix("10.244.1.0/24"), ClusterCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16")}, []record{{
		UID: "u", Namespace: "ns", Name: "thief", Address: netip.MustParseAddr("10.244.1.2"), HostPorts: []netapi.HostPort{
			{HostPort: 6444, ContainerPort: 80}, {HostPort: 6444, ContainerPort: 80, Protocol: "UDP", HostIP: "192.168.7.1"},
			{HostPort: 8472, ContainerPort: 80, Protocol: "UDP"}, {HostPort: 8080, ContainerPort: 80},
		}}})
	text := tx.String()
	if strings.Contains(text, "6444") || strings.Contains(text, "8472") || !strings.Contains(text, "8080") {
		t.Errorf("the rules are:\n%s", text)
	}
}
