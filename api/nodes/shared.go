package nodes

import (
	"cmp"
	"fmt"
	"slices"
	"sort"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

var encoder = protobuf.NewSerializer(registry.Scheme, registry.Scheme)

// encode returns an object as workers are sent it.
func encode(k key, obj client.Object) (*nodev1.Object, error) {
	revision, err := objects.ParseRevision(obj.GetResourceVersion())
	if err != nil {
		return nil, err
	}
	value, err := runtime.Encode(encoder, obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s %s/%s: %w", k.resource, k.namespace, k.name, err)
	}
	return &nodev1.Object{Key: k.proto(), Revision: revision, Value: value}, nil
}

// leastLog is how many changes are kept at least for differences. At most as many are kept as there are objects: a longer difference
// would be no smaller than a full set.
const leastLog = 1024

// shared has the objects that every worker gets (Services, EndpointSlices, trust bundles, and of nodes what routing needs), each encoded
// once for all workers, and the last changes to them, from which it computes the difference to what a worker has. The dispatcher changes
// it and guards it.
type shared struct {
	// revision is that of the last change that was dispatched, whatever it was of. The log has all changes after floor.
	revision, floor uint64
	objects         map[key]*nodev1.Object
	log             []sharedChange
	last            *sharedSet
}

// sharedChange is a change of a shared object, which is nil if it was deleted.
type sharedChange struct {
	revision uint64
	key      key
	object   *nodev1.Object
}

// sharedSet has all shared objects as they were at a revision. It is immutable, and used for all sessions that begin at about this time.
type sharedSet struct {
	revision uint64
	objects  []*nodev1.Object
	bytes    int
}

// sharedKey returns the key of an object, if it is one of those that every worker gets.
func sharedKey(obj client.Object) (key, bool) {
	switch obj := obj.(type) {
	case *corev1.Service:
		return key{"services", obj.Namespace, obj.Name}, true
	case *discoveryv1.EndpointSlice:
		return key{"endpointslices", obj.Namespace, obj.Name}, true
	case *certificatesv1.ClusterTrustBundle: // few, and public
		return key{"clustertrustbundles", "", obj.Name}, true
	case *corev1.Node:
		return nodeKey(obj.Name), true
	}
	return key{}, false
}

func nodeKey(name string) key { return key{"nodes", "", name} }

// encodeShared returns a shared object as other workers than its own are sent it: nodes are reduced to the fields that routing needs,
// without those that change often.
func encodeShared(k key, obj client.Object) (*nodev1.Object, error) {
	if n, ok := obj.(*corev1.Node); ok {
		obj = &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, ResourceVersion: n.ResourceVersion},
			Spec:       corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs},
			Status:     corev1.NodeStatus{Addresses: n.Status.Addresses},
		}
	}
	return encode(k, obj)
}

// sameRoute says whether two versions of a node are the same in the fields that matter for routing.
func sameRoute(a, b *corev1.Node) bool {
	return a.UID == b.UID && slices.Equal(a.Spec.PodCIDRs, b.Spec.PodCIDRs) && slices.Equal(a.Status.Addresses, b.Status.Addresses)
}

// readShared encodes the shared objects in a view.
func readShared(v client.View) (map[key]*nodev1.Object, error) {
	all := map[key]*nodev1.Object{}
	var failed error
	add := func(obj client.Object) bool {
		k, _ := sharedKey(obj)
		all[k], failed = encodeShared(k, obj)
		return failed == nil
	}
	client.Each(v, "", func(s *corev1.Service) bool { return add(s) })
	if failed == nil {
		client.Each(v, "", func(s *discoveryv1.EndpointSlice) bool { return add(s) })
	}
	if failed == nil {
		client.Each(v, "", func(n *corev1.Node) bool { return add(n) })
	}
	if failed == nil {
		client.Each(v, "", func(b *certificatesv1.ClusterTrustBundle) bool { return add(b) })
	}
	return all, failed
}

// replace takes over the objects of a view. What differs counts as changed at its revision, so that differences to what workers have
// can be computed also if the changes in between were missed.
func (s *shared) replace(revision uint64, objects map[key]*nodev1.Object) {
	s.last = nil
	if s.objects == nil || revision < s.revision {
		s.revision, s.floor, s.objects, s.log = revision, revision, objects, nil
		return
	}
	for k := range s.objects {
		if objects[k] == nil {
			s.log = append(s.log, sharedChange{revision, k, nil})
		}
	}
	for k, object := range objects {
		if before := s.objects[k]; before == nil || before.Revision != object.Revision {
			s.log = append(s.log, sharedChange{revision, k, object})
		}
	}
	s.revision, s.objects = revision, objects
	s.shorten()
}

// change takes over a change of an object. It returns false if the change does not concern all workers.
func (s *shared) change(event client.Event) (sharedChange, bool, error) {
	k, ok := sharedKey(event.Object())
	if !ok {
		return sharedChange{}, false, nil
	}
	change := sharedChange{revision: event.Revision, key: k}
	if event.New == nil {
		delete(s.objects, k)
	} else {
		if now, ok := event.New.(*corev1.Node); ok && event.Old != nil && sameRoute(event.Old.(*corev1.Node), now) {
			return sharedChange{}, false, nil
		}
		var err error
		if change.object, err = encodeShared(k, event.New); err != nil {
			return sharedChange{}, false, err
		}
		s.objects[k] = change.object
	}
	s.log = append(s.log, change)
	s.shorten()
	return change, true, nil
}

// shorten drops the older half of a log that is too long. The changes of one revision stay together.
func (s *shared) shorten() {
	most := max(leastLog, len(s.objects))
	if len(s.log) <= 2*most {
		return
	}
	from := len(s.log) - most
	for from < len(s.log) && s.log[from].revision == s.log[from-1].revision {
		from++
	}
	s.floor = s.log[from-1].revision
	s.log = slices.Clone(s.log[from:])
	if s.last != nil && s.last.revision < s.floor {
		s.last = nil
	}
}

// reachesBack says whether the changes after a revision are known.
func (s *shared) reachesBack(revision uint64) bool {
	return revision >= s.floor && revision <= s.revision
}

// since returns what changed after a revision to which the log reaches back: of each object the last change, in order of revision.
func (s *shared) since(revision uint64) []sharedChange {
	first := sort.Search(len(s.log), func(i int) bool { return s.log[i].revision > revision })
	return lastOfEach(s.log[first:])
}

// lastOfEach returns of the changes, which are in order, the last one of each object.
func lastOfEach(changes []sharedChange) []sharedChange {
	if len(changes) < 2 {
		return changes
	}
	at := make(map[key]int, len(changes))
	for i, c := range changes {
		at[c.key] = i
	}
	out := make([]sharedChange, 0, len(at))
	for i, c := range changes {
		if at[c.key] == i {
			out = append(out, c)
		}
	}
	return out
}

// set returns all objects as they were at some revision, and the changes since then. A set is used until the changes are many.
func (s *shared) set() (*sharedSet, []sharedChange) {
	if s.last != nil {
		if changes := s.since(s.last.revision); len(changes) <= len(s.last.objects)/16 {
			return s.last, changes
		}
	}
	s.last = &sharedSet{revision: s.revision, objects: make([]*nodev1.Object, 0, len(s.objects))}
	for _, object := range s.objects {
		s.last.objects = append(s.last.objects, object)
		s.last.bytes += len(object.Value)
	}
	slices.SortFunc(s.last.objects, func(a, b *nodev1.Object) int { return cmp.Compare(a.Revision, b.Revision) })
	return s.last, nil
}

// split divides changes into what is sent for them. The worker's own node is left out: it is sent as a whole.
func split(changes []sharedChange, own key) (upserts []*nodev1.Object, deletes []*nodev1.ObjectKey) {
	for _, c := range changes {
		switch {
		case c.key == own:
		case c.object == nil:
			deletes = append(deletes, c.key.proto())
		default:
			upserts = append(upserts, c.object)
		}
	}
	return upserts, deletes
}
