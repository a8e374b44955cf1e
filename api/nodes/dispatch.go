package nodes

import (
	"context"
	"log/slog"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/pause"
)

const (
	// maxQueued limits the changes that wait for one session. A worker that reads too slowly gets a full set instead.
	maxQueued = 4096
	// dispatchPause is how long the dispatcher waits after an error until it begins anew.
	dispatchPause = time.Second
)

// dispatcher reads every change of the cluster once for all sessions of this master, and passes it to those that it concerns: a pod to
// its node's, a Secret or ConfigMap to those whose pods name it, and what routing needs to all. The cost of a change depends on how many
// workers it concerns, not on how many there are.
//
// A session learns the state in these steps, and misses nothing: it subscribes, forgets what has arrived, and takes a view; what is
// dispatched later is in its queue, and what was dispatched before is in the view. Changes that are in both are recognized by their
// revisions. For what pods refer to, the steps are the same for each reference: name it, then look it up in a view that is taken after
// that.
type dispatcher struct {
	client *client.Client
	log    *slog.Logger
	// ready is closed when changes have begun to be read.
	ready chan struct{}
	once  sync.Once

	mu     sync.Mutex
	all    map[*subscription]struct{}
	byNode map[string]map[*subscription]struct{}
	byName map[key]map[*subscription]struct{}
}

// subscription is the queue of one session.
type subscription struct {
	dispatcher *dispatcher
	node       string
	names      map[key]struct{} // guarded by the dispatcher
	wake       chan struct{}

	mu     sync.Mutex
	events []client.Event
	behind bool // changes are missing: begin anew with a full set
}

func newDispatcher(c *client.Client, log *slog.Logger) *dispatcher {
	return &dispatcher{client: c, log: log, ready: make(chan struct{}), all: map[*subscription]struct{}{},
		byNode: map[string]map[*subscription]struct{}{}, byName: map[key]map[*subscription]struct{}{}}
}

// run dispatches changes until the context ends.
func (d *dispatcher) run(ctx context.Context) error {
	for {
		err := contain.Run(func() error { return d.client.ViewAndWatch(ctx, kinds, d.begin, d.dispatch) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		d.log.Error("changes for workers cannot be read; beginning anew", "error", err, "stack", contain.Stack(err))
		if !pause.For(ctx, dispatchPause) {
			return ctx.Err()
		}
	}
}

// begin makes all sessions begin anew: what changed before the view was not dispatched.
func (d *dispatcher) begin(client.View) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for s := range d.all {
		s.fallBehind()
	}
	d.once.Do(func() { close(d.ready) })
	return nil
}

// dispatch passes changes, in their order, to the sessions that they concern.
func (d *dispatcher) dispatch(events []client.Event) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, event := range events {
		switch obj := event.Object().(type) {
		case *corev1.Pod:
			d.pass(d.byNode[obj.Spec.NodeName], event)
			if old, ok := event.Old.(*corev1.Pod); ok && old != nil && event.New != nil && old.Spec.NodeName != obj.Spec.NodeName {
				d.pass(d.byNode[old.Spec.NodeName], event)
			}
		case *corev1.Secret:
			d.pass(d.byName[key{"secrets", obj.Namespace, obj.Name}], event)
		case *corev1.ConfigMap:
			d.pass(d.byName[key{"configmaps", obj.Namespace, obj.Name}], event)
		case *corev1.Node:
			if event.Old == nil || event.New == nil || routed(event.Old.(*corev1.Node)) != routed(obj) {
				d.pass(d.all, event)
			} else {
				d.pass(d.byNode[obj.Name], event)
			}
		case *corev1.Service, *discoveryv1.EndpointSlice, *certificatesv1.ClusterTrustBundle:
			d.pass(d.all, event)
		}
	}
	return nil
}

func (d *dispatcher) pass(to map[*subscription]struct{}, event client.Event) {
	for s := range to {
		s.add(event)
	}
}

// subscribe adds a session of a node. Close ends it.
func (d *dispatcher) subscribe(node string) *subscription {
	s := &subscription{dispatcher: d, node: node, names: map[key]struct{}{}, wake: make(chan struct{}, 1)}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all[s] = struct{}{}
	insert(d.byNode, node, s)
	return s
}

// Close ends the subscription.
func (s *subscription) Close() {
	s.dispatcher.mu.Lock()
	defer s.dispatcher.mu.Unlock()
	delete(s.dispatcher.all, s)
	remove(s.dispatcher.byNode, s.node, s)
	for k := range s.names {
		remove(s.dispatcher.byName, k, s)
	}
}

// name makes changes of an object arrive from now on.
func (s *subscription) name(k key) {
	s.dispatcher.mu.Lock()
	defer s.dispatcher.mu.Unlock()
	s.names[k] = struct{}{}
	insert(s.dispatcher.byName, k, s)
}

// unname makes changes of an object arrive no longer.
func (s *subscription) unname(k key) {
	s.dispatcher.mu.Lock()
	defer s.dispatcher.mu.Unlock()
	delete(s.names, k)
	remove(s.dispatcher.byName, k, s)
}

// reset forgets what waits. Take a view after it, and nothing is missed.
func (s *subscription) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events, s.behind = nil, false
}

// next waits for changes and returns them, in the order of their revisions. It returns false if changes are missing.
func (s *subscription) next(ctx context.Context) ([]client.Event, bool, error) {
	for {
		s.mu.Lock()
		events, behind := s.events, s.behind
		s.events = nil
		s.mu.Unlock()
		if behind || len(events) > 0 {
			return events, !behind, nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

func (s *subscription) add(event client.Event) {
	s.mu.Lock()
	if len(s.events) < maxQueued && !s.behind {
		s.events = append(s.events, event)
	} else {
		s.events, s.behind = nil, true
	}
	s.mu.Unlock()
	s.poke()
}

func (s *subscription) fallBehind() {
	s.mu.Lock()
	s.events, s.behind = nil, true
	s.mu.Unlock()
	s.poke()
}

func (s *subscription) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func insert[K comparable](index map[K]map[*subscription]struct{}, k K, s *subscription) {
	if index[k] == nil {
		index[k] = map[*subscription]struct{}{}
	}
	index[k][s] = struct{}{}
}

func remove[K comparable](index map[K]map[*subscription]struct{}, k K, s *subscription) {
	delete(index[k], s)
	if len(index[k]) == 0 {
		delete(index, k)
	}
}
