package proxy

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/wake"
	"github.com/kontiki/kontiki/node/network/nettest"
)

// TestConnectionsWaitForAWorkloadThatWakes: in the kernel, at every address of a service, from pods, the node and outside.
func TestConnectionsWaitForAWorkloadThatWakes(t *testing.T) {
	a, b, out := twoNodes(t)
	client, server := a.pod("client"), b.pod("server")
	woken := make(chan types.NamespacedName, 100)
	a.Proxy.o.Wake = func(_ context.Context, service types.NamespacedName) error {
		woken <- service
		return nil
	}
	w := newWorld()
	s := w.service("sleepy", "10.96.0.1", func(s *corev1.ServiceSpec) {
		s.Type = corev1.ServiceTypeNodePort
		s.Ports[0].NodePort, s.Ports[1].NodePort = 30080, 30080
	})
	s.Annotations = map[string]string{wake.Annotation: "Deployment/sleepy"}
	w.endpoints("sleepy")
	w.service("other", "10.96.0.2", nil)
	w.endpoints("other")
	w.apply(t, a.Proxy, b.Proxy)

	from := []struct {
		who     *nettest.Machine
		address string
	}{{client.Machine, "10.96.0.1:80"}, {a.Machine, "10.96.0.1:80"}, {out, "192.168.7.1:30080"}, {client.Machine, "192.168.7.1:30080"}}
	var waiting []net.Conn
	for _, f := range from {
		c, err := f.who.Dial("tcp4", f.address)
		if err != nil {
			t.Fatalf("%s: %v, want the connection to wait", f.address, err)
		}
		defer c.Close()
		waiting = append(waiting, c)
	}
	select {
	case got := <-woken:
		if got != (types.NamespacedName{Namespace: "default", Name: "sleepy"}) {
			t.Errorf("%s was woken", got)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was woken")
	}
	if _, _, err := client.Ask("tcp4", "10.96.0.2:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a service without the annotation: %v, want it to be refused", err)
	}
	if _, _, err := client.Ask("udp4", "10.96.0.1:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("UDP: %v, want it to be refused", err)
	}

	w.endpoints("sleepy", server.ready(b))
	w.apply(t, a.Proxy)
	for i, c := range waiting {
		if name, who, err := nettest.AskOn(c); err != nil || name != "server" || who != "10.244.1.0" {
			t.Errorf("%s: answer %q to %q, %v; want that of server to the node", from[i].address, name, who, err)
		}
	}
	expect(t, client.Machine, "10.96.0.1:80", "server", client.IP) // as any other service

	// It sleeps again, and a connection wakes it again, also with the proxy of a new process.
	for len(woken) > 0 {
		<-woken
	}
	report := a.Proxy.o.Wake
	a.restartProxy()
	a.Proxy.o.Wake = report
	w.endpoints("sleepy")
	w.apply(t, a.Proxy)
	again, err := client.Dial("tcp4", "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	<-woken
	w.endpoints("sleepy", server.ready(b))
	w.apply(t, a.Proxy)
	if name, _, err := nettest.AskOn(again); err != nil || name != "server" {
		t.Errorf("answer %q, %v", name, err)
	}

	// Who connects to the listener itself reaches nothing.
	if name, _, err := out.Ask("tcp4", a.holder.Addr().String()); err == nil {
		t.Errorf("the listener itself answers %q", name)
	}
}
