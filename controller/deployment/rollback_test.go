package deployment_test

import (
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/deployment"
)

func broken(p *corev1.Pod) bool { return strings.HasPrefix(p.Spec.Containers[0].Image, "broken") }

// eager has a deadline of a second.
func eager(d *appsv1.Deployment) {
	one := int32(1)
	d.Spec.ProgressDeadlineSeconds = &one
}

func rollsBack(d *appsv1.Deployment) {
	d.Annotations = map[string]string{deployment.RollbackOnDeadline: "true"}
}

func imageIs(image string) func(*appsv1.Deployment) bool {
	return func(d *appsv1.Deployment) bool { return d.Spec.Template.Spec.Containers[0].Image == image }
}

func TestAMissedDeadlineRollsBack(t *testing.T) {
	b := start(t, controllertest.Bad(broken))
	controllertest.Create(t, b.Client, deploy(2, rollsBack))
	b.complete()
	b.image("v2")
	b.complete()
	b.change(func(d *appsv1.Deployment) {
		eager(d) // only now: on a slow machine, what comes before takes longer
		d.Spec.Template.Spec.Containers[0].Image = "broken"
	})
	b.await("the roll-back", imageIs("v2"))
	d := b.complete()
	if d.Annotations[deployment.RollbackOnDeadline] != "true" || d.Annotations["kontiki.io/rolled-out"] != "" {
		t.Errorf("annotations %v", d.Annotations)
	}
	b.recorder.Await(t, `Warning DeploymentRollback Rolled back deployment "d" to revision 2: revision 3 missed its progress deadline`)
	// The next broken template rolls back to the one that was complete, not to the broken one before it.
	b.image("broken-2")
	b.recorder.AwaitN(t, "Warning DeploymentRollback Rolled back", 2)
	b.await("the second roll-back", imageIs("v2"))
	b.complete()
	// And the first one again, which has a set already.
	b.image("broken")
	b.recorder.AwaitN(t, "Warning DeploymentRollback Rolled back", 3)
	b.await("the third roll-back", imageIs("v2"))
	b.complete()
}

// TestARollBackIsNotRepeated: if what was good before does not become available either, the deployment stays with it.
func TestARollBackIsNotRepeated(t *testing.T) {
	b := start(t, controllertest.Bad(broken))
	controllertest.Create(t, b.Client, deploy(2, rollsBack))
	b.complete()
	b.image("v2")
	b.complete()
	b.kubelet.Set(controllertest.Bad(func(*corev1.Pod) bool { return true }))
	b.change(func(d *appsv1.Deployment) {
		eager(d)
		d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType} // no pod of v2 is left
		d.Spec.Template.Spec.Containers[0].Image = "broken"
	})
	b.await("the roll-back", imageIs("v2"))
	message := fmt.Sprintf("ReplicaSet %q has timed out progressing.", b.setOf("v2").Name)
	b.await("its timeout", func(d *appsv1.Deployment) bool {
		c := conditionOf(d, appsv1.DeploymentProgressing)
		return imageIs("v2")(d) && c != nil && c.Reason == "ProgressDeadlineExceeded" && c.Message == message
	})
	b.change(func(d *appsv1.Deployment) { *d.Spec.Replicas = 3 })
	b.await("the new size", func(d *appsv1.Deployment) bool { return d.Status.ObservedGeneration == d.Generation })
	if n := len(b.recorder.Events("Warning DeploymentRollback Rolled back")); n != 1 {
		t.Errorf("%d roll-backs", n)
	}
}

func TestRollBackIsOptional(t *testing.T) {
	b := start(t, controllertest.Bad(broken))
	controllertest.Create(t, b.Client, deploy(2))
	b.complete()
	b.change(func(d *appsv1.Deployment) {
		eager(d)
		d.Spec.Template.Spec.Containers[0].Image = "broken"
	})
	timedOut := func(d *appsv1.Deployment) bool {
		c := conditionOf(d, appsv1.DeploymentProgressing)
		return c != nil && c.Reason == "ProgressDeadlineExceeded"
	}
	b.await("the deadline", timedOut)
	if !imageIs("broken")(b.await("the deadline", timedOut)) {
		t.Error("it was rolled back")
	}
	// Turned on afterwards, it takes the set that still serves, as nothing has recorded that it was complete.
	b.change(rollsBack)
	b.await("the roll-back", imageIs("v1"))
	b.complete()
}

// TestRollbackTo: the annotation of the old API.
func TestRollbackTo(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, deploy(1))
	b.complete()
	for _, image := range []string{"v2", "v3"} {
		b.image(image)
		b.complete()
	}
	ask := func(revision string) {
		t.Helper()
		b.change(func(d *appsv1.Deployment) {
			if d.Annotations == nil {
				d.Annotations = map[string]string{}
			}
			d.Annotations[appsv1.DeprecatedRollbackTo] = revision
		})
		b.await("the end of the request", func(d *appsv1.Deployment) bool { return d.Annotations[appsv1.DeprecatedRollbackTo] == "" })
		b.complete()
	}
	ask("1")
	b.await("the first revision", imageIs("v1"))
	b.recorder.Await(t, `Normal DeploymentRollback Rolled back deployment "d" to revision 1`)
	ask("0")
	b.await("the previous revision", imageIs("v3"))
	ask("99")
	b.recorder.Await(t, "Warning DeploymentRollbackRevisionNotFound Unable to find the revision to rollback to.")
	ask(b.complete().Annotations["deployment.kubernetes.io/revision"])
	b.recorder.Await(t, `Warning DeploymentRollbackTemplateUnchanged The rollback revision contains the same template as current deployment "d"`)
}

// TestLongNames: a set's name is as long as is allowed, however long the deployment's is.
func TestLongNames(t *testing.T) {
	b := start(t)
	name := strings.Repeat("d", 253)
	controllertest.Create(t, b.Client, deploy(1, func(d *appsv1.Deployment) { d.Name = name }))
	controllertest.Await(t, b.Client, "default", name, "a replica", func(d *appsv1.Deployment) bool { return d.Status.Replicas == 1 })
	if got := b.sets()[0].Name; len(got) != 253 || !strings.HasPrefix(got, "ddd") {
		t.Errorf("the set is named %s", got)
	}
}
