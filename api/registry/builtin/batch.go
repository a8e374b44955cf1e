package builtin

import (
	"context"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	jobutil "k8s.io/kubernetes/pkg/api/job"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/batch"
	batchvalidation "k8s.io/kubernetes/pkg/apis/batch/validation"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/registry"
)

func cronJobs() *registry.Resource {
	return follow(&registry.Resource{
		Group: "batch", Kind: "CronJob", Resource: "cronjobs", ShortNames: []string{"cj"}, Categories: []string{"all"},
	}, cronjob.Strategy, cronjob.StatusStrategy)
}

// jobs has the rules of upstream's strategy, whose package reaches the storage of the serving stack.
func jobs() *registry.Resource {
	return &registry.Resource{
		Group: "batch", Kind: "Job", Resource: "jobs", Categories: []string{"all"}, Namespaced: true,
		KeepDeleted: keepJob,
		PrepareCreate: preparer(func(j *batch.Job) {
			if !ptr.Deref(j.Spec.ManualSelector, false) {
				selectOwnPods(j)
			}
			j.Status = batch.JobStatus{}
			j.Generation = 1
			jobutil.DropDisabledFields(&j.Spec, nil)
			podutil.DropDisabledTemplateFields(&j.Spec.Template, nil)
		}),
		Validate: checker(func(j *batch.Job) field.ErrorList {
			return batchvalidation.ValidateJobCreate(j, jobOptions(j, nil))
		}),
		WarnCreate: warner(func(ctx context.Context, j *batch.Job) []string {
			return append(podNameWarning(j.Name, inHostnames), jobutil.WarningsForJobSpec(ctx, field.NewPath("spec"), &j.Spec, nil)...)
		}),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(j, old *batch.Job) {
				j.Status = old.Status
				jobutil.DropDisabledFields(&j.Spec, &old.Spec)
				podutil.DropDisabledTemplateFields(&j.Spec.Template, &old.Spec.Template)
				if !apiequality.Semantic.DeepEqual(j.Spec, old.Spec) {
					j.Generation = old.Generation + 1
				}
			}),
			ValidateUpdate: changer(func(j, old *batch.Job) field.ErrorList {
				return batchvalidation.ValidateJobUpdate(j, old, jobOptions(j, old))
			}),
			WarnUpdate: changeWarner(func(ctx context.Context, j, old *batch.Job) []string {
				if j.Generation == old.Generation {
					return nil
				}
				return jobutil.WarningsForJobSpec(ctx, field.NewPath("spec"), &j.Spec, &old.Spec)
			}),
			ResetFields: []string{"status"},
		},
		Status: &registry.Strategy{
			PrepareUpdate: updater(func(j, old *batch.Job) { j.Spec = old.Spec }),
			ValidateUpdate: changer(func(j, old *batch.Job) field.ErrorList {
				return batchvalidation.ValidateJobUpdateStatus(j, old, jobStatusOptions(j, old))
			}),
			ResetFields: []string{"spec"},
		},
		AllowUnconditionalUpdate: true,
		OrphanByDefault:          true,
		Fields: func(obj registry.Object) fields.Set {
			return fields.Set{"status.successful": strconv.Itoa(int(obj.(*batchv1.Job).Status.Succeeded))}
		},
		FieldNames: []string{"status.successful"},
	}
}

// selectOwnPods gives a new job a selector that matches only its own pods, by its UID, and its template the labels for that, under
// their present and their older names. Labels that the user has set stay; validation refuses those that contradict.
func selectOwnPods(j *batch.Job) {
	labels := j.Spec.Template.Labels
	if labels == nil {
		labels = map[string]string{}
		j.Spec.Template.Labels = labels
	}
	for _, label := range []struct{ name, value string }{
		{batch.LegacyJobNameLabel, j.Name}, {batch.JobNameLabel, j.Name},
		{batch.LegacyControllerUidLabel, string(j.UID)}, {batch.ControllerUidLabel, string(j.UID)},
	} {
		if _, ok := labels[label.name]; !ok {
			labels[label.name] = label.value
		}
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, ok := j.Spec.Selector.MatchLabels[batch.ControllerUidLabel]; !ok {
		j.Spec.Selector.MatchLabels[batch.ControllerUidLabel] = string(j.UID)
	}
}

// jobOptions returns how a job is validated; old is nil for a new one.
func jobOptions(j, old *batch.Job) batchvalidation.JobValidationOptions {
	if old == nil {
		return batchvalidation.JobValidationOptions{
			PodValidationOptions: podutil.GetValidationOptionsFromPodTemplate(&j.Spec.Template, nil), RequirePrefixedLabels: true,
		}
	}
	// The template of a job that does not run may be changed.
	suspended := ptr.Deref(old.Spec.Suspend, false)
	stopped := old.Status.StartTime == nil || batchvalidation.IsConditionTrue(old.Status.Conditions, batch.JobSuspended)
	idle := suspended && stopped && old.Status.Active == 0
	_, named := old.Spec.Template.Labels[batch.JobNameLabel]
	_, owned := old.Spec.Template.Labels[batch.ControllerUidLabel]
	opts := batchvalidation.JobValidationOptions{
		PodValidationOptions:             podutil.GetValidationOptionsFromPodTemplate(&j.Spec.Template, &old.Spec.Template),
		AllowMutableSchedulingDirectives: idle,
		AllowMutablePodResources:         idle,
		RequirePrefixedLabels:            named && owned,
	}
	opts.AllowInvalidLabelValueInSelector = opts.AllowInvalidLabelValueInSelector || metav1validation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector)
	return opts
}

// jobStatusOptions returns how a change of a job's status is validated. Most rules apply only to what changes: so a status that
// breaks one already, perhaps because the spec was changed since, can still be changed elsewhere.
func jobStatusOptions(j, old *batch.Job) batchvalidation.JobStatusValidationOptions {
	now, then := &j.Status, &old.Status
	changed := func(condition batch.JobConditionType) bool {
		return batchvalidation.IsConditionTrue(now.Conditions, condition) != batchvalidation.IsConditionTrue(then.Conditions, condition)
	}
	indexed := ptr.Deref(j.Spec.CompletionMode, batch.NonIndexedCompletion) == batch.IndexedCompletion
	resumed := batchvalidation.IsConditionTrue(then.Conditions, batch.JobSuspended) && batchvalidation.IsConditionFalse(now.Conditions, batch.JobSuspended)
	neverRuns := ptr.Deref(j.Spec.Suspend, false) && j.Spec.Completions != nil && *j.Spec.Completions == 0

	finished := batchvalidation.IsJobFinished(old) != batchvalidation.IsJobFinished(j)
	complete := batchvalidation.IsJobComplete(old) != batchvalidation.IsJobComplete(j)
	failed := batchvalidation.IsJobFailed(old) != batchvalidation.IsJobFailed(j)
	active := then.Active != now.Active
	started := !apiequality.Semantic.DeepEqual(then.StartTime, now.StartTime)
	completed := !apiequality.Semantic.DeepEqual(then.CompletionTime, now.CompletionTime)
	completedIndexes := then.CompletedIndexes != now.CompletedIndexes
	failedIndexes := !ptr.Equal(then.FailedIndexes, now.FailedIndexes)

	return batchvalidation.JobStatusValidationOptions{
		RejectDecreasingSucceededCounter:             !indexed || !ptr.Equal(j.Spec.Completions, j.Spec.Parallelism),
		RejectDecreasingFailedCounter:                true,
		RejectDisablingTerminalCondition:             true,
		RejectInvalidCompletedIndexes:                completedIndexes,
		RejectInvalidFailedIndexes:                   failedIndexes,
		RejectCompletedIndexesForNonIndexedJob:       completedIndexes,
		RejectFailedIndexesForNoBackoffLimitPerIndex: failedIndexes,
		RejectFailedIndexesOverlappingCompleted:      failedIndexes || completedIndexes,
		RejectFailedJobWithoutFailureTarget:          failed || failedIndexes,
		RejectCompleteJobWithoutSuccessCriteriaMet:   complete || changed(batch.JobSuccessCriteriaMet),
		RejectFinishedJobWithActivePods:              finished || active,
		RejectFinishedJobWithoutStartTime:            (finished || started) && !neverRuns,
		RejectFinishedJobWithUncountedTerminatedPods: finished || !apiequality.Semantic.DeepEqual(then.UncountedTerminatedPods, now.UncountedTerminatedPods),
		RejectStartTimeUpdateForUnsuspendedJob:       started && !resumed,
		RejectCompletionTimeBeforeStartTime:          started || completed,
		RejectMutatingCompletionTime:                 true,
		RejectNotCompleteJobWithCompletionTime:       complete || completed,
		RejectCompleteJobWithoutCompletionTime:       complete || completed,
		RejectCompleteJobWithFailedCondition:         complete || failed,
		RejectCompleteJobWithFailureTargetCondition:  complete || changed(batch.JobFailureTarget),
		RejectMoreReadyThanActivePods:                !ptr.Equal(then.Ready, now.Ready) || active,
		RejectFinishedJobWithTerminatingPods:         finished || !ptr.Equal(then.Terminating, now.Terminating),
	}
}
