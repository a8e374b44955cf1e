package nodes

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodeapi "k8s.io/api/node/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/localpath"
	"github.com/kontiki/kontiki/internal/pause"
)

const (
	// maxQueued limits the changes that wait for one session. A worker that reads too slowly gets the difference, or a full set, instead.
	maxQueued = 4096
	// Changes of shared objects that come shortly after others wait a little for further ones, so that a master sends at most maxSends
	// messages a second for them to all its workers together, and none waits longer than longestWait.
	maxSends    = 5000
	longestWait = time.Second
	// dispatchPause is how long the dispatcher waits after an error until it begins anew.
	dispatchPause = time.Second
)

// dispatcher reads every change of the cluster once for all sessions of this master, and passes it to those that it concerns: a pod, and
// a volume whose folder a node has, to its node's, what pods refer to (Secrets, ConfigMaps, claims, volumes) to those whose objects name
// it, and a shared object, encoded once, to all. The cost of a change depends on how many workers it concerns, not on how many there are.
//
// A session learns its own objects in these steps, and misses nothing: it subscribes, forgets what has arrived, and takes a view; what is
// dispatched later is in its queue, and what was dispatched before is in the view. Changes that are in both are recognized by their
// revisions. For what pods refer to, the steps are the same for each reference: name it, then look it up in a view that is taken after
// that. The shared objects are read at the moment in which the queue is emptied (start), so that the queue continues exactly these.
type dispatcher struct {
	client *client.Client
	log    *slog.Logger
	// ready is closed when changes have begun to be read.
	ready chan struct{}
	once  sync.Once

	mu     sync.Mutex
	shared shared
	moved  chan struct{} // closed when shared.revision changes; nil if nobody waits for that
	all    map[*subscription]struct{}
	byNode map[string]map[*subscription]struct{}
	byName map[key]map[*subscription]struct{}
}

// change is an event that concerns one session, or a change of a shared object.
type change struct {
	revision uint64
	event    client.Event
	shared   *sharedChange
}

// subscription is the queue of one session.
type subscription struct {
	dispatcher *dispatcher
	node       string
	names      map[key]struct{} // guarded by the dispatcher
	wake       chan struct{}
	// next should not return only shared changes before this time. Only the session uses it.
	notBefore time.Time

	mu      sync.Mutex
	changes []change
	urgent  bool // some are not of shared objects
	behind  bool // changes are missing: begin anew
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
func (d *dispatcher) begin(v client.View) error {
	objects, err := readShared(v)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shared.replace(v.Revision(), objects)
	d.noteMoved()
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
		one := change{revision: event.Revision, event: event}
		switch obj := event.Object().(type) {
		case *corev1.Pod:
			d.pass(d.byNode[obj.Spec.NodeName], one)
			if old, ok := event.Old.(*corev1.Pod); ok && old != nil && event.New != nil && old.Spec.NodeName != obj.Spec.NodeName {
				d.pass(d.byNode[old.Spec.NodeName], one)
			}
		case *corev1.Secret:
			d.pass(d.byName[key{"secrets", obj.Namespace, obj.Name}], one)
		case *corev1.ConfigMap:
			d.pass(d.byName[key{"configmaps", obj.Namespace, obj.Name}], one)
		case *corev1.PersistentVolumeClaim:
			d.pass(d.byName[key{"persistentvolumeclaims", obj.Namespace, obj.Name}], one)
		case *resourcev1.ResourceClaim:
			d.pass(d.byName[key{"resourceclaims", obj.Namespace, obj.Name}], one)
		case *storagev1.CSIDriver:
			d.pass(d.byName[key{"csidrivers", "", obj.Name}], one)
		case *nodeapi.RuntimeClass:
			d.pass(d.byName[key{"runtimeclasses", "", obj.Name}], one)
		case *storagev1.VolumeAttachment:
			d.pass(d.byName[key{"volumeattachments", "", obj.Name}], one)
		case *corev1.PersistentVolume:
			d.pass(d.byName[key{"persistentvolumes", "", obj.Name}], one)
			node := localpath.NodeOf(obj.Annotations)
			if node != "" {
				d.pass(d.byNode[node], one)
			}
			if old, ok := event.Old.(*corev1.PersistentVolume); ok && old != nil {
				if before := localpath.NodeOf(old.Annotations); before != "" && before != node {
					d.pass(d.byNode[before], one)
				}
			}
		case *corev1.Node:
			d.pass(d.byNode[obj.Name], one) // it gets its own as a whole
		}
		shared, ok, err := d.shared.change(event)
		if err != nil {
			return err
		}
		if ok {
			d.pass(d.all, change{revision: event.Revision, shared: &shared})
		}
		d.shared.revision = event.Revision
	}
	d.noteMoved()
	return nil
}

func (d *dispatcher) pass(to map[*subscription]struct{}, c change) {
	for s := range to {
		s.add(c)
	}
}

// noteMoved wakes those that wait for a revision. The caller holds mu.
func (d *dispatcher) noteMoved() {
	if d.moved != nil {
		close(d.moved)
		d.moved = nil
	}
}

// await waits until a change with a revision, which this master has, has been dispatched.
func (d *dispatcher) await(ctx context.Context, revision uint64) error {
	for {
		d.mu.Lock()
		if d.shared.revision >= revision {
			d.mu.Unlock()
			return nil
		}
		if d.moved == nil {
			d.moved = make(chan struct{})
		}
		moved := d.moved
		d.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pauseFor returns how long a session lets changes of shared objects wait for further ones.
func (d *dispatcher) pauseFor() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return min(time.Duration(len(d.all))*time.Second/maxSends, longestWait)
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

// sharedState is what a session needs to know of the shared objects when it begins, at a revision: the difference to what its worker
// has, or a set and what changed since.
type sharedState struct {
	revision uint64
	set      *sharedSet // nil if the changes are the difference
	changes  []sharedChange
}

// start forgets what waits and returns the shared objects that what arrives from now on continues. known is the revision that the worker
// has. If the difference to it is not known, start returns false, unless a set is wanted then.
func (s *subscription) start(known uint64, set bool) (state sharedState, ok bool) {
	d := s.dispatcher
	d.mu.Lock()
	defer d.mu.Unlock()
	state.revision = d.shared.revision
	switch {
	case known > 0 && d.shared.reachesBack(known):
		state.changes = d.shared.since(known)
	case set:
		state.set, state.changes = d.shared.set()
	default:
		return state, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes, s.urgent, s.behind = nil, false, false
	return state, true
}

// next waits for changes and returns them, in the order of their revisions. It returns false if changes are missing. Changes of shared
// objects may wait a little for further ones; others do not.
func (s *subscription) next(ctx context.Context) ([]change, bool, error) {
	var later <-chan time.Time
	for {
		s.mu.Lock()
		wait := time.Duration(0)
		if len(s.changes) > 0 && !s.urgent {
			wait = time.Until(s.notBefore)
		}
		if s.behind || len(s.changes) > 0 && wait <= 0 {
			changes, behind := s.changes, s.behind
			s.changes, s.urgent = nil, false
			s.mu.Unlock()
			if slices.ContainsFunc(changes, func(c change) bool { return c.shared != nil }) {
				s.notBefore = time.Now().Add(s.dispatcher.pauseFor())
			}
			return changes, !behind, nil
		}
		s.mu.Unlock()
		if wait > 0 && later == nil {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			later = timer.C
		}
		select {
		case <-s.wake:
		case <-later:
			later = nil
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
}

func (s *subscription) add(c change) {
	s.mu.Lock()
	if len(s.changes) < maxQueued && !s.behind {
		s.changes, s.urgent = append(s.changes, c), s.urgent || c.shared == nil
	} else {
		s.changes, s.behind = nil, true
	}
	s.mu.Unlock()
	s.poke()
}

func (s *subscription) fallBehind() {
	s.mu.Lock()
	s.changes, s.behind = nil, true
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
