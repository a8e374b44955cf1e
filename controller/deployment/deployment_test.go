package deployment_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/deployment"
	"github.com/kontiki/kontiki/controller/pods"
	"github.com/kontiki/kontiki/controller/replicaset"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *controllertest.Recorder
	kubelet  *controllertest.Kubelet
}

func start(t testing.TB, options ...controllertest.Option) *bed {
	t.Helper()
	b := &bed{Harness: harness.New(t), t: t, recorder: controllertest.NewRecorder()}
	b.kubelet = controllertest.StartKubelet(t, b.Client, options...)
	controllertest.Run(t, b.Client, deployment.New(b.Client, b.recorder), replicaset.NewReplicaSets(b.Client, b.recorder))
	return b
}

var app = map[string]string{"app": "x"}

// deploy returns a deployment named d whose image is v1.
func deploy(replicas int32, change ...func(*appsv1.Deployment)) *appsv1.Deployment {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d"}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: app},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}},
	}}
	for _, c := range change {
		c(d)
	}
	return d
}

func rolling(surge, unavailable intstr.IntOrString) func(*appsv1.Deployment) {
	return func(d *appsv1.Deployment) {
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}}
	}
}

func (b *bed) change(change func(*appsv1.Deployment)) *appsv1.Deployment {
	b.t.Helper()
	return controllertest.Change(b.t, b.Client, "default", "d", change)
}

func (b *bed) image(image string) *appsv1.Deployment {
	b.t.Helper()
	return b.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
}

func (b *bed) await(what string, holds func(*appsv1.Deployment) bool) *appsv1.Deployment {
	b.t.Helper()
	return controllertest.Await(b.t, b.Client, "default", "d", what, holds)
}

// complete waits until the deployment is rolled out, by its status.
func (b *bed) complete() *appsv1.Deployment {
	b.t.Helper()
	return b.await("completion", func(d *appsv1.Deployment) bool {
		want := *d.Spec.Replicas
		c := conditionOf(d, appsv1.DeploymentProgressing)
		return d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == want && d.Status.Replicas == want && d.Status.AvailableReplicas == want &&
			c != nil && c.Reason == "NewReplicaSetAvailable" && c.Status == corev1.ConditionTrue
	})
}

func conditionOf(d *appsv1.Deployment, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range d.Status.Conditions {
		if d.Status.Conditions[i].Type == kind {
			return &d.Status.Conditions[i]
		}
	}
	return nil
}

func (b *bed) sets() (out []*appsv1.ReplicaSet) {
	return client.List[*appsv1.ReplicaSet](b.Client.View(), "default", nil)
}

// setOf returns the ReplicaSet of an image.
func (b *bed) setOf(image string) *appsv1.ReplicaSet {
	b.t.Helper()
	for _, rs := range b.sets() {
		if rs.Spec.Template.Spec.Containers[0].Image == image {
			return rs
		}
	}
	b.t.Fatalf("no replica set of %s", image)
	return nil
}

// bounds fails the test at the first revision with fewer available pods than least, or more living pods than most, from the call
// on.
func (b *bed) bounds(least, most int) (stop func()) {
	b.t.Helper()
	var mu sync.Mutex
	all := map[string]*corev1.Pod{}
	check := func(revision uint64) {
		available, alive := 0, 0
		for _, p := range all {
			if !pods.Active(p) {
				continue
			}
			alive++
			if pods.Ready(p) {
				available++
			}
		}
		if available < least || alive > most {
			b.t.Errorf("revision %d: %d pods available (at least %d wanted), %d alive (at most %d wanted)", revision, available, least, alive, most)
		}
	}
	return controllertest.Follow(b.t, b.Client, []client.Object{&corev1.Pod{}}, func(v client.View) {
		mu.Lock()
		defer mu.Unlock()
		client.Each(v, "default", func(p *corev1.Pod) bool { all[p.Name] = p; return true })
		check(v.Revision())
	}, func(events []client.Event) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			if e.New == nil {
				delete(all, e.Old.GetName())
			} else {
				all[e.New.GetName()] = e.New.(*corev1.Pod)
			}
			check(e.Revision)
		}
	})
}

func TestRollingUpdateKeepsItsBounds(t *testing.T) {
	for _, c := range []struct {
		name               string
		replicas           int32
		surge, unavailable intstr.IntOrString
		least, most        int
	}{
		{"defaults", 8, intstr.FromString("25%"), intstr.FromString("25%"), 6, 10},
		{"only surge", 5, intstr.FromInt32(1), intstr.FromInt32(0), 5, 6},
		{"only unavailable", 5, intstr.FromInt32(0), intstr.FromInt32(1), 4, 5},
		{"all at once", 6, intstr.FromString("100%"), intstr.FromInt32(0), 6, 12},
		{"both large", 10, intstr.FromInt32(4), intstr.FromInt32(4), 6, 14},
		{"rounds down to one", 3, intstr.FromInt32(0), intstr.FromString("10%"), 2, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t)
			controllertest.Create(t, b.Client, deploy(c.replicas, rolling(c.surge, c.unavailable)))
			b.complete()
			stop := b.bounds(c.least, c.most)
			for _, image := range []string{"v2", "v3", "v4"} {
				b.image(image)
				b.complete()
				if got := *b.setOf(image).Spec.Replicas; got != c.replicas {
					t.Errorf("%s has %d replicas", image, got)
				}
			}
			stop()
		})
	}
}

func TestARolloutThatIsReplacedInTheMiddle(t *testing.T) {
	// Pods of v2 never become ready.
	b := start(t, controllertest.Bad(func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "v2" }))
	controllertest.Create(t, b.Client, deploy(8, rolling(intstr.FromInt32(2), intstr.FromInt32(2))))
	b.complete()
	stop := b.bounds(6, 10)
	b.image("v2")
	b.await("a stuck roll-out", func(d *appsv1.Deployment) bool {
		return d.Status.UpdatedReplicas == 4 && d.Status.AvailableReplicas == 6 && d.Status.Replicas == 10
	})
	b.image("v3")
	d := b.complete()
	stop()
	if n := *b.setOf("v2").Spec.Replicas; n != 0 {
		t.Errorf("v2 still has %d", n)
	}
	if d.Annotations["deployment.kubernetes.io/revision"] != "3" {
		t.Errorf("revision %q", d.Annotations)
	}
	if c := conditionOf(d, appsv1.DeploymentProgressing); !strings.HasPrefix(c.Message, `ReplicaSet "d-`) || !strings.HasSuffix(c.Message, `" has successfully progressed.`) {
		t.Errorf("message %q", c.Message)
	}
	if c := conditionOf(d, appsv1.DeploymentAvailable); c == nil || c.Status != corev1.ConditionTrue || c.Reason != "MinimumReplicasAvailable" {
		t.Errorf("available: %+v", c)
	}
}

func TestRecreateEndsAllOldPodsFirst(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, deploy(5, func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType }))
	b.complete()
	var mu sync.Mutex
	images := map[string]string{}
	stop := controllertest.Follow(t, b.Client, []client.Object{&corev1.Pod{}}, func(v client.View) {
		client.Each(v, "default", func(p *corev1.Pod) bool { images[p.Name] = p.Spec.Containers[0].Image; return true })
	}, func(events []client.Event) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			p := e.Object().(*corev1.Pod)
			if e.New == nil {
				delete(images, p.Name)
				continue
			}
			images[p.Name] = p.Spec.Containers[0].Image
			seen := map[string]bool{}
			for _, image := range images {
				seen[image] = true
			}
			if len(seen) > 1 {
				t.Errorf("revision %d: pods of %v exist at once", e.Revision, seen)
			}
		}
	})
	b.image("v2")
	b.complete()
	b.image("v3")
	b.complete()
	stop()
}

func TestPauseHoldsARolloutAndNotScaling(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, deploy(3))
	b.complete()
	b.change(func(d *appsv1.Deployment) { d.Spec.Paused = true })
	b.await("the pause to be noted", func(d *appsv1.Deployment) bool {
		c := conditionOf(d, appsv1.DeploymentProgressing)
		return c.Reason == "DeploymentPaused" && c.Status == corev1.ConditionUnknown && c.Message == "Deployment is paused"
	})
	five := int32(5)
	b.change(func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Image = "v2"
		d.Spec.Replicas = &five
	})
	b.await("5 replicas of the old template", func(d *appsv1.Deployment) bool {
		return d.Status.AvailableReplicas == 5 && d.Status.UpdatedReplicas == 0 && d.Status.ObservedGeneration == d.Generation
	})
	if n := len(b.sets()); n != 1 {
		t.Errorf("%d replica sets while it is paused", n)
	}
	b.change(func(d *appsv1.Deployment) { d.Spec.Paused = false })
	b.complete()
	if n := *b.setOf("v2").Spec.Replicas; n != 5 {
		t.Errorf("v2 has %d", n)
	}
}

func TestRollBackByTemplateTakesTheOldSet(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, deploy(3, func(d *appsv1.Deployment) { d.Annotations = map[string]string{"kubernetes.io/change-cause": "first"} }))
	b.complete()
	first := b.setOf("v1")
	b.change(func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Image = "v2"
		d.Annotations["kubernetes.io/change-cause"] = "second"
	})
	b.complete()
	b.image("v1")
	d := b.complete()
	again := b.setOf("v1")
	if again.UID != first.UID || len(b.sets()) != 2 {
		t.Errorf("a set of the same template was not used again")
	}
	if got := again.Annotations["deployment.kubernetes.io/revision"]; got != "3" || d.Annotations["deployment.kubernetes.io/revision"] != "3" {
		t.Errorf("revisions %q and %q", got, d.Annotations["deployment.kubernetes.io/revision"])
	}
	if got := again.Annotations["deployment.kubernetes.io/revision-history"]; got != "1" {
		t.Errorf("history %q", got)
	}
	if got := b.setOf("v2").Annotations; got["kubernetes.io/change-cause"] != "second" || got["deployment.kubernetes.io/revision"] != "2" {
		t.Errorf("annotations of v2: %v", got)
	}
	if !slices.ContainsFunc(b.recorder.Events("Normal ScalingReplicaSet"), func(e string) bool {
		return e == fmt.Sprintf("Normal ScalingReplicaSet Scaled up replica set %s from 0 to 1", again.Name)
	}) {
		t.Errorf("events: %q", b.recorder.Events("Normal ScalingReplicaSet"))
	}
}

func TestScalingInTheMiddleIsProportional(t *testing.T) {
	b := start(t, controllertest.Bad(func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "v2" }))
	controllertest.Create(t, b.Client, deploy(10, rolling(intstr.FromInt32(3), intstr.FromInt32(2))))
	b.complete()
	b.image("v2")
	sizes := func(old, current int32) {
		t.Helper()
		controllertest.AwaitView(t, b.Client, []client.Object{&appsv1.ReplicaSet{}}, func(client.View) string {
			if len(b.sets()) < 2 {
				return "one set"
			}
			if x, y := b.setOf("v1"), b.setOf("v2"); *x.Spec.Replicas != old || *y.Spec.Replicas != current || x.Status.Replicas != old || y.Status.Replicas != current {
				return fmt.Sprintf("sizes %d and %d (status %d and %d), want %d and %d", *x.Spec.Replicas, *y.Spec.Replicas, x.Status.Replicas, y.Status.Replicas, old, current)
			}
			return ""
		})
	}
	sizes(8, 5)
	// The example of the documentation: 10 -> 15 adds 5, of which 3 go to the larger set.
	fifteen := int32(15)
	b.change(func(d *appsv1.Deployment) { d.Spec.Replicas = &fifteen })
	sizes(11, 7)
	ten := int32(10)
	b.change(func(d *appsv1.Deployment) { d.Spec.Replicas = &ten })
	sizes(8, 5)
}

func TestOldSetsAreKeptUpToTheLimit(t *testing.T) {
	b := start(t)
	two := int32(2)
	controllertest.Create(t, b.Client, deploy(2, func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = &two }))
	b.complete()
	for i := 2; i <= 5; i++ {
		b.image(fmt.Sprint("v", i))
		b.complete()
	}
	controllertest.AwaitView(t, b.Client, []client.Object{&appsv1.ReplicaSet{}}, func(v client.View) string {
		images := []string{}
		for _, rs := range client.List[*appsv1.ReplicaSet](v, "default", nil) {
			images = append(images, rs.Spec.Template.Spec.Containers[0].Image)
		}
		slices.Sort(images)
		if !slices.Equal(images, []string{"v3", "v4", "v5"}) {
			return fmt.Sprint("sets of ", images)
		}
		return ""
	})
}

func TestProgressDeadline(t *testing.T) {
	bad := true
	var mu sync.Mutex
	b := start(t, controllertest.Bad(func(p *corev1.Pod) bool {
		mu.Lock()
		defer mu.Unlock()
		return bad && p.Spec.Containers[0].Image == "v2"
	}))
	controllertest.Create(t, b.Client, deploy(2))
	b.complete()
	b.change(func(d *appsv1.Deployment) {
		eager(d)
		d.Spec.Template.Spec.Containers[0].Image = "v2"
	})
	d := b.await("the deadline", func(d *appsv1.Deployment) bool {
		c := conditionOf(d, appsv1.DeploymentProgressing)
		return c != nil && c.Status == corev1.ConditionFalse
	})
	if c := conditionOf(d, appsv1.DeploymentProgressing); c.Reason != "ProgressDeadlineExceeded" || c.Message != fmt.Sprintf("ReplicaSet %q has timed out progressing.", b.setOf("v2").Name) {
		t.Errorf("condition %+v", c)
	}
	// The roll-out continues as soon as possible.
	mu.Lock()
	bad = false
	mu.Unlock()
	client.Each(b.Client.View(), "default", func(p *corev1.Pod) bool {
		if !pods.Ready(p) {
			controllertest.ChangeStatus(t, b.Client, "default", p.Name, func(p *corev1.Pod) { controllertest.MakeReady(p, true) })
		}
		return true
	})
	b.complete()
}

func TestADeploymentWhoseSetsNameIsTaken(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, deploy(1))
	b.complete()
	name := b.setOf("v1").Name
	// Another deployment elsewhere would get the same name: use a namespace where the name is taken.
	controllertest.Create(t, b.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other"}})
	controllertest.Create(t, b.Client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "default"}})
	zero := int32(0)
	strange := map[string]string{"app": "strange"}
	controllertest.Create(t, b.Client, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: name}, Spec: appsv1.ReplicaSetSpec{
		Replicas: &zero, Selector: &metav1.LabelSelector{MatchLabels: strange},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: strange}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}})
	d := deploy(1)
	d.Namespace = "other"
	controllertest.Create(t, b.Client, d)
	got := controllertest.Await(t, b.Client, "other", "d", "availability", func(d *appsv1.Deployment) bool { return d.Status.AvailableReplicas == 1 })
	if got.Status.CollisionCount == nil || *got.Status.CollisionCount != 1 {
		t.Errorf("collisions %v", got.Status.CollisionCount)
	}
}

func TestFailuresOfSetsShow(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, deploy(2, func(d *appsv1.Deployment) { d.Spec.Template.Spec.PriorityClassName = "absent" }))
	d := b.await("the failure", func(d *appsv1.Deployment) bool { return conditionOf(d, appsv1.DeploymentReplicaFailure) != nil })
	if c := conditionOf(d, appsv1.DeploymentReplicaFailure); c.Reason != "FailedCreate" || !strings.Contains(c.Message, "no PriorityClass with name absent was found") {
		t.Errorf("condition %+v", c)
	}
	b.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.PriorityClassName = "" })
	if d := b.complete(); conditionOf(d, appsv1.DeploymentReplicaFailure) != nil {
		b.await("no failure", func(d *appsv1.Deployment) bool { return conditionOf(d, appsv1.DeploymentReplicaFailure) == nil })
	}
}

func TestOrphanedSetsAreAdopted(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, deploy(2))
	b.complete()
	rs := b.setOf("v1")
	controllertest.Change(t, b.Client, "default", rs.Name, func(rs *appsv1.ReplicaSet) { rs.OwnerReferences = nil })
	controllertest.Await(t, b.Client, "default", rs.Name, "adoption", func(rs *appsv1.ReplicaSet) bool { return metav1.GetControllerOf(rs) != nil })
	controllertest.Change(t, b.Client, "default", rs.Name, func(rs *appsv1.ReplicaSet) { rs.Labels = map[string]string{"app": "debug"} })
	controllertest.Await(t, b.Client, "default", rs.Name, "release", func(rs *appsv1.ReplicaSet) bool { return metav1.GetControllerOf(rs) == nil })
}

// TestARolloutInANamespaceThatEnds: no ReplicaSet can be created; the controller observes the new generation and does not fail.
func TestARolloutInANamespaceThatEnds(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ending"}})
	d := deploy(2)
	d.Namespace, d.Spec.Paused = "ending", true
	controllertest.Create(t, b.Client, d)
	if err := b.Clientset().CoreV1().Namespaces().Delete(t.Context(), "ending", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	changed := controllertest.Change(t, b.Client, "ending", "d", func(d *appsv1.Deployment) { d.Spec.Paused = false })
	controllertest.Await(t, b.Client, "ending", "d", "the new generation is observed", func(d *appsv1.Deployment) bool {
		return d.Status.ObservedGeneration == changed.Generation
	})
}

func BenchmarkDeploy500(b *testing.B) {
	for range b.N {
		b.StopTimer()
		bed := start(b)
		b.StartTimer()
		controllertest.Create(b, bed.Client, deploy(500))
		bed.complete()
	}
}

func BenchmarkRoll500(b *testing.B) {
	bed := start(b)
	controllertest.Create(b, bed.Client, deploy(500))
	bed.complete()
	for i := range b.N {
		bed.image(fmt.Sprint("r", i))
		bed.complete()
	}
}
