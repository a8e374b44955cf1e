package quota

import (
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/kv"
)

// Prefix is the prefix of all keys of quotas.
const Prefix = "/quota/"

// The names of the keys of a namespace that are not a quota's. No quota can have them: a quota's name does not begin with a dot.
const (
	setName     = ".set"
	createdName = ".created"
)

func namespacePrefix(namespace string) string { return Prefix + namespace + "/" }

func setKey(namespace string) string { return namespacePrefix(namespace) + setName }

// createdKey is the key of a counter of the quotas that were created. It is not read: with the addition, the creation of a quota is a
// command that is refused until all masters can count.
func createdKey(namespace string) string { return namespacePrefix(namespace) + createdName }

// counterKey returns the key of the counter of a quota's resource.
func counterKey(namespace, quota string, name corev1.ResourceName) string {
	return namespacePrefix(namespace) + quota + "/" + string(name)
}

// splitKey returns what a key is about; quota is empty for the keys that are not a quota's.
func splitKey(key string) (namespace, quota string, name corev1.ResourceName) {
	namespace, rest, _ := strings.Cut(strings.TrimPrefix(key, Prefix), "/")
	quota, resource, _ := strings.Cut(rest, "/")
	if strings.HasPrefix(quota, ".") {
		quota = ""
	}
	return namespace, quota, corev1.ResourceName(resource)
}

// set lists the quotas of a namespace.
type set struct {
	Quotas []entry `json:"quotas"`
	// revision is the one of the key, 0 if it is absent.
	revision uint64
	raw      []byte // not decoded yet
}

// entry is a quota in a set.
type entry struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid"`
	// Counted are the resources whose counters are right, in order.
	Counted []corev1.ResourceName `json:"counted,omitempty"`
}

// readSet returns the set of a namespace.
func readSet(view kv.View, namespace string) *set {
	v, ok := view.Get(setKey(namespace))
	if !ok {
		return &set{}
	}
	return &set{revision: v.ModRevision, raw: v.Value}
}

// entries returns the quotas. Most writes do not need them. A value that cannot be decoded means that nothing has been counted; the
// next correction replaces it.
func (s *set) entries() []entry {
	if s.raw != nil {
		if err := json.Unmarshal(s.raw, s); err != nil {
			s.Quotas = nil
		}
		s.raw = nil
	}
	return s.Quotas
}

// check returns the operation that requires the set to be unchanged.
func (s *set) check(namespace string) kv.Op {
	return kv.Op{Key: setKey(namespace), Check: true, Cond: kv.AtOrAbsent(s.revision), Revision: s.revision}
}

// put returns the operation that replaces the set, if it is unchanged. A set without quotas is not stored.
func (s *set) put(namespace string) kv.Op {
	op := s.check(namespace)
	if len(s.Quotas) == 0 {
		op.Check, op.Delete = s.revision == 0, s.revision != 0
		return op
	}
	op.Check = false
	op.Value, _ = json.Marshal(s) // it has only strings
	return op
}

// counted says whether the counter of a quota's resource is right.
func (s *set) counted(q *corev1.ResourceQuota, name corev1.ResourceName) bool {
	for _, e := range s.entries() {
		if e.Name == q.Name && e.UID == q.UID {
			_, found := slices.BinarySearch(e.Counted, name)
			return found
		}
	}
	return false
}

// changed returns the set after a write of a quota, nil if it stays as it is.
func (s *set) changed(before, after *corev1.ResourceQuota) *set {
	if before != nil && after != nil && apiequality.Semantic.DeepEqual(before.Spec, after.Spec) {
		return nil
	}
	next := &set{revision: s.revision}
	name := ""
	if before != nil {
		name = before.Name
	} else {
		name = after.Name
	}
	var had entry
	for _, e := range s.entries() {
		if e.Name != name {
			next.Quotas = append(next.Quotas, e)
		} else {
			had = e
		}
	}
	if after == nil {
		return next
	}
	e := entry{Name: name, UID: after.UID}
	if before != nil && had.UID == after.UID && apiequality.Semantic.DeepEqual(before.Spec.Scopes, after.Spec.Scopes) &&
		apiequality.Semantic.DeepEqual(before.Spec.ScopeSelector, after.Spec.ScopeSelector) {
		for _, r := range had.Counted {
			if _, still := after.Spec.Hard[r]; still {
				e.Counted = append(e.Counted, r)
			}
		}
	}
	next.Quotas = append(next.Quotas, e)
	return next
}
