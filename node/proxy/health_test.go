package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/network/nettest"
)

// health asks a health check port from a machine, as a load balancer does.
func health(from *nettest.Machine, address string) (code int, weight, body string, err error) {
	var conn net.Conn
	err = from.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp4", address, 10*time.Second)
		return err
	})
	if err != nil {
		return 0, "", "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprintf(conn, "GET /healthz HTTP/1.1\r\nHost: %s\r\n\r\n", address)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0, "", "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return response.StatusCode, response.Header.Get("X-Load-Balancing-Endpoint-Weight"), string(data), err
}

func localLB(port int32) func(*corev1.ServiceSpec) {
	return func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy, s.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, port
		s.Ports[0].NodePort, s.Ports[1].NodePort = 30080, 30080
	}
}

func TestHealthCheckNodePort(t *testing.T) {
	a, b, out := twoNodes(t)
	p1, p2 := a.pod("p1"), b.pod("p2")
	w := newWorld()
	w.service("web", "10.96.0.1", localLB(31000))
	check := func(what, address string, code, local int) {
		t.Helper()
		got, weight, body, err := health(out, address)
		want := fmt.Sprintf(`{"service":{"namespace":"default","name":"web"},"localEndpoints":%d,"serviceProxyHealthy":true}`, local)
		if err != nil || got != code || weight != fmt.Sprint(local) || body != want {
			t.Errorf("%s: %s answers %d, weight %q, %s, %v; want %d, %s", what, address, got, weight, body, err, code, want)
		}
	}
	refused := func(what, address string) {
		t.Helper()
		if code, _, body, err := health(out, address); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %s answers %d %s, %v", what, address, code, body, err)
		}
	}
	const nodeA, nodeB = "192.168.7.1:31000", "192.168.7.2:31000"

	w.apply(t, a.Proxy, b.Proxy)
	check("no endpoints", nodeA, 503, 0)
	w.endpoints("web", p1.ready(a), ep{"10.244.1.77", "a", ""}, ep{p2.IP, "b", notReady})
	w.apply(t, a.Proxy, b.Proxy)
	check("ready here", nodeA, 200, 2)
	check("ready elsewhere", nodeB, 503, 0)
	w.endpoints("web", ep{p1.IP, "a", draining}, p2.ready(b))
	w.apply(t, a.Proxy, b.Proxy)
	check("only terminating", nodeA, 503, 0) // though it still serves who comes
	expect(t, out, "192.168.7.1:30080", "p1", "")
	check("moved here", nodeB, 200, 1)

	w.service("web", "10.96.0.1", localLB(31001))
	w.apply(t, a.Proxy, b.Proxy)
	refused("another port", nodeB)
	check("another port", "192.168.7.2:31001", 200, 1)
	w.service("web", "10.96.0.1", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeClusterIP })
	w.apply(t, a.Proxy, b.Proxy)
	refused("no load balancer any more", "192.168.7.2:31001")
	w.service("web", "10.96.0.1", localLB(31001))
	w.apply(t, a.Proxy, b.Proxy)
	b.Proxy.Close()
	refused("the proxy has ended", "192.168.7.2:31001")
}

// A port that another process of the node has is told of, and hinders no rules.
func TestHealthCheckNodePortThatIsTaken(t *testing.T) {
	a, _, out := twoNodes(t)
	p1 := a.pod("p1")
	a.Serve("another", "192.168.7.1:31000")
	w := newWorld()
	w.service("web", "10.96.0.1", localLB(31000))
	w.service("other", "10.96.0.2", func(s *corev1.ServiceSpec) {
		localLB(31001)(s)
		s.Ports[0].NodePort, s.Ports[1].NodePort = 30081, 30081
	})
	w.endpoints("web", p1.ready(a))
	w.endpoints("other", p1.ready(a))
	w.apply(t, a.Proxy)
	expect(t, out, "192.168.7.1:30080", "p1", "")
	if code, _, body, err := health(out, "192.168.7.1:31001"); err != nil || code != 200 || !strings.Contains(body, `"name":"other"`) {
		t.Errorf("%d %s %v", code, body, err)
	}
	if again, err := a.Proxy.sync(ctx); err != nil || again == 0 || again > healthRetry {
		t.Errorf("tried again in %v, %v", again, err)
	}
}
