package proxy

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/dns"
)

// TestServiceByNameAcrossHosts tests the whole chain: a pod queries its node's DNS server for a service and reaches the pod behind
// it on the other host. The DNS service itself exists as an object too, and must not be rewritten.
func TestServiceByNameAcrossHosts(t *testing.T) {
	a, b, _ := twoNodes(t)
	client, server := a.pod("client"), b.pod("server")
	address := netip.MustParseAddrPort("10.96.0.10:53")
	empty := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := newWorld()
	w.service("web", "10.96.0.1", nil)
	w.endpoints("web", server.ready(b))
	w.service("kube-dns", "10.96.0.10", func(s *corev1.ServiceSpec) { s.Ports[0].Port, s.Ports[1].Port = 53, 53 })

	var names *dns.Server
	err := a.Do(func() (err error) {
		a.Proxy.Close()
		if a.Proxy, err = New(Options{NodeName: "a", LocalAddresses: []netip.Addr{address.Addr()}}); err != nil {
			return err
		}
		names, err = dns.New(dns.Options{Address: address, Assign: true, ResolvConf: empty})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	a.Proxy.Configure(ctx, a.config)
	names.SetServices(w.lists())
	w.apply(t, a.Proxy, b.Proxy)
	runCtx, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- names.Run(runCtx) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	<-names.Ready()

	resolver := &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		return client.Dial(network, address.String())
	}}
	lookup, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ips, err := resolver.LookupHost(lookup, "web.default.svc.cluster.local")
	if err != nil || len(ips) != 1 || ips[0] != "10.96.0.1" {
		t.Fatalf("addresses %v, %v", ips, err)
	}
	expect(t, client.Machine, net.JoinHostPort(ips[0], "80"), "server", client.IP)
}
