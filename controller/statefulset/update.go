package statefulset

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kontiki/kontiki/controller/history"
	"github.com/kontiki/kontiki/controller/owned"
	"github.com/kontiki/kontiki/controller/pods"
)

// burst limits how many pods one reconciliation creates, as upstream does. The next one goes on with the rest.
const burst = 500

// update is one reconciliation of a set.
type update struct {
	*reconciler
	ctx context.Context
	set *appsv1.StatefulSet
	at  time.Time

	// current is the revision of the pods before the present roll-out, next that of the set's template; both are the same when the
	// roll-out is complete.
	current, next *appsv1.ControllerRevision
	collisions    int32

	// replicas are the pods that the set is to have, by ordinal; condemned are the others, the highest ordinal first.
	replicas  map[int]*corev1.Pod
	condemned []*corev1.Pod

	mu            sync.Mutex
	created       []*corev1.Pod
	deleted       map[*corev1.Pod]bool
	nextAvailable time.Duration
}

// findRevisions finds the revisions, and records that of the template if it is new.
func (u *update) findRevisions(owner owned.Owner, revisions []*appsv1.ControllerRevision) (err error) {
	if u.set.Status.CollisionCount != nil {
		u.collisions = *u.set.Status.CollisionCount
	}
	u.next, u.collisions, err = history.Ensure(u.ctx, u.client, revisions, history.Wanted{
		Owner: owner, HashLabel: "controller.kubernetes.io/hash", Template: &u.set.Spec.Template, Collisions: u.collisions,
		Restored: func(template *corev1.PodTemplateSpec) {
			restored := &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Template: *template}}
			u.client.KindOf(restored).Codec.Default(restored)
			*template = restored.Spec.Template
		},
	})
	if err != nil {
		return err
	}
	u.current = u.next
	for _, revision := range revisions {
		if revision.Name == u.set.Status.CurrentRevision {
			u.current = revision
		}
	}
	return nil
}

// truncate deletes revisions beyond revisionHistoryLimit that no pod has.
func (u *update) truncate(revisions []*appsv1.ControllerRevision, claimed []*corev1.Pod) error {
	if u.set.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	used := map[string]bool{u.current.Name: true, u.next.Name: true}
	for _, pod := range claimed {
		used[revisionOf(pod)] = true
	}
	return history.Truncate(u.ctx, u.client, revisions, int(*u.set.Spec.RevisionHistoryLimit), func(revision *appsv1.ControllerRevision) bool { return used[revision.Name] })
}

// sort divides the set's pods into those that it is to have and the others.
func (u *update) sort(claimed []*corev1.Pod) {
	u.replicas, u.deleted = map[int]*corev1.Pod{}, map[*corev1.Pod]bool{}
	for _, pod := range claimed {
		if _, ordinal := ordinalOf(pod); inRange(u.set, ordinal) {
			u.replicas[ordinal] = pod
		} else {
			u.condemned = append(u.condemned, pod)
		}
	}
	slices.SortFunc(u.condemned, func(a, b *corev1.Pod) int {
		_, x := ordinalOf(a)
		_, y := ordinalOf(b)
		return cmp.Compare(y, x)
	})
}

func (u *update) ordered() bool {
	return u.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
}

// run brings the pods one step closer to what the set declares.
func (u *update) run() error {
	if u.set.DeletionTimestamp != nil {
		return nil
	}
	proceed := u.runParallel
	if u.ordered() {
		proceed = u.runOrdered
	}
	if settled, err := proceed(); !settled || err != nil || u.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return err
	}
	if u.ordered() {
		return u.rollOrdered()
	}
	return u.rollParallel()
}

// runOrdered creates, replaces and deletes one pod at a time: a pod is created when all before it are available, and condemned pods
// are deleted, in descending order, when all others are available. It returns true if nothing remains to be done.
func (u *update) runOrdered() (settled bool, err error) {
	for i := range int(*u.set.Spec.Replicas) {
		ordinal := first(u.set) + i
		pod := u.replicas[ordinal]
		if err := u.settle(pod, ordinal); err != nil || pod == nil || terminating(pod) || !u.runningAndAvailable(pod) {
			return false, err
		}
	}
	if err := u.retainCondemned(); err != nil || len(u.condemned) == 0 {
		return err == nil, err
	}
	pod := u.condemned[0]
	if terminating(pod) {
		return false, nil
	}
	// A pod that is not healthy blocks, except that the lowest of those may be deleted: waiting for it could take forever.
	if !u.runningAndAvailable(pod) && slices.ContainsFunc(u.condemned[1:], func(p *corev1.Pod) bool { return terminating(p) || !u.available(p) }) {
		return false, nil
	}
	return false, u.delete(pod)
}

// runParallel does all of that at once.
func (u *update) runParallel() (settled bool, err error) {
	ordinals := make([]int, 0, len(u.replicas)+burst)
	missing := 0
	for i := 0; i < int(*u.set.Spec.Replicas) && missing < burst; i++ {
		ordinal := first(u.set) + i
		if u.replicas[ordinal] == nil {
			missing++
		}
		ordinals = append(ordinals, ordinal)
	}
	if _, err := pods.SlowStart(ordinals, func(ordinal int) error { return u.settle(u.replicas[ordinal], ordinal) }); err != nil {
		return false, err
	}
	if err := u.retainCondemned(); err != nil {
		return false, err
	}
	_, err = pods.SlowStart(u.condemned, func(pod *corev1.Pod) error {
		if terminating(pod) {
			return nil
		}
		return u.delete(pod)
	})
	return err == nil, err
}

// settle creates the pod of an ordinal, deletes it if it has finished, so that another one will follow, or restores what belongs to
// it. pod is nil if there is none.
func (u *update) settle(pod *corev1.Pod, ordinal int) error {
	if pod == nil {
		return u.createOrdinal(ordinal)
	}
	if pods.Finished(pod) {
		if terminating(pod) {
			return nil
		}
		return u.delete(pod)
	}
	if pod.Status.Phase == corev1.PodPending {
		if err := u.createClaims(pod, ordinal); err != nil {
			return err
		}
		if err := u.retainClaims(pod, ordinal); err != nil {
			u.tellPod("Update", pod.Name, err)
			return err
		}
	}
	if u.ordered() && (terminating(pod) || !u.runningAndAvailable(pod)) {
		return nil
	}
	if identified(pod) && usesClaims(u.set, pod, ordinal) && u.claimsRetained(pod, ordinal) {
		return nil
	}
	return u.mend(pod, ordinal)
}

// createOrdinal creates a pod, at the revision that the roll-out prescribes for its ordinal.
func (u *update) createOrdinal(ordinal int) error {
	template, revision := &u.set.Spec.Template, u.next
	if u.keepsRevision(ordinal) && u.current.Name != u.next.Name {
		var err error
		if template, err = history.Template(u.current); err != nil {
			return err
		}
		revision = u.current
	}
	pod := newPod(u.set, template, revision.Name, ordinal)
	if u.staleClaim(pod, ordinal) {
		return nil // the end of the claim enqueues the set again
	}
	return u.create(pod, ordinal)
}

// keepsRevision says whether a pod of an ordinal is created at the current revision, not at the next.
func (u *update) keepsRevision(ordinal int) bool {
	if u.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType {
		return false
	}
	if u.set.Spec.UpdateStrategy.RollingUpdate == nil {
		return ordinal < first(u.set)+int(u.set.Status.CurrentReplicas)
	}
	return ordinal < first(u.set)+u.partition()
}

// retainCondemned prepares the claims of condemned pods before these are deleted.
func (u *update) retainCondemned() error {
	for _, pod := range u.condemned {
		_, ordinal := ordinalOf(pod)
		if u.claimsRetained(pod, ordinal) {
			continue
		}
		if err := u.retainClaims(pod, ordinal); err != nil {
			return err
		}
	}
	return nil
}

// partition returns how many of the pods, from the first, a roll-out leaves at their revision.
func (u *update) partition() int {
	rolling := u.set.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil || rolling.Partition == nil {
		return 0
	}
	return int(*rolling.Partition)
}

// maxUnavailable returns how many pods may be unavailable during a roll-out: at least one.
func (u *update) maxUnavailable() (int, error) {
	rolling := u.set.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil {
		return 1, nil
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(rolling.MaxUnavailable, intstr.FromInt32(1)), int(*u.set.Spec.Replicas), false)
	return max(n, 1), err
}

// outdated returns the pods that a roll-out is to replace, the highest ordinal first: those of another revision that are not yet
// being deleted, from the partition on.
func (u *update) outdated() (out []*corev1.Pod) {
	ordinals := make([]int, 0, len(u.replicas))
	for ordinal := range u.replicas {
		ordinals = append(ordinals, ordinal)
	}
	slices.Sort(ordinals)
	for _, ordinal := range slices.Backward(ordinals) {
		pod := u.replicas[ordinal]
		if ordinal >= first(u.set)+u.partition() && revisionOf(pod) != u.next.Name && !terminating(pod) && !u.deleted[pod] {
			out = append(out, pod)
		}
	}
	return out
}

// unavailable returns the number of replicas that are missing, being deleted or not available.
func (u *update) unavailable() int {
	n := int(*u.set.Spec.Replicas)
	for _, pod := range u.replicas {
		if u.available(pod) && !terminating(pod) {
			n--
		}
	}
	return n
}

// rollOrdered deletes outdated pods in descending order, as many as may be unavailable.
func (u *update) rollOrdered() error {
	most, err := u.maxUnavailable()
	if err != nil {
		return err
	}
	budget := most - u.unavailable()
	for _, pod := range u.outdated() {
		if budget <= 0 {
			return nil
		}
		if err := u.delete(pod); err != nil {
			return err
		}
		budget--
	}
	return nil
}

// rollParallel deletes all outdated pods that are not available, and then others, as many as may be unavailable: pods of a broken
// template must not use up the limit and so prevent their own replacement.
func (u *update) rollParallel() error {
	most, err := u.maxUnavailable()
	if err != nil {
		return err
	}
	budget := most - u.unavailable()
	outdated := u.outdated()
	for _, pod := range outdated {
		if !u.available(pod) {
			if err := u.delete(pod); err != nil {
				return err
			}
		}
	}
	for _, pod := range outdated {
		if budget <= 0 {
			return nil
		}
		if u.available(pod) {
			if err := u.delete(pod); err != nil {
				return err
			}
			budget--
		}
	}
	return nil
}

// available says whether a pod is available, and notes when one that is ready will be.
func (u *update) available(pod *corev1.Pod) bool {
	available, after := pods.Available(pod, u.set.Spec.MinReadySeconds, u.at)
	if after > 0 {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.nextAvailable == 0 || after < u.nextAvailable {
			u.nextAvailable = after
		}
	}
	return available
}

func (u *update) runningAndAvailable(pod *corev1.Pod) bool {
	return runningAndReady(pod) && u.available(pod)
}
