package dns

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/network/nettest"
)

// TestListensWhenServicesAreKnown: nobody is told that the server fails because it has only just started; without services it listens a while later.
func TestListensWhenServicesAreKnown(t *testing.T) {
	for _, given := range []bool{true, false} {
		host := nettest.New(t)
		host.Sh("ip", "link", "set", "lo", "up")
		late := NewLate(Options{Log: slog.New(slog.DiscardHandler)})
		if given {
			late.patience = time.Hour
		} else {
			late.patience = 10 * time.Millisecond
		}
		if err := host.Do(func() error {
			return late.Configure(ctx, netapi.NetworkConfig{ClusterDNS: netip.MustParseAddr("127.0.0.1"), ClusterDomain: "cluster.local"})
		}); err != nil {
			t.Fatal(err)
		}
		runCtx, stop := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- late.Run(runCtx) }()
		if given {
			if m, err := query(host, "tcp4", "127.0.0.1:53", "web.default.svc.cluster.local.", "A"); err == nil {
				t.Errorf("answered before the services are known: %v", m)
			}
			late.SetServices(cluster())
			late.SetServices(cluster())
		}
		select {
		case <-late.server.Ready():
		case <-time.After(10 * time.Second):
			t.Fatal("the server does not listen")
		}
		m, err := query(host, "tcp4", "127.0.0.1:53", "web.default.svc.cluster.local.", "A")
		if err != nil || given != (rdata(m.Answer) == "A 10.96.0.1") {
			t.Errorf("services known: %v: %v, %v", given, m, err)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
