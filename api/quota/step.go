package quota

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/kv"
)

// countPatience is how long a write waits for the counting of what exists, each time that the namespace's quotas have changed.
const countPatience = 2 * time.Second

// Step returns the admission step ResourceQuota. What is limited can be consumed only where a quota covers it.
func Step(limited []Limited) objects.Step {
	return objects.Step{Name: "ResourceQuota", Charge: func(ctx context.Context, a *objects.Attributes) error { return charge(ctx, a, limited) }}
}

// charge joins to a write's command the additions to the counters of the namespace's quotas.
func charge(ctx context.Context, a *objects.Attributes, limited []Limited) error {
	resource := a.Kind.Storage().GroupResource()
	if !a.Kind.Namespaced || slices.Contains(ignored, resource) {
		return nil
	}
	e := evaluatorFor(resource)
	update := a.Old != nil && a.Object != nil
	if update && !e.changes && resource != quotasResource {
		return nil
	}
	have := readSet(a.View, a.Namespace)
	op := have.check(a.Namespace)
	var self *corev1.ResourceQuota
	if resource == quotasResource {
		before, _ := a.Old.(*corev1.ResourceQuota)
		after, _ := a.Object.(*corev1.ResourceQuota)
		self = before
		if next := have.changed(before, after); next != nil {
			if before == nil && emptyBefore(a) {
				if err := countStaged(a, next, after); err != nil {
					return err
				}
			}
			op = next.put(a.Namespace)
		} else {
			return nil
		}
		if before == nil {
			a.Join(kv.Op{Key: createdKey(a.Namespace), Add: 1}, nil)
		}
	}
	a.Join(op, nil)
	if limited = limitedOf(limited, resource); a.Object == nil {
		limited = nil
	}
	if have.revision == 0 && len(limited) == 0 || update && !e.changes {
		return nil
	}
	w := &write{Attributes: a, evaluator: e, set: have, before: e.of(a.Old), after: e.of(a.Object)}
	if pod, ok := a.Old.(*corev1.Pod); ok && pod.DeletionTimestamp != nil {
		a.Join(keepStuck(a.View, pod, a.Object == nil), nil)
		if _, stuck := isStuck(a.View, pod); stuck {
			w.before = ofStuck()
			if w.after = (Usage{}); a.Object != nil {
				w.after = ofStuck()
			}
		}
	}
	covered := &coverage{map[corev1.ResourceName]bool{}, map[corev1.ResourceQuotaScope]bool{}}
	err := objects.EachStored(a, a.Namespace, func(q *corev1.ResourceQuota) bool {
		if len(limited) > 0 {
			w.cover(covered, q)
		}
		if self == nil || q.Name != self.Name {
			w.refused = w.charge(q)
		}
		return w.refused == nil
	})
	switch {
	case err != nil:
		return err
	case w.refused == nil:
		return w.uncovered(limited, covered)
	case w.unknown && a.AwaitChange(ctx, setKey(a.Namespace), countPatience):
		return objects.ErrPrepareAgain
	}
	return w.refused
}

// emptyBefore says whether a write is part of a transaction that creates its namespace: then nothing is in the namespace but what the
// transaction itself creates, also when the command is applied.
func emptyBefore(a *objects.Attributes) bool {
	staged, ok := a.View.(interface{ Base() kv.View })
	if !ok {
		return false
	}
	kind, ok := a.Service().Kinds().ByGroupResource("", "namespaces")
	if !ok {
		return false
	}
	_, existed := staged.Base().Get(kind.Key("", a.Namespace))
	return !existed
}

// countStaged joins the counters of a quota that is created together with its namespace: they are right from the beginning.
func countStaged(a *objects.Attributes, next *set, q *corev1.ResourceQuota) error {
	used, err := NewCounters(a.Service()).count(a.View, a.Namespace, []*corev1.ResourceQuota{q})
	if err != nil {
		return err
	}
	self := evaluatorFor(quotasResource)
	if self.tracks(q, q) {
		for name, n := range self.of(q) {
			used[0].add(name, n)
		}
	}
	e := &next.Quotas[len(next.Quotas)-1]
	for name := range q.Spec.Hard {
		e.Counted = append(e.Counted, name)
		if n := used[0][name]; n != 0 {
			a.Join(kv.Op{Key: counterKey(a.Namespace, q.Name, name), Add: n}, nil)
		}
	}
	slices.Sort(e.Counted)
	return nil
}

// write is a write that is charged.
type write struct {
	*objects.Attributes
	*evaluator
	set *set
	// before and after are what the object uses.
	before, after Usage
	refused       error
	// unknown means that it is refused because existing objects have not been counted yet.
	unknown bool
}

// addition is what a write adds to a counter of a quota.
type addition struct {
	name  corev1.ResourceName
	delta int64
	used  int64
}

// charge joins the additions to one quota's counters, or returns why the quota refuses the write.
func (w *write) charge(q *corev1.ResourceQuota) error {
	was, is := w.tracks(q, w.Old), w.tracks(q, w.Object)
	if is && (w.Old == nil || w.Subresource == "resize") {
		if missing := w.constraints(q); missing != "" {
			return w.Forbid("failed quota: %s: must specify %s", q.Name, missing)
		}
	}
	var adds []addition
	var unknown []string
	// Upstream does not limit what is reported about an object either.
	limited := w.Subresource != "status"
	for name := range q.Spec.Hard {
		delta := int64(0)
		if is {
			delta += w.after[name]
		}
		if was {
			delta -= w.before[name]
		}
		if delta == 0 {
			continue
		}
		v, _ := w.View.Get(counterKey(w.Namespace, q.Name, name))
		adds = append(adds, addition{name, delta, kv.Counter(v)})
		if limited && delta > 0 && !w.set.counted(q, name) {
			unknown = append(unknown, string(name))
		}
	}
	if len(unknown) > 0 {
		slices.Sort(unknown)
		w.unknown = true
		return w.Forbid("status unknown for quota: %s, resources: %s", q.Name, strings.Join(unknown, ","))
	}
	slices.SortFunc(adds, func(a, b addition) int { return strings.Compare(string(a.name), string(b.name)) })
	if limited {
		if err := w.exceeded(q, adds); err != nil {
			return err
		}
	}
	for i, add := range adds {
		op := kv.Op{Key: counterKey(w.Namespace, q.Name, add.name), Add: add.delta}
		if limited && add.delta > 0 {
			op.Cond, op.Most = kv.AtMost, milli(q.Spec.Hard[add.name])
		}
		w.Join(op, func(f *kv.Failure) error {
			now := slices.Clone(adds)
			now[i].used = f.Count
			if err := w.exceeded(q, now); err != nil {
				return err
			}
			return objects.ErrPrepareAgain
		})
	}
	return nil
}

// exceeded returns the error for additions of which some would exceed the quota; nil if none would.
func (w *write) exceeded(q *corev1.ResourceQuota, adds []addition) error {
	var requested, used, limits []string
	for _, add := range adds {
		hard := q.Spec.Hard[add.name]
		if add.delta <= 0 || kv.AddSaturated(add.used, add.delta) <= milli(hard) {
			continue
		}
		show := func(n int64) string {
			q := quantity(max(n, 0), hard.Format)
			return fmt.Sprintf("%s=%s", add.name, q.String())
		}
		requested, used = append(requested, show(add.delta)), append(used, show(add.used))
		limits = append(limits, fmt.Sprintf("%s=%s", add.name, hard.String()))
	}
	if requested == nil {
		return nil
	}
	return w.Forbid("exceeded quota: %s, requested: %s, used: %s, limited: %s", q.Name, strings.Join(requested, ","), strings.Join(used, ","), strings.Join(limits, ","))
}

// required are the resources that each container must specify if a quota limits them. Upstream calls it a mistake, and has not
// repeated it for other resources.
var required = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceMemory,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory}

// constraints returns what a pod's containers must specify and do not, "" if nothing.
func (w *write) constraints(q *corev1.ResourceQuota) string {
	pod, ok := w.Object.(*corev1.Pod)
	if !ok || pod.Spec.Resources != nil && (len(pod.Spec.Resources.Requests) > 0 || len(pod.Spec.Resources.Limits) > 0) {
		return ""
	}
	var missing []string
	for _, name := range required {
		if _, limited := q.Spec.Hard[name]; !limited {
			continue
		}
		var lacking []string
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for _, c := range list {
				u := Usage{}
				computeUsage(u, c.Resources.Requests, c.Resources.Limits)
				if _, has := u[name]; !has {
					lacking = append(lacking, c.Name)
				}
			}
		}
		if len(lacking) > 0 {
			slices.Sort(lacking)
			missing = append(missing, fmt.Sprintf("%s for: %s", name, strings.Join(slices.Compact(lacking), ",")))
		}
	}
	return strings.Join(missing, "; ")
}
