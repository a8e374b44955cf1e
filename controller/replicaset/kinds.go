package replicaset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// NewReplicaSets returns the controller of ReplicaSets.
func NewReplicaSets(c *client.Client, recorder record.EventRecorder) *controller.Controller {
	return newController(kind{
		name: "replicaset", gvk: appsv1.SchemeGroupVersion.WithKind("ReplicaSet"), empty: &appsv1.ReplicaSet{},
		get: func(v client.View, key controller.Key) (set, bool) {
			rs, ok := client.Get[*appsv1.ReplicaSet](v, key.Namespace, key.Name)
			if !ok {
				return set{}, false
			}
			return replicaSet(rs), true
		},
		each: func(v client.View, visit func(set) bool) {
			client.Each(v, "", func(rs *appsv1.ReplicaSet) bool { return visit(replicaSet(rs)) })
		},
		find: func(v client.View, keys []string) (out []set) {
			for _, rs := range replicaSetsBySelector.Any(v, keys...) {
				out = append(out, replicaSet(rs))
			}
			return out
		},
		update: updateReplicaSet,
	}, c, recorder)
}

func replicaSet(rs *appsv1.ReplicaSet) set {
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil || selector.Empty() {
		selector = labels.Nothing() // validation refuses such a selector
	}
	return set{Object: rs, selector: selector, template: &rs.Spec.Template, replicas: *rs.Spec.Replicas, minReady: rs.Spec.MinReadySeconds}
}

// Indexes of the sets by their selectors.
var (
	replicaSetsBySelector = client.NewIndex(func(rs *appsv1.ReplicaSet, add func(string)) {
		add(client.SelectorKey(rs.Namespace, replicaSet(rs).selector))
	})
	replicationControllersBySelector = client.NewIndex(func(rc *corev1.ReplicationController, add func(string)) {
		add(client.SelectorKey(rc.Namespace, replicationController(rc).selector))
	})
)

// byController finds ReplicaSets by the UID of the Deployment that controls them.
var byController = client.NewIndex(func(rs *appsv1.ReplicaSet, add func(string)) {
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil {
		add(string(ref.UID))
	}
})

func updateReplicaSet(ctx context.Context, c *client.Client, s set, st status) error {
	changed := s.Object.(*appsv1.ReplicaSet).DeepCopy()
	before := changed.Status.DeepCopy()
	out := &changed.Status
	out.Replicas, out.FullyLabeledReplicas, out.ReadyReplicas, out.AvailableReplicas = st.replicas, st.fullyLabeled, st.ready, st.available
	out.TerminatingReplicas = &st.terminating
	out.ObservedGeneration = changed.Generation
	failing := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	out.Conditions = withFailure(before.Conditions, failing, st, appsv1.ReplicaSetCondition{Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue,
		Reason: st.failureReason, Message: st.failure, LastTransitionTime: metav1.Now()})
	if apiequality.Semantic.DeepEqual(before, out) {
		return nil
	}
	_, err := client.UpdateStatus(ctx, c, changed)
	return err
}

// withFailure returns a set's conditions with the one that says that pods are refused, if they are. It keeps the first refusal:
// messages contain the pod's name, so each attempt's message would cause another write.
func withFailure[C any](before []C, failing func(C) bool, st status, failure C) (conditions []C) {
	for _, c := range before {
		if failing(c) {
			failure = c
		} else {
			conditions = append(conditions, c)
		}
	}
	if st.failure != "" {
		conditions = append(conditions, failure)
	}
	return conditions
}

// NewReplicationControllers returns the controller of ReplicationControllers.
func NewReplicationControllers(c *client.Client, recorder record.EventRecorder) *controller.Controller {
	return newController(kind{
		name: "replicationcontroller", gvk: corev1.SchemeGroupVersion.WithKind("ReplicationController"), empty: &corev1.ReplicationController{},
		get: func(v client.View, key controller.Key) (set, bool) {
			rc, ok := client.Get[*corev1.ReplicationController](v, key.Namespace, key.Name)
			if !ok {
				return set{}, false
			}
			return replicationController(rc), true
		},
		each: func(v client.View, visit func(set) bool) {
			client.Each(v, "", func(rc *corev1.ReplicationController) bool { return visit(replicationController(rc)) })
		},
		find: func(v client.View, keys []string) (out []set) {
			for _, rc := range replicationControllersBySelector.Any(v, keys...) {
				out = append(out, replicationController(rc))
			}
			return out
		},
		update: updateReplicationController,
	}, c, recorder)
}

func replicationController(rc *corev1.ReplicationController) set {
	selector := labels.Set(rc.Spec.Selector).AsSelectorPreValidated()
	if selector.Empty() {
		selector = labels.Nothing()
	}
	return set{Object: rc, selector: selector, template: rc.Spec.Template, replicas: *rc.Spec.Replicas, minReady: rc.Spec.MinReadySeconds}
}

func updateReplicationController(ctx context.Context, c *client.Client, s set, st status) error {
	changed := s.Object.(*corev1.ReplicationController).DeepCopy()
	before := changed.Status.DeepCopy()
	out := &changed.Status
	out.Replicas, out.FullyLabeledReplicas, out.ReadyReplicas, out.AvailableReplicas = st.replicas, st.fullyLabeled, st.ready, st.available
	out.ObservedGeneration = changed.Generation
	failing := func(c corev1.ReplicationControllerCondition) bool {
		return c.Type == corev1.ReplicationControllerReplicaFailure
	}
	out.Conditions = withFailure(before.Conditions, failing, st, corev1.ReplicationControllerCondition{Type: corev1.ReplicationControllerReplicaFailure, Status: corev1.ConditionTrue,
		Reason: st.failureReason, Message: st.failure, LastTransitionTime: metav1.Now()})
	if apiequality.Semantic.DeepEqual(before, out) {
		return nil
	}
	_, err := client.UpdateStatus(ctx, c, changed)
	return err
}
