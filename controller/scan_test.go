package controller_test

import (
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/daemonset"
	"github.com/kontiki/kontiki/controller/deployment"
	"github.com/kontiki/kontiki/controller/disruption"
	"github.com/kontiki/kontiki/controller/endpoints"
	"github.com/kontiki/kontiki/controller/replicaset"
	"github.com/kontiki/kontiki/controller/statefulset"
	"github.com/kontiki/kontiki/test/harness"
)

// The cost of controllers for one Deployment and one Service depends on the number of their pods only, however many others the
// namespace has.
func TestControllersDoNotScanTheNamespace(t *testing.T) {
	h, scans := harness.NewScanned(t, "pods", "replicasets")
	const others = 200
	for i := range others {
		controllertest.Create(t, h.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("other", i), Labels: map[string]string{"app": "other"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Other", Name: "other", UID: "other", Controller: new(true)}}},
			Spec: corev1.PodSpec{NodeName: "n2", Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
		of := map[string]string{"app": "other", "number": fmt.Sprint(i)}
		controllertest.Create(t, h.Client, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("other", i), Labels: of},
			Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(0)), Selector: &metav1.LabelSelector{MatchLabels: of}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: of},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}})
	}
	recorder := controllertest.NewRecorder()
	controllertest.Run(t, h.Client, append(disruption.New(h.Client, recorder), deployment.New(h.Client, recorder), replicaset.NewReplicaSets(h.Client, recorder),
		endpoints.New(h.Client), statefulset.New(h.Client, recorder), daemonset.New(h.Client, recorder))...)
	controllertest.StartKubelet(t, h.Client)
	controllertest.Create(t, h.Client, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}, Spec: corev1.ServiceSpec{Selector: app, Ports: []corev1.ServicePort{{Port: 80}}}})
	controllertest.Create(t, h.Client, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}, Spec: appsv1.DeploymentSpec{
		Selector: &metav1.LabelSelector{MatchLabels: app}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}})
	set := map[string]string{"app": "set"}
	controllertest.Create(t, h.Client, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}, Spec: appsv1.StatefulSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: set}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: set},
			Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}})
	half := intstr.FromString("50%")
	controllertest.Create(t, h.Client, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: app}, MaxUnavailable: &half}})
	// settled waits until all controllers have processed this number of pods.
	settled := func(replicas int32) {
		t.Helper()
		kinds := []client.Object{&appsv1.Deployment{}, &appsv1.StatefulSet{}, &discoveryv1.EndpointSlice{}, &policyv1.PodDisruptionBudget{}}
		controllertest.AwaitView(t, h.Client, kinds, func(v client.View) string {
			budget, _ := client.Get[*policyv1.PodDisruptionBudget](v, "default", "x")
			if s, _ := client.Get[*appsv1.StatefulSet](v, "default", "x"); s.Status.ReadyReplicas != *s.Spec.Replicas || budget.Status.ExpectedPods != replicas || budget.Status.CurrentHealthy != replicas {
				return fmt.Sprintf("%d pods of the stateful set are ready, the budget is %+v", s.Status.ReadyReplicas, budget.Status)
			}
			d, _ := client.Get[*appsv1.Deployment](v, "default", "x")
			routed := 0
			for _, s := range client.List[*discoveryv1.EndpointSlice](v, "default", nil) {
				routed += len(s.Endpoints)
			}
			if d.Status.ReadyReplicas != replicas || d.Status.Replicas != replicas || routed != int(replicas) {
				return fmt.Sprintf("%d replicas and %d endpoints, want %d: %+v", d.Status.ReadyReplicas, routed, replicas, d.Status)
			}
			return ""
		})
	}
	settled(1)
	for round := range 2 {
		for i, replicas := range []int32{4, 2} {
			controllertest.Create(t, h.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprintf("orphan-%d-%d", round, i), Labels: map[string]string{"app": "none"}},
				Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
			controllertest.Change(t, h.Client, "default", "x", func(d *appsv1.Deployment) { d.Spec.Replicas = &replicas })
			controllertest.Change(t, h.Client, "default", "x", func(s *appsv1.StatefulSet) { s.Spec.Replicas = &replicas })
			settled(replicas)
		}
		if round == 0 {
			scans.Reset() // all indexes are made
		}
	}
	if n := scans.Visited(); n >= others {
		t.Errorf("%d pods and ReplicaSets were visited for a dozen", n)
	}
}
