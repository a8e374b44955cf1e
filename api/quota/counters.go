package quota

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// Counters keeps the counters right, for the controller.
type Counters struct{ objects *objects.Service }

// NewCounters returns the counters in a service's store.
func NewCounters(s *objects.Service) *Counters { return &Counters{s} }

// maxCommandOps limits the operations of a command that corrects or deletes counters.
const maxCommandOps = 1000

// Mend makes the counters of a namespace's quotas equal to what exists (see the package's comment), and deletes counters that belong to
// no quota. It changes nothing if all is right.
func (c *Counters) Mend(ctx context.Context, namespace string) error {
	for {
		view, err := c.objects.Store().Consistent(ctx)
		if err != nil {
			return err
		}
		again, err := c.mendOnce(ctx, view, namespace)
		if err != nil || !again {
			return err
		}
	}
}

// mendOnce proposes one correction; again means that another one is needed, because the set has changed or because there is too much
// for one command.
func (c *Counters) mendOnce(ctx context.Context, view kv.View, namespace string) (again bool, err error) {
	have := readSet(view, namespace)
	quotas, err := c.quotasOf(view, namespace)
	if err != nil {
		return false, err
	}
	used, err := c.count(view, namespace, quotas)
	if err != nil {
		return false, err
	}
	next, ops := &set{revision: have.revision}, []kv.Op{}
	stored := map[string]int64{}
	prefix := namespacePrefix(namespace)
	view.Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool {
		if v.Key != setKey(namespace) {
			stored[v.Key] = kv.Counter(v)
		}
		return true
	})
	if len(quotas) > 0 { // without quotas nothing needs to be known about stuck pods; a new quota has them released again
		delete(stored, createdKey(namespace))
		for _, key := range c.stuckKeys(view, namespace) {
			delete(stored, key)
		}
	}
	right := true
	for i, q := range quotas {
		e := entry{Name: q.Name, UID: q.UID}
		for name := range q.Spec.Hard {
			e.Counted = append(e.Counted, name)
			right = right && have.counted(q, name)
			key := counterKey(namespace, q.Name, name)
			if difference := used[i][name] - stored[key]; difference != 0 {
				ops = append(ops, kv.Op{Key: key, Add: difference})
			}
			delete(stored, key)
		}
		slices.Sort(e.Counted)
		next.Quotas = append(next.Quotas, e)
	}
	for key := range stored {
		ops = append(ops, kv.Op{Key: key, Delete: true})
	}
	if right && len(ops) == 0 && len(have.entries()) == len(quotas) {
		return false, nil
	}
	if len(ops) > maxCommandOps { // the set says what is right only when all of it is
		ops, again = ops[:maxCommandOps], true
		next.Quotas = have.entries()
	}
	ops = append(ops, next.put(namespace))
	result, err := c.objects.Store().Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops})
	if err != nil {
		return false, fmt.Errorf("correct the counters of the quotas in namespace %s: %w", namespace, err)
	}
	return again || result.Failed != nil, nil
}

func (c *Counters) quotasOf(view kv.View, namespace string) (quotas []*corev1.ResourceQuota, err error) {
	kind, ok := c.objects.Kinds().ByGroupResource("", "resourcequotas")
	if !ok {
		return nil, errors.New("resourcequotas are not served")
	}
	err = c.each(view, kind, namespace, func(obj registry.Object) { quotas = append(quotas, obj.(*corev1.ResourceQuota)) })
	return quotas, err
}

func (c *Counters) each(view kv.View, kind *registry.Kind, namespace string, visit func(registry.Object)) (err error) {
	prefix := kind.NamespacePrefix(namespace)
	view.Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool {
		var obj registry.Object
		if obj, err = c.objects.Decode(kind, v); err != nil {
			err = fmt.Errorf("count %s: %w", v.Key, err)
			return false
		}
		visit(obj)
		return true
	})
	return err
}

// stuckKeys returns the keys for the stuck pods that exist.
func (c *Counters) stuckKeys(view kv.View, namespace string) (keys []string) {
	prefix := namespacePrefix(namespace) + stuckName + "/"
	if view.Count(prefix, kv.PrefixEnd(prefix)) == 0 {
		return nil
	}
	if kind, ok := c.objects.Kinds().ByGroupResource("", "pods"); ok {
		_ = c.each(view, kind, namespace, func(obj registry.Object) { // an error has stopped the counting before
			if _, stuck := isStuck(view, obj); stuck {
				keys = append(keys, stuckKey(namespace, obj.GetUID()))
			}
		})
	}
	return keys
}

// count returns what the namespace's objects use of each quota.
func (c *Counters) count(view kv.View, namespace string, quotas []*corev1.ResourceQuota) ([]Usage, error) {
	used := make([]Usage, len(quotas))
	for i := range used {
		used[i] = Usage{}
	}
	for _, kind := range c.objects.Kinds().Kinds() {
		if kind.Form != 0 || !kind.Namespaced || !kind.Stored() || slices.Contains(ignored, kind.GroupResource()) {
			continue
		}
		e := evaluatorFor(kind.GroupResource())
		if !slices.ContainsFunc(quotas, func(q *corev1.ResourceQuota) bool {
			for name := range q.Spec.Hard {
				if e.matches(name) {
					return true
				}
			}
			return false
		}) {
			continue
		}
		err := c.each(view, kind, namespace, func(obj registry.Object) {
			all := e.of(obj)
			if _, stuck := isStuck(view, obj); stuck {
				all = ofStuck()
			}
			for i, q := range quotas {
				if !e.tracks(q, obj) {
					continue
				}
				for name, n := range all {
					if _, limited := q.Spec.Hard[name]; limited {
						used[i].add(name, n)
					}
				}
			}
		})
		if err != nil {
			return nil, err
		}
	}
	return used, nil
}

// Status returns a quota's status according to its counters; ok is false while they have not been counted.
func (c *Counters) Status(view kv.View, q *corev1.ResourceQuota) (status corev1.ResourceQuotaStatus, ok bool) {
	have := readSet(view, q.Namespace)
	status = corev1.ResourceQuotaStatus{Hard: q.Spec.Hard.DeepCopy(), Used: corev1.ResourceList{}}
	for name, hard := range q.Spec.Hard {
		if !have.counted(q, name) {
			return status, false
		}
		v, _ := view.Get(counterKey(q.Namespace, q.Name, name))
		status.Used[name] = quantity(max(kv.Counter(v), 0), hard.Format)
	}
	return status, true
}

// Namespaces returns the namespaces that have keys of quotas.
func (c *Counters) Namespaces(view kv.View) (names []string) {
	for start := Prefix; ; {
		found := false
		view.Range(start, kv.PrefixEnd(Prefix), func(v *kv.Version) bool {
			namespace, _, _ := splitKey(v.Key)
			names, start, found = append(names, namespace), kv.PrefixEnd(namespacePrefix(namespace)), true
			return false
		})
		if !found {
			return names
		}
	}
}

// Follow calls changed with the changes of counters, until the context ends: each time with the quotas whose counters have changed or become right, as
// namespace/name. It ends with kv.ErrCompacted when it falls behind.
func (c *Counters) Follow(ctx context.Context, after uint64, changed func(quotas []string)) error {
	watcher, err := c.objects.Store().Watch(Prefix, after)
	if err != nil {
		return err
	}
	defer watcher.Close()
	for {
		events, _, err := watcher.Next(ctx)
		if err != nil {
			return err
		}
		var quotas []string
		for _, event := range events {
			namespace, quota, _ := splitKey(event.Current.Key)
			if quota != "" {
				quotas = append(quotas, namespace+"/"+quota)
			} else if event.Current.Key == setKey(namespace) {
				for _, e := range (&set{raw: event.Current.Value}).entries() {
					quotas = append(quotas, namespace+"/"+e.Name)
				}
			}
		}
		slices.SortFunc(quotas, strings.Compare)
		if quotas = slices.Compact(quotas); len(quotas) > 0 {
			changed(quotas)
		}
	}
}
