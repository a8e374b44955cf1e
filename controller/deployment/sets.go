package deployment

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/owned"
	"github.com/kontiki/kontiki/controller/pods"
)

// Annotations of ReplicaSets and Deployments that kubectl reads.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// observedConfigAnnotation is controller/configrollout's record of what it did last with the deployment itself.
const observedConfigAnnotation = "kontiki.io/config-observed"

// unshared are the annotations of a deployment that are not copied to its sets.
var unshared = []string{corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation, desiredAnnotation, maxAnnotation,
	appsv1.DeprecatedRollbackTo, rolledOutAnnotation, rolledBackAnnotation, observedConfigAnnotation}

var byController = owned.NewIndex[*appsv1.ReplicaSet]()

// claim returns copies of the ReplicaSets that the deployment controls, oldest first; it adopts orphans that match and releases
// sets that no longer match.
func (r *reconciler) claim(ctx context.Context, v client.View, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	claimed, err := byController.Claim(ctx, r.client, v, owned.Owner{Object: d, Kind: gvk, Selector: selectorOf(d)}, owned.Rules[*appsv1.ReplicaSet]{})
	if err != nil {
		return nil, err
	}
	sets := make([]*appsv1.ReplicaSet, len(claimed))
	for i, stored := range claimed {
		sets[i] = stored.DeepCopy()
	}
	slices.SortFunc(sets, byAge)
	return sets, nil
}

func byAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// findCurrent finds the set of the present template: the oldest one if there are several.
func (ro *rollout) findCurrent() {
	ro.current = nil
	for _, rs := range ro.sets {
		if sameTemplate(&rs.Spec.Template, &ro.d.Spec.Template) {
			ro.current = rs
			return
		}
	}
}

func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	x, y := a.DeepCopy(), b.DeepCopy()
	delete(x.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(y.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return apiequality.Semantic.DeepEqual(x, y)
}

// old returns all sets except the current one, oldest first.
func (ro *rollout) old() (out []*appsv1.ReplicaSet) {
	for _, rs := range ro.sets {
		if rs != ro.current {
			out = append(out, rs)
		}
	}
	return out
}

func (ro *rollout) active(sets []*appsv1.ReplicaSet) (out []*appsv1.ReplicaSet) {
	for _, rs := range sets {
		if *rs.Spec.Replicas > 0 {
			out = append(out, rs)
		}
	}
	return out
}

func total(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += *rs.Spec.Replicas
	}
	return n
}

// limits returns maxSurge and maxUnavailable as numbers. If both are 0, it allows one unavailable pod, because the roll-out would
// otherwise never end.
func (ro *rollout) limits() (surge, unavailable int32) {
	return limits(ro.d)
}

func limits(d *appsv1.Deployment) (surge, unavailable int32) {
	rolling := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || rolling == nil {
		return 0, 0
	}
	replicas := int(*d.Spec.Replicas)
	if replicas == 0 {
		return scaled(rolling.MaxSurge, 0, true), 0
	}
	surge = scaled(rolling.MaxSurge, replicas, true)
	unavailable = scaled(rolling.MaxUnavailable, replicas, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, int32(replicas))
}

func scaled(v *intstr.IntOrString, of int, up bool) int32 {
	n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), of, up)
	if err != nil {
		return 0 // validation refuses such a value
	}
	return int32(n)
}

// errNamespaceEnds means that no set can be created any more, since the namespace is being deleted. A retry would not help.
var errNamespaceEnds = errors.New("the namespace is being deleted")

// ensureRevision updates the current set's annotations, or creates the set if create is true and it is missing.
func (ro *rollout) ensureRevision(create bool) error {
	revision := int64(1)
	for _, rs := range ro.old() {
		revision = max(revision, revisionOf(rs)+1)
	}
	if ro.current == nil {
		if !create {
			return nil
		}
		if err := ro.createSet(revision); err != nil {
			return err
		}
	} else if err := ro.adoptAnnotations(revision); err != nil {
		return err
	}
	if current := strconv.FormatInt(max(revision, revisionOf(ro.current)), 10); ro.d.Annotations[revisionAnnotation] != current {
		if ro.d.Annotations == nil {
			ro.d.Annotations = map[string]string{}
		}
		ro.d.Annotations[revisionAnnotation] = current
		updated, err := client.Update(ro.ctx, ro.client, ro.d.DeepCopy())
		if err != nil {
			return err
		}
		noted := ro.d.Status // later changes are written with the status
		ro.d = updated.DeepCopy()
		ro.d.Status = noted
	}
	return nil
}

// adoptAnnotations copies the deployment's annotations, the revision and minReadySeconds to the current set.
func (ro *rollout) adoptAnnotations(revision int64) error {
	rs := ro.current
	changed := copyAnnotations(rs, ro.d)
	if have := revisionOf(rs); have < revision {
		if have > 0 {
			// A roll-back: add the revision that the set had before to its history.
			rs.Annotations[historyAnnotation] = withRevision(rs.Annotations[historyAnnotation], have)
		}
		rs.Annotations[revisionAnnotation] = strconv.FormatInt(revision, 10)
		changed = true
	}
	if rs.Spec.MinReadySeconds != ro.d.Spec.MinReadySeconds {
		rs.Spec.MinReadySeconds = ro.d.Spec.MinReadySeconds
		changed = true
	}
	if !changed {
		return nil
	}
	updated, err := client.Update(ro.ctx, ro.client, rs.DeepCopy())
	if err != nil {
		return err
	}
	*rs = *updated.DeepCopy()
	return nil
}

// longestHistory limits the length of the annotation that lists a set's earlier revisions, as upstream does.
const longestHistory = 2000

// withRevision returns a list of revisions with another one, without the oldest if it would be too long.
func withRevision(history string, revision int64) string {
	added := strconv.FormatInt(revision, 10)
	if history == "" {
		return added
	}
	for history += "," + added; len(history) > longestHistory; {
		_, history, _ = strings.Cut(history, ",")
	}
	return history
}

func copyAnnotations(rs *appsv1.ReplicaSet, d *appsv1.Deployment) (changed bool) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for name, value := range d.Annotations {
		if have, ok := rs.Annotations[name]; slices.Contains(unshared, name) || (ok && have == value) {
			continue
		}
		rs.Annotations[name] = value
		changed = true
	}
	return changed
}

func revisionOf(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func byRevision(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	sorted := slices.Clone(sets)
	slices.SortStableFunc(sorted, func(a, b *appsv1.ReplicaSet) int { return cmp.Compare(revisionOf(a), revisionOf(b)) })
	return sorted
}

func annotationNumber(rs *appsv1.ReplicaSet, name string) (int32, bool) {
	n, err := strconv.ParseInt(rs.Annotations[name], 10, 32)
	return int32(n), err == nil
}

func setSizes(rs *appsv1.ReplicaSet, desired, most int32) (changed bool) {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for name, n := range map[string]int32{desiredAnnotation: desired, maxAnnotation: most} {
		if value := strconv.Itoa(int(n)); rs.Annotations[name] != value {
			rs.Annotations[name] = value
			changed = true
		}
	}
	return changed
}

// createSet creates the set of the present template. Its name contains a hash of the template; if another set has that name,
// another hash is used.
func (ro *rollout) createSet(revision int64) error {
	for {
		hash, err := templateHash(&ro.d.Spec.Template, ro.d.Status.CollisionCount)
		if err != nil {
			return err
		}
		rs := ro.newSet(hash, revision)
		size := *rs.Spec.Replicas
		created, err := client.Create(ro.ctx, ro.client, rs)
		switch {
		case err == nil:
			ro.current = created.DeepCopy()
			ro.sets = append(ro.sets, ro.current)
			if size > 0 {
				ro.tellScaled(ro.current, 0, size)
			}
			ro.tellProgress("NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", created.Name))
			return nil
		case apierrors.IsAlreadyExists(err):
			if err := ro.countCollision(); err != nil {
				return err
			}
		case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			return errNamespaceEnds
		default:
			ro.recorder.Eventf(ro.d, corev1.EventTypeWarning, "ReplicaSetCreateError", "Failed to create new replica set %q: %v", rs.Name, err)
			if _, ok := deadline(ro.d); ok {
				setCondition(&ro.d.Status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError",
					fmt.Sprintf("Failed to create new replica set %q: %v", rs.Name, err)))
				if _, statusErr := client.UpdateStatus(ro.ctx, ro.client, ro.d.DeepCopy()); statusErr != nil {
					return statusErr
				}
			}
			return err
		}
	}
}

func (ro *rollout) newSet(hash string, revision int64) *appsv1.ReplicaSet {
	template := ro.d.Spec.Template.DeepCopy()
	template.Labels = with(template.Labels, hash)
	selector := ro.d.Spec.Selector.DeepCopy()
	selector.MatchLabels = with(selector.MatchLabels, hash)
	surge, _ := ro.limits()
	size := ro.newSize(nil)
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: ro.d.Namespace, Name: setName(ro.d.Name, hash), Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ro.d, gvk)},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: &size, MinReadySeconds: ro.d.Spec.MinReadySeconds, Selector: selector, Template: *template},
	}
	copyAnnotations(rs, ro.d)
	rs.Annotations[revisionAnnotation] = strconv.FormatInt(revision, 10)
	setSizes(rs, *ro.d.Spec.Replicas, *ro.d.Spec.Replicas+surge)
	return rs
}

// setName returns the name of a deployment's set, with as much of the deployment's name as is allowed.
func setName(deployment, hash string) string {
	return deployment[:min(len(deployment), validation.DNS1123SubdomainMaxLength-len(hash)-1)] + "-" + hash
}

func with(labels map[string]string, hash string) map[string]string {
	out := maps.Clone(labels)
	if out == nil {
		out = map[string]string{}
	}
	out[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return out
}

// templateHash returns a short hash that is safe in names (it has no vowels, so it forms no words).
func templateHash(template *corev1.PodTemplateSpec, collisions *int32) (string, error) {
	encoded, err := json.Marshal(template)
	if err != nil {
		return "", err
	}
	h := fnv.New32a()
	h.Write(encoded)
	if collisions != nil {
		fmt.Fprintf(h, "/%d", *collisions)
	}
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10)), nil
}

func (ro *rollout) countCollision() error {
	n := int32(1)
	if ro.d.Status.CollisionCount != nil {
		n = *ro.d.Status.CollisionCount + 1
	}
	ro.d.Status.CollisionCount = &n
	updated, err := client.UpdateStatus(ro.ctx, ro.client, ro.d.DeepCopy())
	if err != nil {
		return err
	}
	ro.d = updated.DeepCopy()
	return nil
}

// runningPods says whether a pod of one of the sets has not finished.
func runningPods(v client.View, sets []*appsv1.ReplicaSet) bool {
	owners := make([]types.UID, len(sets))
	for i, rs := range sets {
		owners[i] = rs.UID
	}
	return slices.ContainsFunc(pods.Controlled(v, owners...), func(pod *corev1.Pod) bool { return !pods.Finished(pod) })
}
