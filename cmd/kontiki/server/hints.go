package server

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/kontiki/kontiki/cluster/mtls"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/agents"
	"github.com/kontiki/kontiki/api/nodes"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cmd/kontiki/agent"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
)

// settleTime is how long a new leader waits for workers whose sessions were with the old one.
const settleTime = 3 * time.Second

// staleGossip is how long before the end of a worker's session a report of its death by gossip may have come and still count.
const staleGossip = 10 * time.Second

// forgetGossip is how long ago gossip must have lost a worker for it to be forgotten. Workers come and go under new names, and an
// unknown one is treated like one without a session.
const forgetGossip = time.Hour

// workerHints combines what is known about workers for the node controllers: their sessions with masters and, if workers gossip,
// gossip. A session is more reliable, since the worker answers in it: while it does, gossip is ignored. Run collects the hints.
type workerHints struct {
	events *gossip.Events
	census *nodes.Census
	// workersGossip says whether workers take part in gossip; if they should not, reports about those that left it are ignored.
	workersGossip func() bool

	mu      sync.Mutex
	settled time.Time // when every worker must have a session; zero before
	gossip  map[string]gossip.Member
	// full is the number of gossip members at which old ones are removed: twice the number that remained the last time.
	full   int
	order  []string
	queued map[string]bool
	wake   chan struct{}
}

func newWorkerHints(members func() []gossip.Member, workersGossip func() bool, events *gossip.Events, census *nodes.Census) *workerHints {
	h := &workerHints{events: events, census: census, workersGossip: workersGossip, gossip: map[string]gossip.Member{}, queued: map[string]bool{}, wake: make(chan struct{}, 1)}
	for _, m := range members() {
		if m.Role == mtls.RoleWorker {
			h.gossip[m.Name] = m
		}
	}
	h.full = fullAt(len(h.gossip))
	return h
}

func fullAt(left int) int { return max(64, 2*left) }

// Run collects hints until the context ends.
func (h *workerHints) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for {
			w, err := h.census.Next(ctx)
			if err != nil {
				return err
			}
			h.tell(w.Name, nil)
		}
	})
	group.Go(func() error {
		for {
			m, err := h.events.Next(ctx)
			if err != nil {
				return err
			}
			if m.Role == mtls.RoleWorker {
				h.tell(m.Name, &m)
			}
		}
	})
	group.Go(func() error {
		select {
		case <-time.After(settleTime):
		case <-ctx.Done():
			return ctx.Err()
		}
		h.mu.Lock()
		h.settled = time.Now()
		names := make([]string, 0, len(h.gossip))
		for name := range h.gossip {
			names = append(names, name)
		}
		h.mu.Unlock()
		for _, name := range names {
			h.tell(name, nil)
		}
		return nil
	})
	return group.Wait()
}

// tell queues a worker for Next, with its state in gossip if that is what changed.
func (h *workerHints) tell(name string, m *gossip.Member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if m != nil {
		h.gossip[name] = *m
		if len(h.gossip) >= h.full {
			h.forget(time.Now().Add(-forgetGossip))
		}
	}
	if h.queued[name] {
		return
	}
	h.queued[name] = true
	h.order = append(h.order, name)
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// forget removes workers whose last change Next has returned and that gossip lost before a time. The caller holds mu.
func (h *workerHints) forget(before time.Time) {
	maps.DeleteFunc(h.gossip, func(name string, m gossip.Member) bool {
		return (m.State == gossip.Dead || m.State == gossip.Left) && m.Since.Before(before) && !h.queued[name]
	})
	h.full = fullAt(len(h.gossip))
}

// Members implements nodelifecycle.Hints.
func (h *workerHints) Members() (out []nodelifecycle.Member) {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := map[string]bool{}
	for name := range h.gossip {
		names[name] = true
	}
	for _, w := range h.census.Workers() {
		names[w.Name] = true
	}
	for name := range names {
		out = append(out, h.member(name))
	}
	return out
}

// Next implements nodelifecycle.Hints.
func (h *workerHints) Next(ctx context.Context) (nodelifecycle.Member, error) {
	for {
		h.mu.Lock()
		if len(h.order) > 0 {
			name := h.order[0]
			h.order = h.order[1:]
			delete(h.queued, name)
			m := h.member(name)
			h.mu.Unlock()
			return m, nil
		}
		h.mu.Unlock()
		select {
		case <-h.wake:
		case <-ctx.Done():
			return nodelifecycle.Member{}, ctx.Err()
		}
	}
}

// member returns the state to believe of a worker. The caller holds mu.
func (h *workerHints) member(name string) nodelifecycle.Member {
	w, hadSession := h.census.Worker(name)
	m, gossips := h.gossip[name]
	return believe(name, w, hadSession, m, gossips && h.workersGossip(), h.settled)
}

// believe combines a worker's session and its state in gossip. settled is when a worker without a session became suspect because of
// that, or zero.
func believe(name string, w nodes.Worker, hadSession bool, m gossip.Member, gossips bool, settled time.Time) nodelifecycle.Member {
	// A report of gossip long before the session broke was wrong then, or is about hosts that no longer gossip.
	stale := hadSession && m.Since.Before(w.Since.Add(-staleGossip))
	switch {
	case hadSession && w.State == nodes.Connected:
		return nodelifecycle.Member{Name: name, State: nodelifecycle.Alive, Since: w.Since}
	case gossips && !stale && m.State == gossip.Dead:
		return nodelifecycle.Member{Name: name, State: nodelifecycle.Dead, Since: m.Since}
	case gossips && !stale && m.State == gossip.Left:
		return nodelifecycle.Member{Name: name, State: nodelifecycle.Left, Since: m.Since}
	case hadSession:
		return nodelifecycle.Member{Name: name, State: nodelifecycle.Suspect, Since: w.Since}
	case !settled.IsZero():
		return nodelifecycle.Member{Name: name, State: nodelifecycle.Suspect, Since: settled}
	}
	return nodelifecycle.Member{Name: name, State: nodelifecycle.Alive, Since: m.Since}
}

// probeAgent checks that a node's agent responds.
func (m *master) probeAgent(ctx context.Context, node *corev1.Node) error {
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = agent.KubeletPort
	}
	for _, address := range node.Status.Addresses {
		if address.Type != corev1.NodeInternalIP {
			continue
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(address.Address, strconv.Itoa(port))+"/healthz", nil)
		if err != nil {
			return err
		}
		probe := &http.Client{
			Transport:     &http.Transport{TLSClientConfig: agents.Restricted(m.agents.TLS(), node.Name), DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
		response, err := probe.Do(request)
		if err != nil {
			return err
		}
		// Any response shows that the agent is alive; whether its containerd is down is for the node itself to report.
		return response.Body.Close()
	}
	return fmt.Errorf("node %s has no internal address", node.Name)
}
