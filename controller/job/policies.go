package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// verdict is what the pod failure policy says of a failed pod.
type verdict struct {
	ignored    bool   // the failure does not count towards the limits
	failsIndex bool   // no other pod is created for the index
	failsJob   string // why the Job fails; empty if it does not
}

// judge returns what the first rule that matches a failed pod says.
func judge(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) verdict {
	if policy == nil {
		return verdict{}
	}
	for i, rule := range policy.Rules {
		why := ""
		if rule.OnExitCodes != nil {
			if c := exitedAs(pod, rule.OnExitCodes); c != nil {
				why = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
					c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode, rule.Action, i)
			}
		} else if c := conditionOf(pod, rule.OnPodConditions); c != nil {
			why = fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", pod.Namespace, pod.Name, c.Type, rule.Action, i)
		}
		if why == "" {
			continue
		}
		switch rule.Action {
		case batchv1.PodFailurePolicyActionIgnore:
			return verdict{ignored: true}
		case batchv1.PodFailurePolicyActionFailIndex:
			return verdict{failsIndex: true}
		case batchv1.PodFailurePolicyActionFailJob:
			return verdict{failsJob: why}
		case batchv1.PodFailurePolicyActionCount:
			return verdict{}
		}
	}
	return verdict{}
}

// exitedAs returns the first container that ended with an exit code that meets the requirement; success never does.
func exitedAs(pod *corev1.Pod, wanted *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			ended := list[i].State.Terminated
			if ended == nil || ended.ExitCode == 0 || wanted.ContainerName != nil && *wanted.ContainerName != list[i].Name {
				continue
			}
			listed := slices.Contains(wanted.Values, ended.ExitCode)
			if wanted.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && listed || wanted.Operator == batchv1.PodFailurePolicyOnExitCodesOpNotIn && !listed {
				return &list[i]
			}
		}
	}
	return nil
}

// conditionOf returns the first condition of a pod that meets one of the patterns.
func conditionOf(pod *corev1.Pod, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if slices.ContainsFunc(patterns, func(p batchv1.PodFailurePolicyOnPodConditionsPattern) bool {
			return p.Type == c.Type && p.Status == c.Status
		}) {
			return c
		}
	}
	return nil
}

// succeedsBy returns the first rule of the success policy that the succeeded indexes meet, as the message of the condition.
func succeedsBy(policy *batchv1.SuccessPolicy, completions int, succeeded indexes) (message string, met bool) {
	if policy == nil || len(succeeded) == 0 {
		return "", false
	}
	for i, rule := range policy.Rules {
		have, need := succeeded.count(), 0
		if rule.SucceededIndexes != nil {
			required := parseIndexes(*rule.SucceededIndexes, completions)
			if len(required) == 0 {
				continue
			}
			have, need = succeeded.common(required), required.count()
		}
		if rule.SucceededCount != nil {
			need = int(*rule.SucceededCount)
		}
		if need > 0 && have >= need {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}
