package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/nodes"
	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
)

func TestWhatIsBelievedOfAWorker(t *testing.T) {
	at := func(second int) time.Time { return time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC) }
	session := func(s nodes.State) *nodes.Worker { return &nodes.Worker{Name: "w", State: s, Since: at(1)} }
	told := func(s gossip.State) *gossip.Member { return &gossip.Member{Name: "w", State: s, Since: at(2)} }
	settled := at(3)
	for _, c := range []struct {
		name    string
		session *nodes.Worker
		gossip  *gossip.Member
		settled time.Time
		want    nodelifecycle.State
		since   time.Time
	}{
		{"a session outweighs gossip", session(nodes.Connected), told(gossip.Dead), settled, nodelifecycle.Alive, at(1)},
		{"a session alone", session(nodes.Connected), nil, settled, nodelifecycle.Alive, at(1)},
		{"quiet, and gossip sees it", session(nodes.Quiet), told(gossip.Alive), settled, nodelifecycle.Suspect, at(1)},
		{"broken, and gossip sees it", session(nodes.Gone), told(gossip.Alive), settled, nodelifecycle.Suspect, at(1)},
		{"broken, where workers do not gossip", session(nodes.Gone), nil, settled, nodelifecycle.Suspect, at(1)},
		{"broken, and one host suspects it", session(nodes.Gone), told(gossip.Suspect), settled, nodelifecycle.Suspect, at(1)},
		{"broken, and gossip has lost it", session(nodes.Gone), told(gossip.Dead), settled, nodelifecycle.Dead, at(2)},
		{"broken, and it said goodbye", session(nodes.Gone), told(gossip.Left), settled, nodelifecycle.Left, at(2)},
		{"broken, and gossip has been wrong for long", &nodes.Worker{Name: "w", State: nodes.Gone, Since: at(30)}, told(gossip.Dead), settled, nodelifecycle.Suspect, at(30)},
		{"broken, and it left gossip long ago", &nodes.Worker{Name: "w", State: nodes.Gone, Since: at(30)}, told(gossip.Left), settled, nodelifecycle.Suspect, at(30)},
		{"gossip was faster than the session", &nodes.Worker{Name: "w", State: nodes.Quiet, Since: at(5)}, told(gossip.Dead), settled, nodelifecycle.Dead, at(2)},
		{"a new leader has not heard of it yet", nil, told(gossip.Alive), time.Time{}, nodelifecycle.Alive, at(2)},
		{"a new leader should have heard of it", nil, told(gossip.Alive), settled, nodelifecycle.Suspect, at(3)},
		{"dead already when the leader began", nil, told(gossip.Dead), time.Time{}, nodelifecycle.Dead, at(2)},
	} {
		var w nodes.Worker
		if c.session != nil {
			w = *c.session
		}
		var m gossip.Member
		if c.gossip != nil {
			m = *c.gossip
		}
		if got := believe("w", w, c.session != nil, m, c.gossip != nil, c.settled); got != (nodelifecycle.Member{Name: "w", State: c.want, Since: c.since}) {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// If workers do not gossip, the gossip state of workers that took part earlier is ignored.
func TestGossipThatWorkersLeftIsNotBelieved(t *testing.T) {
	workersGossip := true
	census := nodes.NewCensus(nodes.CensusConfig{Masters: func() []string { return nil }, Log: slog.New(slog.DiscardHandler)})
	h := newWorkerHints(func() []gossip.Member {
		return []gossip.Member{{Name: "w", Role: mtls.RoleWorker, State: gossip.Left}}
	}, func() bool { return workersGossip }, nil, census)
	if m := h.Members(); len(m) != 1 || m[0].State != nodelifecycle.Left {
		t.Errorf("while workers gossip: %+v", m)
	}
	workersGossip = false
	if m := h.Members(); len(m) != 1 || m[0].State != nodelifecycle.Alive { // until it should have had a session
		t.Errorf("a new leader that has heard nothing: %+v", m)
	}
	h.settled = time.Now()
	if m := h.Members(); m[0].State != nodelifecycle.Suspect {
		t.Errorf("without a session: %+v", m)
	}
}

// TestHintsForgetWorkersThatAreGone: only workers that died or left long ago are forgotten, as soon as gossip reports them.
func TestHintsForgetWorkersThatAreGone(t *testing.T) {
	census := nodes.NewCensus(nodes.CensusConfig{Masters: func() []string { return nil }, Log: slog.New(slog.DiscardHandler)})
	h := newWorkerHints(func() []gossip.Member { return nil }, func() bool { return true }, nil, census)
	ctx := t.Context()
	long, now := time.Now().Add(-2*forgetGossip), time.Now()
	tell := func(name string, state gossip.State, since time.Time) {
		t.Helper()
		h.tell(name, &gossip.Member{Name: name, Role: mtls.RoleWorker, State: state, Since: since})
		if m, err := h.Next(ctx); err != nil || m.Name != name {
			t.Fatalf("the next is %+v, %v", m, err)
		}
	}
	tell("old and alive", gossip.Alive, long)
	tell("suspect", gossip.Suspect, long)
	tell("lost just now", gossip.Dead, now)
	for i := range 10000 {
		tell(fmt.Sprint("gone", i), []gossip.State{gossip.Dead, gossip.Left}[i%2], long)
	}
	if n := len(h.gossip); n > 100 {
		t.Errorf("%d workers are remembered", n)
	}
	for _, name := range []string{"old and alive", "suspect", "lost just now"} {
		if _, ok := h.gossip[name]; !ok {
			t.Errorf("one that is %s is forgotten", name)
		}
	}
}

// With one master and one worker that gossip, only the worker is a hint, and so is its leaving.
func TestWorkerHintsAreOfWorkersAlone(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	timings := cluster.Timings{Timings: consensus.Timings{Heartbeat: 200 * time.Millisecond, Election: 200 * time.Millisecond, Lease: 150 * time.Millisecond}, Gossip: gossip.Local}
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
	census := nodes.NewCensus(nodes.CensusConfig{Masters: func() []string { return nil }, Log: quiet})
	hints := newWorkerHints(c.Members, c.WorkersGossip, events, census)
	feeding, starve := context.WithCancel(ctx)
	fed := make(chan error, 1)
	go func() { fed <- hints.Run(feeding) }()
	defer func() {
		starve()
		if err := <-fed; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()

	// A master and a worker may share a host, and so a name.
	worker, err := gossip.Start(gossip.Config{
		Name: "host-1", Role: mtls.RoleWorker, Address: "127.0.0.1", BindAddress: "127.0.0.1:0", Keys: c.Identity().GossipKeys,
		Seeds: func() []string { return []string{c.Gossip().Address()} }, Timings: gossip.Local, Logger: quiet,
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
	// It can say goodbye only to members that it knows.
	known := worker.Events()
	defer known.Close()
	for m := (gossip.Member{}); m.Role != mtls.RoleMaster || m.State != gossip.Alive; {
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
	agent := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		http.Error(w, "containerd is down", http.StatusInternalServerError)
	}))
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueClient("system:node:worker-1", []string{"system:nodes"})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := leaf.TLS()
	if err != nil {
		t.Fatal(err)
	}
	agent.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	agent.StartTLS()
	// The test is about the certificate's name, not about its CA.
	m := &master{agents: fixedTLS{&tls.Config{InsecureSkipVerify: true}}}
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
	moved := node.DeepCopy()
	moved.Name = "worker-2"
	if err := m.probeAgent(t.Context(), moved); err == nil || !strings.Contains(err.Error(), `the address of node "worker-2"`) {
		t.Errorf("another node's agent at the address: %v", err)
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

// fixedTLS reaches agents with one configuration.
type fixedTLS struct{ config *tls.Config }

func (f fixedTLS) TLS() *tls.Config { return f.config }
