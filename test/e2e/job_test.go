package e2e_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// jobManifest returns a Job whose pods end with a code; spec is more lines of its spec.
func jobManifest(ns, name string, code int, spec string) string {
	return in(ns, fmt.Sprintf(`
apiVersion: batch/v1
kind: Job
metadata: {name: %s}
spec:
  %s
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: c, image: "kontiki/tools:1", command: [tools, exit, "%d"]}
`, name, spec, code))
}

func TestJobs(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, jobManifest(ns, "indexed", 0, "completions: 3\n  parallelism: 2\n  completionMode: Indexed"))
	kubectl(t, "-n", ns, "wait", "--for=condition=Complete", "job/indexed", "--timeout=90s")
	logs := kubectl(t, "-n", ns, "logs", "-l", "batch.kubernetes.io/job-name=indexed", "--tail=-1")
	contains(t, logs, "indexed-0 has the index 0", "indexed-1 has the index 1", "indexed-2 has the index 2")
	contains(t, kubectl(t, "-n", ns, "get", "job", "indexed"), "Complete", "3/3")
	contains(t, kubectl(t, "-n", ns, "describe", "job", "indexed"), "SuccessfulCreate", "Completed")

	apply(t, jobManifest(ns, "broken", 42, `podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]}`))
	kubectl(t, "-n", ns, "wait", "--for=condition=Failed", "job/broken", "--timeout=90s")
	contains(t, kubectl(t, "-n", ns, "describe", "job", "broken"), "PodFailurePolicy", "failed with exit code 42 matching FailJob rule at index 0")
	// Deleted in the foreground, it takes its pods along: nothing holds them.
	kubectl(t, "-n", ns, "delete", "job", "indexed", "broken", "--cascade=foreground", "--timeout=60s")
	if left := pods(t, ns, ""); len(left) != 0 {
		t.Errorf("%d pods are left", len(left))
	}
}

func TestCronJobs(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, in(ns, `
apiVersion: batch/v1
kind: CronJob
metadata: {name: often}
spec:
  schedule: "* * * * *"
  timeZone: Asia/Tokyo
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers:
          - {name: c, image: "kontiki/tools:1", command: [tools, exit, "0"]}
`))
	eventually(t, 100*time.Second, "a Job to succeed", func() error {
		cj, err := env.Set.BatchV1().CronJobs(ns).Get(context.Background(), "often", metav1.GetOptions{})
		if err == nil && (cj.Status.LastSuccessfulTime == nil || cj.Status.LastScheduleTime == nil) {
			err = errNotYet
		}
		return err
	})
	contains(t, kubectl(t, "-n", ns, "describe", "cronjob", "often"), "SuccessfulCreate", "Asia/Tokyo")
	// One that is asked for by hand, and the end of both with the CronJob.
	kubectl(t, "-n", ns, "create", "job", "by-hand", "--from=cronjob/often")
	kubectl(t, "-n", ns, "wait", "--for=condition=Complete", "job/by-hand", "--timeout=60s")
	kubectl(t, "-n", ns, "delete", "cronjob", "often", "--cascade=foreground", "--timeout=60s")
	if left := pods(t, ns, ""); len(left) != 0 {
		t.Errorf("%d pods are left", len(left))
	}
}

// TestTheLeaderIsKilledDuringAJob: the Job counts each of its pods once.
func TestTheLeaderIsKilledDuringAJob(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, jobManifest(ns, "hundred", 0, "completions: 100\n  parallelism: 10"))
	get := func() (*batchv1.Job, error) {
		return env.Set.BatchV1().Jobs(ns).Get(context.Background(), "hundred", metav1.GetOptions{})
	}
	eventually(t, time.Minute, "a fifth to succeed", func() error {
		j, err := get()
		if err == nil && j.Status.Succeeded < 20 {
			err = errNotYet
		}
		return err
	})
	victim, err := env.Leader()
	if err != nil {
		t.Fatal(err)
	}
	must(t, "dev", "kill", victim)
	t.Cleanup(func() { healthy(t) })
	t.Cleanup(func() { must(t, "dev", "start", victim) })
	var j *batchv1.Job
	eventually(t, 2*time.Minute, "the Job to complete", func() (err error) {
		if j, err = get(); err != nil {
			return err
		}
		for _, c := range j.Status.Conditions {
			if c.Type == batchv1.JobComplete && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errNotYet
	})
	ended := map[corev1.PodPhase]int{}
	for _, p := range pods(t, ns, "job-name=hundred") {
		ended[p.Status.Phase]++
	}
	if j.Status.Succeeded != 100 || j.Status.Failed != 0 || len(ended) != 1 || ended[corev1.PodSucceeded] != 100 {
		t.Errorf("of pods %v it counted %+v", ended, j.Status)
	}
}
