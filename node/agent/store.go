package agent

import (
	"fmt"
	"log/slog"
	"sort"
	"strings"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/wire"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// key identifies one object.
type key struct{ resource, namespace, name string }

type entry struct {
	revision uint64
	value    []byte
	object   wire.Message // decoded; nil for kinds that the agent does not use
}

// resources are the kinds that the agent reads.
var resources = map[string]func() wire.Message{
	"pods":           func() wire.Message { return &corev1.Pod{} },
	"secrets":        func() wire.Message { return &corev1.Secret{} },
	"configmaps":     func() wire.Message { return &corev1.ConfigMap{} },
	"services":       func() wire.Message { return &corev1.Service{} },
	"endpointslices": func() wire.Message { return &discoveryv1.EndpointSlice{} },
	"nodes":          func() wire.Message { return &corev1.Node{} },

	"clustertrustbundles": func() wire.Message { return &certificatesv1.ClusterTrustBundle{} },
}

// store has the node's assignment, in memory and on disk. Its objects are read-only. Safe for concurrent use.
type store struct {
	mu      sync.RWMutex
	version uint64
	known   bool // a full set has been received, by this process or an earlier one
	objects map[key]*entry
	// servicesGen is incremented with every change of a service or an endpoint slice.
	servicesGen uint64
	journal     *journal
}

// change describes the effect of an assignment.
type change struct {
	pods    []*corev1.Pod // new or changed
	gone    []types.UID
	objects map[string]bool // namespaces whose secrets or config maps changed
	trust   bool            // trust bundles changed
	cluster bool            // services, slices or nodes changed
	// What should be written to disk: at once, or some time later.
	upserts []*nodev1.Object
	echoes  []*nodev1.Object
	deletes []*nodev1.ObjectKey
}

func openStore(path string) (*store, *nodev1.Welcome, error) {
	s := &store{objects: map[key]*entry{}}
	var welcome *nodev1.Welcome
	j, err := openJournal(path, s.state, func(w *nodev1.Welcome) { welcome = w }, func(a *nodev1.Assignment) {
		if _, err := s.merge(a, decode(a)); err != nil {
			slog.Warn("assignment on disk", "err", err)
		}
	})
	if err != nil {
		return nil, nil, err
	}
	s.journal = j
	return s, welcome, nil
}

func (s *store) close() { s.journal.close() }

// apply applies an assignment, and lets it be written to disk in the background: a node that loses the last ones gets them from the
// master again.
func (s *store) apply(a *nodev1.Assignment) (change, error) {
	decoded := decode(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.known
	c, err := s.merge(a, decoded)
	if err != nil {
		return c, err
	}
	if known {
		s.journal.append(s.version, c)
	} else {
		s.journal.rewrite()
	}
	return c, nil
}

// decode decodes an assignment's objects; those that cannot be decoded are nil.
func decode(a *nodev1.Assignment) []*entry {
	decoded := make([]*entry, len(a.Upserts))
	for i, o := range a.Upserts {
		e := &entry{revision: o.Revision, value: o.Value}
		if make := resources[o.Key.GetResource()]; make != nil {
			e.object = make()
			if err := wire.Decode(o.Value, e.object); err != nil {
				// A single object that cannot be decoded must not prevent the others.
				slog.Error("assigned object cannot be decoded", "resource", o.Key.GetResource(), "namespace", o.Key.GetNamespace(), "name", o.Key.GetName(), "err", err)
				continue
			}
		}
		decoded[i] = e
	}
	return decoded
}

// merge applies an assignment. The caller holds mu, or the store is not shared yet.
func (s *store) merge(a *nodev1.Assignment, decoded []*entry) (change, error) {
	var c change
	if a.From != 0 && a.From != s.version {
		return c, fmt.Errorf("assignment: a delta from version %d does not follow version %d", a.From, s.version)
	}
	touch := func(k key) {
		switch k.resource {
		case "secrets", "configmaps":
			if c.objects == nil {
				c.objects = map[string]bool{}
			}
			c.objects[k.namespace] = true
		case "clustertrustbundles":
			c.trust = true
		case "services", "endpointslices":
			c.cluster = true
			s.servicesGen++
		case "nodes":
			c.cluster = true
		}
	}
	remove := func(k key) {
		old := s.objects[k]
		if old == nil {
			return
		}
		delete(s.objects, k)
		c.deletes = append(c.deletes, &nodev1.ObjectKey{Resource: k.resource, Namespace: k.namespace, Name: k.name})
		touch(k)
		if p, ok := old.object.(*corev1.Pod); ok {
			c.gone = append(c.gone, p.UID)
		}
	}
	if a.From == 0 {
		keep := map[key]bool{}
		for _, o := range a.Upserts {
			keep[keyOf(o.Key)] = true
		}
		for k := range s.objects {
			if !keep[k] {
				remove(k)
			}
		}
		if !s.known {
			s.known, c.cluster = true, true
			s.servicesGen++
		}
	}
	for i, o := range a.Upserts {
		k, e := keyOf(o.Key), decoded[i]
		if e == nil {
			continue
		}
		old := s.objects[k]
		if old != nil && old.revision == e.revision && e.revision != 0 {
			continue
		}
		s.objects[k] = e
		if old != nil && echo(old.object, e.object) {
			c.echoes = append(c.echoes, o)
		} else {
			c.upserts = append(c.upserts, o)
		}
		touch(k)
		if p, ok := e.object.(*corev1.Pod); ok {
			if old != nil {
				if op := old.object.(*corev1.Pod); op.UID != p.UID { // deleted and created again between two deltas
					c.gone = append(c.gone, op.UID)
				}
			}
			c.pods = append(c.pods, p)
		}
	}
	for _, d := range a.Deletes {
		remove(keyOf(d))
	}
	s.version = a.To
	return c, nil
}

func keyOf(k *nodev1.ObjectKey) key { return key{k.GetResource(), k.GetNamespace(), k.GetName()} }

// state returns what should be on disk. taken is called before anything can be added to it.
func (s *store) state(taken func(version uint64)) *nodev1.Assignment {
	s.mu.RLock()
	defer s.mu.RUnlock()
	taken(s.version)
	return s.full()
}

// echo says whether now differs from before only in what the node itself reported about itself or its pods. A pod's start, end and
// addresses do not count as such, because a restarted agent cannot find them out by itself.
func echo(before, now wire.Message) bool {
	switch now := now.(type) {
	case *corev1.Pod:
		before, ok := before.(*corev1.Pod)
		return ok && equality.Semantic.DeepEqual(podWithoutReport(before), podWithoutReport(now))
	case *corev1.Node:
		before, ok := before.(*corev1.Node)
		return ok && equality.Semantic.DeepEqual(nodeWithoutReport(before), nodeWithoutReport(now))
	}
	return false
}

// podWithoutReport returns a shallow copy of a pod without the fields that its node sets.
func podWithoutReport(p *corev1.Pod) *corev1.Pod {
	out := *p
	out.ResourceVersion, out.ManagedFields = "", nil
	out.Status = corev1.PodStatus{StartTime: p.Status.StartTime, PodIPs: p.Status.PodIPs, NominatedNodeName: p.Status.NominatedNodeName}
	if p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		out.Status.Phase = p.Status.Phase
	}
	for _, c := range p.Status.Conditions {
		switch c.Type {
		case corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodReadyToStartContainers:
		default:
			out.Status.Conditions = append(out.Status.Conditions, c)
		}
	}
	return &out
}

// nodeWithoutReport returns such a copy of a node. The network reads the addresses in its status, so these stay.
func nodeWithoutReport(n *corev1.Node) *corev1.Node {
	out := *n
	out.ResourceVersion, out.ManagedFields = "", nil
	out.Status = corev1.NodeStatus{Addresses: n.Status.Addresses}
	return &out
}

// full returns the whole state as one assignment.
func (s *store) full() *nodev1.Assignment {
	a := &nodev1.Assignment{To: s.version}
	for k, e := range s.objects {
		a.Upserts = append(a.Upserts, &nodev1.Object{Key: &nodev1.ObjectKey{Resource: k.resource, Namespace: k.namespace, Name: k.name}, Revision: e.revision, Value: e.value})
	}
	return a
}

func get[T wire.Message](s *store, resource, namespace, name string) (T, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var none T
	e := s.objects[key{resource, namespace, name}]
	if e == nil {
		return none, false
	}
	o, ok := e.object.(T)
	return o, ok
}

// list returns all objects of a resource, sorted.
func list[T wire.Message](s *store, resource string) []T {
	var keys []key
	for k := range s.objects {
		if k.resource == resource {
			keys = append(keys, k)
		}
	}
	sort.Slice(keys, func(i, j int) bool {
		if c := strings.Compare(keys[i].namespace, keys[j].namespace); c != 0 {
			return c < 0
		}
		return keys[i].name < keys[j].name
	})
	out := make([]T, 0, len(keys))
	for _, k := range keys {
		out = append(out, s.objects[k].object.(T))
	}
	return out
}

// ConfigMap implements pods.Objects.
func (s *store) ConfigMap(namespace, name string) (*corev1.ConfigMap, bool) {
	return get[*corev1.ConfigMap](s, "configmaps", namespace, name)
}

// Secret implements pods.Objects.
func (s *store) Secret(namespace, name string) (*corev1.Secret, bool) {
	return get[*corev1.Secret](s, "secrets", namespace, name)
}

// TrustBundles implements volume.Objects.
func (s *store) TrustBundles() []*certificatesv1.ClusterTrustBundle {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return list[*certificatesv1.ClusterTrustBundle](s, "clustertrustbundles")
}

// Services implements pods.Objects.
func (s *store) Services() ([]*corev1.Service, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return list[*corev1.Service](s, "services"), s.known
}

func (s *store) services() (services []*corev1.Service, slices []*discoveryv1.EndpointSlice, known bool, generation uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return list[*corev1.Service](s, "services"), list[*discoveryv1.EndpointSlice](s, "endpointslices"), s.known, s.servicesGen
}

func (s *store) nodes() []*corev1.Node {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return list[*corev1.Node](s, "nodes")
}

func (s *store) allPods() []*corev1.Pod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return list[*corev1.Pod](s, "pods")
}

func (s *store) keepWelcome(w *nodev1.Welcome) { s.journal.keepWelcome(w) }
