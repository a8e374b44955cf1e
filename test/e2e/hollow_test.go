package e2e_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/test/await"
)

// TestHollowWorkers runs pods on simulated workers: they register, report what they use without anything being written, run a Deployment and a Job, are lost with
// their process and come back.
func TestHollowWorkers(t *testing.T) {
	const workers = 30
	ownCluster(t, os.Getenv("KONTIKI"), 1, 0, "--hollow", fmt.Sprint(workers))
	ctx := t.Context()
	ready := func(want int) func() error {
		return func() error {
			nodes, err := env.Set.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "kontiki.io/hollow=true"})
			if err != nil {
				return err
			}
			n := 0
			for i := range nodes.Items {
				for _, c := range nodes.Items[i].Status.Conditions {
					if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
						n++
					}
				}
			}
			if n != want {
				return fmt.Errorf("%d of %d workers are ready, want %d", n, len(nodes.Items), want)
			}
			return nil
		}
	}
	if err := ready(workers)(); err != nil {
		t.Error(err)
	}
	// What starting left to do may be written meanwhile, but a write for each report would be seen each time.
	var grew []uint64
	for len(grew) == 0 || grew[len(grew)-1] != 0 && len(grew) < 3 {
		limited, cancel := context.WithTimeout(ctx, 2*time.Minute)
		_, commands, err := env.CommandsBesideReports(limited, workers)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		grew = append(grew, commands)
	}
	if grew[len(grew)-1] != 0 {
		t.Errorf("beside the reports of %d workers the log grew by %v entries", workers, grew)
	}
	labels := map[string]string{"app": "hollow"}
	template := func(policy corev1.RestartPolicy, command ...string) corev1.PodTemplateSpec {
		return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{RestartPolicy: policy,
			Containers: []corev1.Container{{Name: "c", Image: "example/any", Command: command}}}}
	}
	deployments := env.Set.AppsV1().Deployments("default")
	if _, err := deployments.Create(ctx, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To[int32](100), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template(corev1.RestartPolicyAlways)}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := env.Set.BatchV1().Jobs("default").Create(ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}, Spec: batchv1.JobSpec{
		Completions: ptr.To[int32](50), Parallelism: ptr.To[int32](10), Template: template(corev1.RestartPolicyNever, "true")}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the Deployment", func() error { return available(ctx, "d", 100) })
	await.That(t, "the Job", func() error {
		j, err := env.Set.BatchV1().Jobs("default").Get(ctx, "j", metav1.GetOptions{})
		if err == nil && (j.Status.CompletionTime == nil || j.Status.Succeeded != 50) {
			err = fmt.Errorf("the Job counts %d", j.Status.Succeeded)
		}
		return err
	})
	if out, err := kontiki("dev", "kill", "hollow-1"); err != nil {
		t.Fatal(err, out)
	}
	await.That(t, "the workers to be lost", ready(0))
	if out, err := kontiki("dev", "start", "hollow-1"); err != nil {
		t.Fatal(err, out)
	}
	await.That(t, "the workers to come back", ready(workers))
	await.That(t, "the Deployment after that", func() error { return available(ctx, "d", 100) })
}

func available(ctx context.Context, name string, want int32) error {
	d, err := env.Set.AppsV1().Deployments("default").Get(ctx, name, metav1.GetOptions{})
	if err == nil && d.Status.AvailableReplicas != want {
		err = fmt.Errorf("%d of %d replicas are available", d.Status.AvailableReplicas, want)
	}
	return err
}
