package quota

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// stuckName is where a namespace's keys for stuck pods are.
const stuckName = ".stuck"

// stuckKey is the key that says that a pod no longer uses anything although it has not ended, because it should have: its node may be
// lost, and the pods that replace it need its room. The key is put in one command with the subtraction of what the pod used; writes of
// the pod require it to be as it was read, and its removal deletes it.
func stuckKey(namespace string, uid types.UID) string {
	return namespacePrefix(namespace) + stuckName + "/" + string(uid)
}

// StuckAt returns when a pod that is being deleted counts as stuck, as upstream has it: a grace period after the one that it got.
func StuckAt(pod *corev1.Pod) (time.Time, bool) {
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil || ended(pod) {
		return time.Time{}, false
	}
	return pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second), true
}

// isStuck says whether an object is a pod that counts as stuck, and returns the revision of its key.
func isStuck(view kv.View, obj runtime.Object) (revision uint64, stuck bool) {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.DeletionTimestamp == nil {
		return 0, false
	}
	v, stuck := view.Get(stuckKey(pod.Namespace, pod.UID))
	if stuck {
		revision = v.ModRevision
	}
	return revision, stuck
}

// ofStuck returns what a stuck pod uses: it exists.
func ofStuck() Usage { return Usage{countName(podsResource): 1000} }

// keepStuck returns the operation of a write of a pod that is being deleted: it requires the pod's key to be as it was read, and deletes
// it with the pod.
func keepStuck(view kv.View, pod *corev1.Pod, removed bool) kv.Op {
	revision, stuck := isStuck(view, pod)
	op := kv.Op{Key: stuckKey(pod.Namespace, pod.UID), Check: true, Cond: kv.AtOrAbsent(revision), Revision: revision}
	if removed && stuck {
		op.Check, op.Delete = false, true
	}
	return op
}

// Release subtracts what a pod uses from the counters of its namespace's quotas if it is stuck by now. It does nothing for a pod that has
// been released, has ended or is gone, or if there are no quotas.
func (c *Counters) Release(ctx context.Context, namespace, name string, now time.Time) error {
	kind, _ := c.objects.Kinds().ByGroupResource("", "pods")
	for {
		view, err := c.objects.Store().Consistent(ctx)
		if err != nil {
			return err
		}
		have := readSet(view, namespace)
		stored, ok := view.Get(kind.Key(namespace, name))
		if !ok || have.revision == 0 {
			return nil
		}
		obj, err := c.objects.Decode(kind, stored)
		if err != nil {
			return err
		}
		pod := obj.(*corev1.Pod)
		if at, terminating := StuckAt(pod); !terminating || now.Before(at) {
			return nil
		}
		if _, already := isStuck(view, pod); already {
			return nil
		}
		quotas, err := c.quotasOf(view, namespace)
		if err != nil {
			return err
		}
		ops := []kv.Op{
			{Key: stuckKey(namespace, pod.UID), Cond: kv.Absent}, have.check(namespace),
			{Key: stored.Key, Check: true, Cond: kv.AtRevision, Revision: stored.ModRevision},
		}
		used, left := pods.of(pod), ofStuck()
		for _, q := range quotas {
			if !pods.tracks(q, pod) {
				continue
			}
			for resource := range q.Spec.Hard {
				if difference := left[resource] - used[resource]; difference != 0 {
					ops = append(ops, kv.Op{Key: counterKey(namespace, q.Name, resource), Add: difference})
				}
			}
		}
		result, err := c.objects.Store().Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops})
		if err != nil {
			return fmt.Errorf("release what the stuck pod %s/%s uses of its quotas: %w", namespace, name, err)
		}
		if result.Failed == nil {
			return nil
		}
	}
}
