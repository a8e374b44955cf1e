package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"strings"
	"sync"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodeapi "k8s.io/api/node/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/static"
	"github.com/kontiki/kontiki/node/wire"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// key identifies one object.
type key struct{ resource, namespace, name string }

type entry struct {
	key      key
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

	"persistentvolumeclaims": func() wire.Message { return &corev1.PersistentVolumeClaim{} },
	"persistentvolumes":      func() wire.Message { return &corev1.PersistentVolume{} },

	"resourceclaims": func() wire.Message { return &resourcev1.ResourceClaim{} },

	"csidrivers":        func() wire.Message { return &storagev1.CSIDriver{} },
	"volumeattachments": func() wire.Message { return &storagev1.VolumeAttachment{} },
	"runtimeclasses":    func() wire.Message { return &nodeapi.RuntimeClass{} },

	"clustertrustbundles": func() wire.Message { return &certificatesv1.ClusterTrustBundle{} },
}

// store has the node's assignment, in memory and on disk. Its objects are read-only. Safe for concurrent use.
type store struct {
	mu      sync.RWMutex
	version uint64
	history string // of which version is; "" if the masters do not send differences
	known   bool   // a full set has been received, by this process or an earlier one
	objects map[key]*entry
	// servicesGen is incremented with every change of a service or an endpoint slice.
	servicesGen uint64
	peers       peers
	journal     *journal
	node        string // the name of this node
	decoded     *Decoded
}

// sharedResources are the kinds of objects that all nodes get, which a master may send as a difference.
var sharedResources = map[string]bool{"services": true, "endpointslices": true, "nodes": true, "clustertrustbundles": true}

// change describes the effect of an assignment.
type change struct {
	pods    []*corev1.Pod // new or changed
	gone    []types.UID
	objects map[string]bool // namespaces whose secrets, config maps, claims or claims' volumes changed
	volumes bool            // volumes changed
	mirrors bool            // mirror pods changed
	own     bool            // the node, or attachments to it, changed
	every   bool            // an object changed that any pod may use
	cluster bool            // services, slices or nodes changed
	// What should be written to disk: at once, or some time later.
	upserts []*nodev1.Object
	echoes  []*nodev1.Object
	deletes []*nodev1.ObjectKey
}

func openStore(path, node string, shared *Decoded) (*store, *nodev1.Welcome, error) {
	s := &store{objects: map[key]*entry{}, node: node, decoded: shared}
	var welcome *nodev1.Welcome
	j, err := openJournal(path, s.state, func(w *nodev1.Welcome) { welcome = w }, func(a *nodev1.Assignment) {
		if _, err := s.merge(a, s.decode(a)); err != nil {
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
	if err := check(a); err != nil {
		return change{}, err
	}
	decoded := s.decode(a)
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.known
	if a.KeepsShared && (!known || a.History == "" || a.History != s.history) {
		return change{}, fmt.Errorf("assignment: a difference in the history %q, this node knows %q", a.History, s.history)
	}
	if a.From != 0 {
		a.History = s.history // a delta continues it
	}
	c, err := s.merge(a, decoded)
	if err != nil {
		return c, err
	}
	if known {
		s.journal.append(s.version, s.history, c)
	} else {
		s.journal.rewrite()
	}
	return c, nil
}

// Limits for what a master sends: names are as long as Kubernetes allows at most, with room to spare.
const (
	maxName    = 1024
	maxObjects = 1 << 20   // of a full set
	maxFull    = 512 << 20 // bytes of a full set
)

// check refuses what no correct master would send.
func check(a *nodev1.Assignment) error {
	if a.To < a.From {
		return fmt.Errorf("assignment: a delta from version %d to version %d", a.From, a.To)
	}
	if a.KeepsShared && a.From != 0 {
		return errors.New("assignment: a delta cannot keep the shared objects")
	}
	if len(a.History) > maxName {
		return fmt.Errorf("assignment: the history's name has %d bytes", len(a.History))
	}
	named := func(k *nodev1.ObjectKey) error {
		if k.GetResource() == "" || k.GetName() == "" || len(k.Resource) > maxName || len(k.Namespace) > maxName || len(k.Name) > maxName {
			return fmt.Errorf("assignment: an object has the invalid key %.200q", fmt.Sprint(k.GetResource(), "/", k.GetNamespace(), "/", k.GetName()))
		}
		return nil
	}
	for _, o := range a.Upserts {
		if err := named(o.GetKey()); err != nil {
			return err
		}
	}
	for _, k := range a.Deletes {
		if err := named(k); err != nil {
			return err
		}
	}
	return nil
}

// decode decodes an assignment's objects; those that cannot be decoded are nil.
func (s *store) decode(a *nodev1.Assignment) []*entry {
	decoded := make([]*entry, len(a.Upserts))
	for i, o := range a.Upserts {
		k := keyOf(o.Key)
		common := s.decoded != nil && sharedResources[k.resource] && k != s.ownNode()
		if common {
			if e := s.decoded.find(k, o); e != nil {
				decoded[i] = e
				continue
			}
		}
		e := &entry{key: k, revision: o.Revision, value: o.Value}
		if make := resources[k.resource]; make != nil {
			e.object = make()
			if err := wire.Decode(o.Value, e.object); err != nil {
				// A single object that cannot be decoded must not prevent the others.
				slog.Error("assigned object cannot be decoded", "resource", k.resource, "namespace", k.namespace, "name", k.name, "err", err)
				continue
			}
		}
		if common {
			s.decoded.keep(e)
		}
		decoded[i] = e
	}
	return decoded
}

func (s *store) ownNode() key { return key{"nodes", "", s.node} }

// merge applies an assignment. The caller holds mu, or the store is not shared yet.
func (s *store) merge(a *nodev1.Assignment, decoded []*entry) (change, error) {
	var c change
	if a.From != 0 && a.From != s.version {
		return c, fmt.Errorf("assignment: a delta from version %d does not follow version %d", a.From, s.version)
	}
	touch := func(k key, object wire.Message) {
		usedIn := func(namespace string) {
			if c.objects == nil {
				c.objects = map[string]bool{}
			}
			c.objects[namespace] = true
		}
		switch k.resource {
		case "pods":
			p, ok := object.(*corev1.Pod)
			c.mirrors = c.mirrors || ok && static.IsMirror(p)
		case "secrets", "configmaps", "persistentvolumeclaims", "resourceclaims":
			usedIn(k.namespace)
		case "persistentvolumes":
			c.volumes = true
			if v, ok := object.(*corev1.PersistentVolume); ok && v.Spec.ClaimRef != nil {
				usedIn(v.Spec.ClaimRef.Namespace)
			}
		case "csidrivers", "volumeattachments":
			c.own = true
		case "clustertrustbundles", "runtimeclasses":
			c.every = true
		case "services", "endpointslices":
			c.cluster = true
			s.servicesGen++
		case "nodes":
			c.cluster = true
			c.own = c.own || k == s.ownNode()
			s.peers.note(k.name)
		}
	}
	remove := func(k key) {
		old := s.objects[k]
		if old == nil {
			return
		}
		delete(s.objects, k)
		c.deletes = append(c.deletes, &nodev1.ObjectKey{Resource: k.resource, Namespace: k.namespace, Name: k.name})
		touch(k, old.object)
		if p, ok := old.object.(*corev1.Pod); ok {
			c.gone = append(c.gone, p.UID)
		}
	}
	sameHistory := a.History == s.history // in another one, a revision may be of another object
	if a.From == 0 {
		keep := map[key]bool{}
		for _, o := range a.Upserts {
			keep[keyOf(o.Key)] = true
		}
		for k := range s.objects {
			if !keep[k] && !(a.KeepsShared && sharedResources[k.resource]) {
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
		if old != nil && old.revision == e.revision && e.revision != 0 && (sameHistory || bytes.Equal(old.value, e.value)) {
			continue
		}
		s.objects[e.key] = e
		if old != nil && echo(old.object, e.object) {
			c.echoes = append(c.echoes, o)
		} else {
			c.upserts = append(c.upserts, o)
		}
		touch(k, e.object)
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
	s.version, s.history = a.To, a.History
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
		case corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodReadyToStartContainers, corev1.PodResizePending, corev1.PodResizeInProgress, corev1.AllContainersRestarting:
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
	a := &nodev1.Assignment{To: s.version, History: s.history}
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

// resourceClaim returns a claim of a pod.
func (s *store) resourceClaim(namespace, name string) (*resourcev1.ResourceClaim, bool) {
	return get[*resourcev1.ResourceClaim](s, "resourceclaims", namespace, name)
}

// Secret implements pods.Objects.
func (s *store) Secret(namespace, name string) (*corev1.Secret, bool) {
	return get[*corev1.Secret](s, "secrets", namespace, name)
}

// RuntimeClass implements pods.Objects.
func (s *store) RuntimeClass(name string) (*nodeapi.RuntimeClass, bool) {
	return get[*nodeapi.RuntimeClass](s, "runtimeclasses", "", name)
}

// PersistentVolumeClaim implements volume.Objects.
func (s *store) PersistentVolumeClaim(namespace, name string) (*corev1.PersistentVolumeClaim, bool) {
	return get[*corev1.PersistentVolumeClaim](s, "persistentvolumeclaims", namespace, name)
}

// PersistentVolume implements volume.Objects.
func (s *store) PersistentVolume(name string) (*corev1.PersistentVolume, bool) {
	return get[*corev1.PersistentVolume](s, "persistentvolumes", "", name)
}

// PersistentVolumes implements volume.Objects.
func (s *store) PersistentVolumes() []*corev1.PersistentVolume {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return list[*corev1.PersistentVolume](s, "persistentvolumes")
}

// CSIDriver implements volume.Objects.
func (s *store) CSIDriver(name string) (*storagev1.CSIDriver, bool) {
	return get[*storagev1.CSIDriver](s, "csidrivers", "", name)
}

// VolumeAttachment implements volume.Objects.
func (s *store) VolumeAttachment(name string) (*storagev1.VolumeAttachment, bool) {
	return get[*storagev1.VolumeAttachment](s, "volumeattachments", "", name)
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

// assigned says whether the store has what is assigned to the node: a master has said it, or an earlier agent left it on disk.
func (s *store) assigned() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.known
}

// services returns what routes to services, unless its generation has been seen already.
func (s *store) services(seen uint64) (services []*corev1.Service, slices []*discoveryv1.EndpointSlice, known bool, generation uint64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.servicesGen == seen {
		return nil, nil, s.known, seen
	}
	return list[*corev1.Service](s, "services"), list[*discoveryv1.EndpointSlice](s, "endpointslices"), s.known, s.servicesGen
}

// clusterNode returns this node as the cluster has it, nil if that is not known.
func (s *store) clusterNode() *corev1.Node {
	n, _ := get[*corev1.Node](s, "nodes", "", s.node)
	return n
}

func (s *store) allPods() []*corev1.Pod {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return list[*corev1.Pod](s, "pods")
}

// offer returns what the node tells a master that it has.
func (s *store) offer() *nodev1.Known {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.known || s.history == "" {
		return &nodev1.Known{}
	}
	return &nodev1.Known{History: s.history, Version: s.version}
}

func (s *store) keepWelcome(w *nodev1.Welcome) { s.journal.keepWelcome(w) }
