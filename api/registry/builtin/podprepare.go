package builtin

import (
	"fmt"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/features"
)

// mergeMatchLabelKeys adds matchLabelKeys and mismatchLabelKeys of affinity terms and spread constraints to their selectors
// (KEP-3633, KEP-3243), so that a scheduler needs only the selectors.
func mergeMatchLabelKeys(pod *core.Pod) {
	if affinity := pod.Spec.Affinity; affinity != nil && utilfeature.DefaultFeatureGate.Enabled(features.MatchLabelKeysInPodAffinity) {
		if a := affinity.PodAffinity; a != nil {
			mergeTerms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, pod.Labels)
		}
		if a := affinity.PodAntiAffinity; a != nil {
			mergeTerms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, pod.Labels)
		}
	}
	if !utilfeature.DefaultFeatureGate.Enabled(features.MatchLabelKeysInPodTopologySpread) ||
		!utilfeature.DefaultFeatureGate.Enabled(features.MatchLabelKeysInPodTopologySpreadSelectorMerge) {
		return
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if c.LabelSelector != nil { // a nil selector matches nothing, whatever the keys
			mergeKeys(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn, pod.Labels)
		}
	}
}

func mergeTerms(required []core.PodAffinityTerm, preferred []core.WeightedPodAffinityTerm, labels map[string]string) {
	merge := func(t *core.PodAffinityTerm) {
		if t.LabelSelector != nil {
			mergeKeys(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn, labels)
			mergeKeys(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn, labels)
		}
	}
	for i := range required {
		merge(&required[i])
	}
	for i := range preferred {
		merge(&preferred[i].PodAffinityTerm)
	}
}

func mergeKeys(selector *metav1.LabelSelector, keys []string, operator metav1.LabelSelectorOperator, labels map[string]string) {
	for _, key := range keys {
		if value, ok := labels[key]; ok {
			selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{Key: key, Operator: operator, Values: []string{value}})
		}
	}
}

// appArmorFields copies the old AppArmor annotations to the fields that replace them (KEP-24, version skew).
func appArmorFields(pod *core.Pod) {
	eachAppArmorAnnotation(pod, func(c *core.Container, _ string, profile *core.AppArmorProfile, whole bool) {
		if profile == nil || whole {
			return
		}
		if c.SecurityContext == nil {
			c.SecurityContext = &core.SecurityContext{}
		}
		c.SecurityContext.AppArmorProfile = profile
	})
}

// appArmorWarnings returns warnings about annotations that have been replaced by fields, or have no effect.
func appArmorWarnings(pod *core.Pod) (out []string) {
	eachAppArmorAnnotation(pod, func(_ *core.Container, key string, _ *core.AppArmorProfile, whole bool) {
		if !whole {
			out = append(out, fmt.Sprintf(`%s: deprecated since v1.30; use the "appArmorProfile" field instead`, field.NewPath("metadata", "annotations").Key(key)))
		}
	})
	return out
}

// eachAppArmorAnnotation visits the containers that have the annotation but not the field, with the annotation's key, the profile
// that it names (nil if it is invalid), and whether that is the whole pod's anyway.
func eachAppArmorAnnotation(pod *core.Pod, visit func(c *core.Container, key string, profile *core.AppArmorProfile, whole bool)) {
	if len(pod.Annotations) == 0 || pod.Spec.OS != nil && pod.Spec.OS.Name == core.Windows {
		return
	}
	var ofPod *core.AppArmorProfile
	if pod.Spec.SecurityContext != nil {
		ofPod = pod.Spec.SecurityContext.AppArmorProfile
	}
	podutil.VisitContainers(&pod.Spec, podutil.AllFeatureEnabledContainers(), func(c *core.Container, _ podutil.ContainerType) bool {
		key := core.DeprecatedAppArmorAnnotationKeyPrefix + c.Name
		annotation, ok := pod.Annotations[key]
		if !ok || (c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil) {
			return true
		}
		profile := podutil.ApparmorFieldForAnnotation(annotation)
		if len(validation.ValidateAppArmorProfileField(profile, &field.Path{})) > 0 {
			profile = nil
		}
		visit(c, key, profile, profile != nil && apiequality.Semantic.DeepEqual(profile, ofPod))
		return true
	})
}
