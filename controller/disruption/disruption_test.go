package disruption_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/deployment"
	"github.com/kontiki/kontiki/controller/disruption"
	"github.com/kontiki/kontiki/controller/pods"
	"github.com/kontiki/kontiki/controller/replicaset"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *controllertest.Recorder
	kubelet  *controllertest.Kubelet
	clock    *controllertest.Clock
}

func start(t testing.TB, options ...controllertest.Option) *bed {
	t.Helper()
	b := &bed{Harness: harness.New(t), t: t, recorder: controllertest.NewRecorder(), clock: controllertest.NewClock(time.Now())}
	b.kubelet = controllertest.StartKubelet(t, b.Client, options...)
	silent := controllertest.NewRecorder()
	controllertest.Run(t, b.Client, append(disruption.NewWithClock(b.Client, b.recorder, b.clock.Now),
		deployment.New(b.Client, silent), replicaset.NewReplicaSets(b.Client, silent), replicaset.NewReplicationControllers(b.Client, silent))...)
	return b
}

var app = map[string]string{"app": "x"}

var template = corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}}

func deploy(replicas int32) *appsv1.Deployment {
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d"},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template}}
}

func budget(name string, change func(*policyv1.PodDisruptionBudgetSpec)) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: app}}}
	change(&b.Spec)
	return b
}

func atLeast(n intstr.IntOrString) func(*policyv1.PodDisruptionBudgetSpec) {
	return func(s *policyv1.PodDisruptionBudgetSpec) { s.MinAvailable = &n }
}

func atMost(n intstr.IntOrString) func(*policyv1.PodDisruptionBudgetSpec) {
	return func(s *policyv1.PodDisruptionBudgetSpec) { s.MaxUnavailable = &n }
}

// await waits until a budget's status is "current/desired of expected, allowed", with a condition that agrees.
func (b *bed) await(name, want string) *policyv1.PodDisruptionBudget {
	b.t.Helper()
	return controllertest.Await(b.t, b.Client, "default", name, want, func(p *policyv1.PodDisruptionBudget) bool {
		s := p.Status
		c := meta.FindStatusCondition(s.Conditions, policyv1.DisruptionAllowedCondition)
		reason, status := policyv1.InsufficientPodsReason, metav1.ConditionFalse
		if s.DisruptionsAllowed > 0 {
			reason, status = policyv1.SufficientPodsReason, metav1.ConditionTrue
		}
		return fmt.Sprintf("%d/%d of %d, %d", s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, s.DisruptionsAllowed) == want &&
			s.ObservedGeneration == p.Generation && c != nil && c.Reason == reason && c.Status == status
	})
}

func TestBudgetsOfADeployment(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, deploy(4))
	for i, c := range []struct {
		spec   func(*policyv1.PodDisruptionBudgetSpec)
		at4    string
		at10   string
		noPods string
	}{
		{atLeast(intstr.FromInt32(3)), "4/3 of 4, 1", "10/3 of 10, 7", "0/3 of 0, 0"},
		{atLeast(intstr.FromString("30%")), "4/2 of 4, 2", "10/3 of 10, 7", "0/0 of 0, 0"},
		{atMost(intstr.FromInt32(1)), "4/3 of 4, 1", "10/9 of 10, 1", "0/0 of 0, 0"},
		{atMost(intstr.FromString("30%")), "4/2 of 4, 2", "10/7 of 10, 3", "0/0 of 0, 0"},
		{atMost(intstr.FromInt32(0)), "4/4 of 4, 0", "10/10 of 10, 0", "0/0 of 0, 0"},
		{func(*policyv1.PodDisruptionBudgetSpec) {}, "4/0 of 0, 0", "10/0 of 0, 0", "0/0 of 0, 0"},
	} {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			name := fmt.Sprint("pdb-", i)
			size := func(n int32) {
				controllertest.Change(t, b.Client, "default", "d", func(d *appsv1.Deployment) { d.Spec.Replicas = &n })
			}
			size(4)
			controllertest.Create(t, b.Client, budget(name, c.spec))
			b.await(name, c.at4)
			size(10)
			b.await(name, c.at10)
			size(0)
			b.await(name, c.noPods)
			if err := b.Client.Delete(context.Background(), budget(name, c.spec)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestTheSizeOfAWorkloadCounts: not the number of its pods, which may not have been created. Nothing creates any for the set here.
func TestTheSizeOfAWorkloadCounts(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, budget("pdb", atMost(intstr.FromInt32(1))))
	three := int32(3)
	set := controllertest.Create(t, b.Client, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.StatefulSetSpec{Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template}})
	controllertest.Create(t, b.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-0", Labels: app,
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))}}, Spec: template.Spec})
	b.await("pdb", "1/2 of 3, 0")
	controllertest.Change(t, b.Client, "default", "web", func(set *appsv1.StatefulSet) {
		one := int32(1)
		set.Spec.Replicas = &one
	})
	b.await("pdb", "1/0 of 1, 1")
}

func TestPodsOfOthers(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, budget("number", atLeast(intstr.FromInt32(1))))
	controllertest.Create(t, b.Client, budget("percent", atLeast(intstr.FromString("50%"))))
	b.await("number", "0/1 of 0, 0")
	b.recorder.Await(t, "Normal NoPods No matching pods found")
	three := int32(3)
	controllertest.Create(t, b.Client, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "rc"},
		Spec: corev1.ReplicationControllerSpec{Replicas: &three, Selector: app, Template: template.DeepCopy()}})
	b.await("percent", "3/2 of 3, 1")
	// A pod that no workload has: it counts only where the number of pods does not.
	lone := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "lone", Labels: map[string]string{"lone": "yes"}}, Spec: template.Spec}
	controllertest.Create(t, b.Client, lone)
	controllertest.Create(t, b.Client, budget("lone", func(s *policyv1.PodDisruptionBudgetSpec) {
		atMost(intstr.FromInt32(1))(s)
		s.Selector.MatchLabels = map[string]string{"lone": "yes"}
	}))
	b.recorder.Await(t, "Warning UnmanagedPods Pods selected by this PodDisruptionBudget (selector: ")
	b.await("lone", "1/0 of 0, 0")
	// One of a workload without a size: nothing may be disrupted, and the reason is told.
	yes := true
	job := lone.DeepCopy()
	job.ObjectMeta = metav1.ObjectMeta{Namespace: "default", Name: "job", Labels: map[string]string{"lone": "yes"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: "j", UID: "j", Controller: &yes}}}
	controllertest.Create(t, b.Client, job)
	controllertest.Await(t, b.Client, "default", "lone", "a failure", func(p *policyv1.PodDisruptionBudget) bool {
		c := meta.FindStatusCondition(p.Status.Conditions, policyv1.DisruptionAllowedCondition)
		return p.Status.DisruptionsAllowed == 0 && c != nil && c.Reason == policyv1.SyncFailedReason && c.Message == "jobs.batch does not implement the scale subresource"
	})
	b.recorder.Await(t, "Warning CalculateExpectedPodCountFailed")
}

// TestSelectors: an empty one selects all pods, none at all selects none.
func TestSelectors(t *testing.T) {
	b := start(t)
	one := atLeast(intstr.FromInt32(1))
	controllertest.Create(t, b.Client, budget("all", func(s *policyv1.PodDisruptionBudgetSpec) { one(s); s.Selector = &metav1.LabelSelector{} }))
	controllertest.Create(t, b.Client, budget("none", func(s *policyv1.PodDisruptionBudgetSpec) { one(s); s.Selector = nil }))
	controllertest.Create(t, b.Client, budget("exists", func(s *policyv1.PodDisruptionBudgetSpec) {
		one(s)
		s.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpExists}}}
	}))
	// The pods come after the budgets, when the controller runs: it tells of budgets when a pod appears.
	for _, name := range []string{"all", "none", "exists"} {
		b.await(name, "0/1 of 0, 0")
	}
	controllertest.Create(t, b.Client, deploy(2))
	b.await("all", "2/1 of 2, 1")
	b.await("none", "0/1 of 0, 0")
	b.await("exists", "2/1 of 2, 1")
	b.recorder.Await(t, "Warning MultiplePodDisruptionBudgets Pod ")
	// A pod that changes its labels leaves one budget.
	pod := client.List[*corev1.Pod](b.Client.View(), "default", nil)[0]
	b.kubelet.Set(controllertest.Bad(func(*corev1.Pod) bool { return true })) // its successor is not ready
	controllertest.Change(t, b.Client, "default", pod.Name, func(p *corev1.Pod) { p.Labels = nil })
	b.await("exists", "1/1 of 2, 0")
	b.await("all", "2/1 of 3, 1")
}

func (b *bed) evict(name string) error {
	return b.Clientset().PolicyV1().Evictions("default").Evict(context.Background(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
}

func TestEvictionsAreLimited(t *testing.T) {
	b := start(t)
	b.Serve()
	controllertest.Create(t, b.Client, deploy(3))
	controllertest.Create(t, b.Client, budget("pdb", atMost(intstr.FromInt32(1))))
	b.await("pdb", "3/2 of 3, 1")
	b.kubelet.Set(controllertest.Bad(func(*corev1.Pod) bool { return true })) // no successor is ready
	all := client.List[*corev1.Pod](b.Client.View(), "default", nil)
	if err := b.evict(all[0].Name); err != nil {
		t.Fatal(err)
	}
	b.await("pdb", "2/2 of 3, 0")
	if err := b.evict(all[1].Name); !apierrors.IsTooManyRequests(err) {
		t.Errorf("a second eviction: %v", err)
	}
	// The successor may not exist yet, or the kubelet may not have looked at it.
	b.kubelet.Set(controllertest.Bad(func(*corev1.Pod) bool { return false }))
	await.That(t, "three ready pods", func() error {
		all, ready := client.List[*corev1.Pod](b.Client.View(), "default", nil), 0
		for _, p := range all {
			if pods.Ready(p) {
				ready++
				continue
			}
			controllertest.ChangeStatus(t, b.Client, "default", p.Name, func(p *corev1.Pod) { controllertest.MakeReady(p, true) })
		}
		if ready < 3 {
			return fmt.Errorf("%d of %d pods are ready", ready, len(all))
		}
		return nil
	})
	got := b.await("pdb", "3/2 of 3, 1")
	if len(got.Status.DisruptedPods) != 0 {
		t.Errorf("disrupted pods %v", got.Status.DisruptedPods)
	}
	if err := b.evict(all[1].Name); err != nil {
		t.Error(err)
	}
}

// TestEvictionsWithoutEffectAreForgotten: a pod that was not deleted counts again, and its condition is reset.
func TestEvictionsWithoutEffectAreForgotten(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, deploy(2))
	controllertest.Create(t, b.Client, budget("pdb", atMost(intstr.FromInt32(1))))
	b.await("pdb", "2/1 of 2, 1")
	pod := client.List[*corev1.Pod](b.Client.View(), "default", nil)[0]
	controllertest.ChangeStatus(t, b.Client, "default", "pdb", func(p *policyv1.PodDisruptionBudget) {
		p.Status.DisruptedPods = map[string]metav1.Time{pod.Name: metav1.NewTime(b.clock.Now())}
	})
	controllertest.ChangeStatus(t, b.Client, "default", pod.Name, func(p *corev1.Pod) {
		client.SetPodCondition(p, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "EvictionByEvictionAPI", LastTransitionTime: metav1.NewTime(b.clock.Now())})
	})
	b.await("pdb", "1/1 of 2, 0")
	b.clock.Advance(3 * time.Minute)
	controllertest.Change(t, b.Client, "default", pod.Name, func(p *corev1.Pod) { p.Annotations = map[string]string{"wake": "up"} }) // the queue's clock is real
	if got := b.await("pdb", "2/1 of 2, 1"); len(got.Status.DisruptedPods) != 0 {
		t.Errorf("disrupted pods %v", got.Status.DisruptedPods)
	}
	b.recorder.Await(t, "Warning NotDeleted Pod was expected by PDB default/pdb to be deleted but it wasn't")
	controllertest.Await(t, b.Client, "default", pod.Name, "its condition to be reset", func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.DisruptionTarget {
				return c.Status == corev1.ConditionFalse && c.Reason == ""
			}
		}
		return false
	})
	if events := strings.Join(b.recorder.Events("Warning"), "\n"); strings.Contains(events, "Unmanaged") {
		t.Error(events)
	}
}
