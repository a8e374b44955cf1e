package job_test

import (
	"fmt"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/controller/controllertest"
)

func onExit(action batchv1.PodFailurePolicyAction, operator batchv1.PodFailurePolicyOnExitCodesOperator, codes ...int32) batchv1.PodFailurePolicyRule {
	return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: operator, Values: codes}}
}

func withRules(rules ...batchv1.PodFailurePolicyRule) func(*batchv1.JobSpec) {
	return func(s *batchv1.JobSpec) { s.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: rules} }
}

func TestThePodFailurePolicyDecidesByExitCodes(t *testing.T) {
	in := batchv1.PodFailurePolicyOnExitCodesOpIn
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	b.create(func(s *batchv1.JobSpec) {
		withRules(onExit(batchv1.PodFailurePolicyActionIgnore, in, 7), onExit(batchv1.PodFailurePolicyActionCount, in, 8),
			onExit(batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyOnExitCodesOpNotIn, 9))(s)
		s.BackoffLimit, s.Parallelism, s.Completions = ptr.To[int32](5), ptr.To[int32](2), ptr.To[int32](5)
	})
	b.end(7, b.running(2)[0])
	b.end(8, b.running(2)[0])
	b.end(9, b.running(2)[0])
	if j := b.await("two counted", func(j *batchv1.Job) bool { return j.Status.Failed == 2 && j.Status.Active == 2 }); condition(j, batchv1.JobFailureTarget) != nil {
		t.Errorf("status %+v", j.Status)
	}
	last := b.running(2)[0]
	b.end(1, last)
	j := b.ended(batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy, fmt.Sprintf("Container c for pod default/%s failed with exit code 1 matching FailJob rule at index 2", last.Name))
	if j.Status.Failed != 4 {
		t.Errorf("status %+v", j.Status)
	}
}

func TestDisruptionsCanBeIgnored(t *testing.T) {
	b := start(t)
	b.create(func(s *batchv1.JobSpec) {
		withRules(batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
			{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}},
			batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionFailJob, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
				{Type: "ConfigIssue", Status: corev1.ConditionTrue}}})(s)
		s.BackoffLimit = ptr.To[int32](0)
	})
	fail := func(kind corev1.PodConditionType) *corev1.Pod {
		p := b.running(1)[0]
		controllertest.ChangeStatus(t, b.Client, "default", p.Name, func(p *corev1.Pod) {
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue})
			controllertest.Terminate(p, 137)
		})
		return p
	}
	first := fail(corev1.DisruptionTarget)
	controllertest.Await(t, b.Client, "default", first.Name, "released", func(p *corev1.Pod) bool { return len(p.Finalizers) == 0 })
	if j := b.await("replaced", func(j *batchv1.Job) bool { return j.Status.Active == 1 }); j.Status.Failed != 0 {
		t.Errorf("status %+v", j.Status)
	}
	p := fail("ConfigIssue")
	b.ended(batchv1.JobFailed, batchv1.JobReasonPodFailurePolicy, fmt.Sprintf("Pod default/%s has condition ConfigIssue matching FailJob rule at index 1", p.Name))
}

func TestEachIndexHasItsOwnLimit(t *testing.T) {
	b := start(t)
	b.create(func(s *batchv1.JobSpec) {
		asIndexed(3, 3)(s)
		s.BackoffLimitPerIndex = ptr.To[int32](1)
		withRules(onExit(batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyOnExitCodesOpIn, 3), onExit(batchv1.PodFailurePolicyActionIgnore, batchv1.PodFailurePolicyOnExitCodesOpIn, 4))(s)
	})
	failures := func(p *corev1.Pod) string {
		return p.Annotations[batchv1.JobIndexFailureCountAnnotation] + "+" + p.Annotations[batchv1.JobIndexIgnoredFailureCountAnnotation]
	}
	three := b.running(3)
	if got := failures(three[0]); got != "0+" {
		t.Errorf("failures before the first pod: %s", got)
	}
	b.end(1, three[0])
	b.await("counted", func(j *batchv1.Job) bool { return j.Status.Failed == 1 && j.Status.Active == 3 })
	three = b.running(3)
	if got := failures(three[0]); got != "1+" {
		t.Errorf("failures before the second pod: %s", got)
	}
	b.end(4, three[0])
	b.await("replaced", func(j *batchv1.Job) bool { return j.Status.Active == 3 && j.Status.Failed == 1 })
	three = b.running(3)
	if got := failures(three[0]); got != "1+1" {
		t.Errorf("failures before the third pod: %s", got)
	}
	b.end(1, three[0])
	b.await("0 failed", func(j *batchv1.Job) bool { return ptr.Deref(j.Status.FailedIndexes, "") == "0" && j.Status.Active == 2 })
	b.end(3, three[1])
	b.await("1 failed", func(j *batchv1.Job) bool {
		return ptr.Deref(j.Status.FailedIndexes, "") == "0,1" && j.Status.Active == 1
	})
	b.end(0, three[2])
	j := b.ended(batchv1.JobFailed, batchv1.JobReasonFailedIndexes, "Job has failed indexes")
	if j.Status.CompletedIndexes != "2" || j.Status.Failed != 3 || j.Status.Succeeded != 1 {
		t.Errorf("status %+v", j.Status)
	}
	b.recorder.Await(t, "Warning FailedIndexes Job has failed indexes")
}

func TestTooManyIndexesFail(t *testing.T) {
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	b.create(func(s *batchv1.JobSpec) {
		asIndexed(4, 4)(s)
		s.BackoffLimitPerIndex, s.MaxFailedIndexes = ptr.To[int32](0), ptr.To[int32](1)
	})
	four := b.running(4)
	b.end(1, four[0])
	b.await("one failed", func(j *batchv1.Job) bool { return ptr.Deref(j.Status.FailedIndexes, "") == "0" && j.Status.Active == 3 })
	b.end(1, four[1])
	j := b.ended(batchv1.JobFailed, batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
	if *j.Status.FailedIndexes != "0,1" || j.Status.Failed != 4 {
		t.Errorf("status %+v", j.Status)
	}
}

func TestTheSuccessPolicy(t *testing.T) {
	for name, c := range map[string]struct {
		rules   []batchv1.SuccessPolicyRule
		succeed []int
		rule    int
	}{
		"indexes":         {[]batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("3"), SucceededCount: ptr.To[int32](1)}, {SucceededIndexes: ptr.To("0,2")}}, []int{2, 0}, 1},
		"count":           {[]batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("3")}, {SucceededCount: ptr.To[int32](2)}}, []int{1, 2}, 1},
		"some of indexes": {[]batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("1-3"), SucceededCount: ptr.To[int32](1)}}, []int{0, 2}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			controllertest.StartKubelet(t, b.Client)
			b.create(func(s *batchv1.JobSpec) {
				asIndexed(4, 4)(s)
				s.SuccessPolicy = &batchv1.SuccessPolicy{Rules: c.rules}
			})
			four := b.running(4)
			b.end(0, four[c.succeed[0]])
			if j := b.await("one succeeded", func(j *batchv1.Job) bool { return j.Status.Succeeded == 1 }); condition(j, batchv1.JobSuccessCriteriaMet) != nil {
				t.Errorf("status %+v", j.Status)
			}
			b.end(0, four[c.succeed[1]])
			j := b.ended(batchv1.JobComplete, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", c.rule))
			if j.Status.Succeeded != 2 || j.Status.Failed != 0 {
				t.Errorf("the pods that were stopped have not failed: %+v", j.Status)
			}
		})
	}
}
