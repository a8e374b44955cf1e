package ttlafterfinished_test

import (
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/ttlafterfinished"
	"github.com/kontiki/kontiki/test/harness"
)

func TestFinishedJobsAreDeletedInTime(t *testing.T) {
	h := harness.New(t)
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	clock := controllertest.NewClock(now.Time)
	create := func(name string, ttl *int32, end batchv1.JobConditionType) {
		controllertest.Create(t, h.Client, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: batchv1.JobSpec{TTLSecondsAfterFinished: ttl,
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}})
		if end == "" {
			return
		}
		controllertest.ChangeStatus(t, h.Client, "default", name, func(j *batchv1.Job) {
			before := batchv1.JobFailureTarget
			j.Status.StartTime = &now
			if end == batchv1.JobComplete {
				before, j.Status.CompletionTime = batchv1.JobSuccessCriteriaMet, &now
			}
			for _, kind := range []batchv1.JobConditionType{before, end} {
				j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, LastProbeTime: now, LastTransitionTime: now})
			}
		})
	}
	create("complete", ptr.To[int32](60), batchv1.JobComplete)
	create("failed", ptr.To[int32](0), batchv1.JobFailed)
	create("kept", nil, batchv1.JobComplete)
	create("running", ptr.To[int32](0), "")
	controllertest.Run(t, h.Client, ttlafterfinished.New(h.Client, clock.Now))
	// Deleted in the foreground, Jobs wait for the garbage collector.
	deleted := func(name string) {
		t.Helper()
		controllertest.Await(t, h.Client, "default", name, "is being deleted", func(j *batchv1.Job) bool {
			return j.DeletionTimestamp != nil && slices.Contains(j.Finalizers, metav1.FinalizerDeleteDependents)
		})
	}
	deleted("failed")
	clock.Advance(59 * time.Second)
	create("marker", ptr.To[int32](0), batchv1.JobFailed)
	deleted("marker")
	if j, _ := client.Get[*batchv1.Job](h.Client.View(), "default", "complete"); j.DeletionTimestamp != nil {
		t.Error("it was deleted before its time")
	}
	clock.Advance(2 * time.Second)
	controllertest.Change(t, h.Client, "default", "complete", func(j *batchv1.Job) { metav1.SetMetaDataAnnotation(&j.ObjectMeta, "poke", "") })
	deleted("complete")
	for _, name := range []string{"kept", "running"} {
		if j, ok := client.Get[*batchv1.Job](h.Client.View(), "default", name); !ok || j.DeletionTimestamp != nil {
			t.Errorf("%s is gone", name)
		}
	}
	// Who sets it later is served, too.
	controllertest.Change(t, h.Client, "default", "kept", func(j *batchv1.Job) { j.Spec.TTLSecondsAfterFinished = ptr.To[int32](1) })
	deleted("kept")
}
