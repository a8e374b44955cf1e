package nodelifecycle

import (
	"cmp"
	"sync"

	"github.com/google/btree"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/controller"
)

// endedPods has the finished pods in the order in which they are to be deleted, so that surplus ones are found without visiting the
// others.
type endedPods struct {
	mu   sync.Mutex
	tree *btree.BTreeG[endedPod]
}

// endedPod has what the order depends on: evicted pods are deleted first, and then the oldest.
type endedPod struct {
	kept    bool // it was not evicted
	created int64
	key     controller.Key
}

func (a endedPod) before(b endedPod) bool {
	if a.kept != b.kept {
		return !a.kept
	}
	return cmp.Or(cmp.Compare(a.created, b.created), cmp.Compare(a.key.Name, b.key.Name), cmp.Compare(a.key.Namespace, b.key.Namespace)) < 0
}

func endedPodOf(p *corev1.Pod) endedPod {
	evicted := p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted"
	return endedPod{!evicted, p.CreationTimestamp.Unix(), controller.KeyOf(p)}
}

// reset removes all.
func (e *endedPods) reset() {
	const degree = 32
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tree = btree.NewG(degree, endedPod.before)
}

// follow applies a change of a pod, and returns the number of finished pods.
func (e *endedPods) follow(old, now *corev1.Pod) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if ended(old) {
		e.tree.Delete(endedPodOf(old))
	}
	if ended(now) {
		e.tree.ReplaceOrInsert(endedPodOf(now))
	}
	return e.tree.Len()
}

// beyond returns the pods to delete so that that many are kept.
func (e *endedPods) beyond(kept int) (keys []controller.Key) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tree.Ascend(func(p endedPod) bool {
		if e.tree.Len()-len(keys) <= kept {
			return false
		}
		keys = append(keys, p.key)
		return true
	})
	return keys
}
