package main

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
)

func TestHintOfEveryState(t *testing.T) {
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for state, want := range map[cluster.MemberState]nodelifecycle.State{
		cluster.MemberAlive:   nodelifecycle.Alive,
		cluster.MemberSuspect: nodelifecycle.Alive, // the others have not agreed
		cluster.MemberDead:    nodelifecycle.Dead,
		cluster.MemberLeft:    nodelifecycle.Left,
	} {
		got := hint(cluster.Member{Name: "worker-1", Role: cluster.RoleWorker, State: state, Since: since})
		if got != (nodelifecycle.Member{Name: "worker-1", State: want, Since: since}) {
			t.Errorf("%s: %+v", state, got)
		}
	}
}

// One master and one worker that gossip: only the worker is a hint, and its goodbye is.
func TestWorkerHintsAreOfWorkersAlone(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	timings := cluster.Timings{Heartbeat: 200 * time.Millisecond, Election: 200 * time.Millisecond, Lease: 150 * time.Millisecond, Gossip: cluster.GossipLocal}
	c, err := cluster.Open(ctx, cluster.Config{
		Name: "host-1", DataDir: t.TempDir(), BindAddress: "127.0.0.1:0", GossipBindAddress: "127.0.0.1:0", Bootstrap: true, Timings: timings, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- c.Run(running) }()
	defer func() {
		stop()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	}()
	events := c.MemberEvents()
	defer events.Close()
	hints := workerHints{c, events}

	// A master and a worker may share a host, and so a name.
	worker, err := cluster.StartGossip(cluster.GossipConfig{
		Name: "host-1", Role: cluster.RoleWorker, Address: "127.0.0.1", BindAddress: "127.0.0.1:0", Keys: c.Identity().GossipKeys,
		Seeds: func() []string { return []string{c.Gossip().Address()} }, Timings: cluster.GossipLocal, Logger: quiet,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer worker.Close()
	await := func(want nodelifecycle.State) {
		t.Helper()
		for {
			m, err := hints.Next(ctx)
			if err != nil {
				t.Fatalf("no %s: %v", want, err)
			}
			if m.Name != "host-1" {
				t.Fatalf("a hint of %+v", m)
			}
			if m.State == want {
				return
			}
		}
	}
	await(nodelifecycle.Alive)
	// It can say goodbye only to those that it knows itself.
	known := worker.Events()
	defer known.Close()
	for m := (cluster.Member{}); m.Role != cluster.RoleMaster || m.State != cluster.MemberAlive; {
		if m, err = known.Next(ctx); err != nil {
			t.Fatalf("the worker does not hear of the master: %v", err)
		}
	}
	if got := hints.Members(); len(got) != 1 || got[0].Name != "host-1" || got[0].State != nodelifecycle.Alive {
		t.Fatalf("members: %+v", got)
	}
	if err := worker.Close(); err != nil {
		t.Fatal(err)
	}
	await(nodelifecycle.Left)
	if got := hints.Members(); len(got) != 1 || got[0].State != nodelifecycle.Left {
		t.Fatalf("members after the goodbye: %+v", got)
	}
}

func TestProbeAgent(t *testing.T) {
	asked := make(chan string, 1)
	agent := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		http.Error(w, "containerd is down", http.StatusInternalServerError)
	}))
	m := &master{probes: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: agent.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs}, DisableKeepAlives: true}}}
	host, portText, err := net.SplitHostPort(agent.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(portText)
	if err != nil {
		t.Fatal(err)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "worker-1"}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "worker-1"}, {Type: corev1.NodeInternalIP, Address: host}},
	}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(port)
	if err := m.probeAgent(t.Context(), node); err != nil {
		t.Errorf("an agent that answers anything is alive: %v", err)
	}
	if path := <-asked; path != "/healthz" {
		t.Errorf("asked for %s", path)
	}
	agent.Close()
	if err := m.probeAgent(t.Context(), node); err == nil {
		t.Error("a closed port counts as alive")
	}
	node.Status.Addresses = node.Status.Addresses[:1]
	if err := m.probeAgent(t.Context(), node); err == nil || err.Error() != "node worker-1 has no internal address" {
		t.Errorf("without an address: %v", err)
	}
}
