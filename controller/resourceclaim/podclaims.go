package resourceclaim

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// syncPod makes the claims that a pod still lacks, and reserves for a pod that has a node what is allocated.
func (r *reconciler) syncPod(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	pod, ok := client.Get[*corev1.Pod](v, key.Namespace, key.Name)
	if !ok || !mayRun(pod) {
		return controller.Result{}, nil
	}
	made := map[string]string{}
	for i := range pod.Spec.ResourceClaims {
		entry := &pod.Spec.ResourceClaims[i]
		name, err := r.makeClaim(ctx, v, pod, entry)
		if err != nil {
			r.recorder.Eventf(pod, corev1.EventTypeWarning, "FailedResourceClaimCreation", "PodResourceClaim %s: %v", entry.Name, err)
			return controller.Result{}, fmt.Errorf("PodResourceClaim %s: %w", entry.Name, err)
		}
		if name != "" {
			made[entry.Name] = name
		}
	}
	if len(made) > 0 {
		if err := r.nameClaims(ctx, pod, made); err != nil {
			return controller.Result{}, err
		}
	}
	if pod.Spec.NodeName == "" {
		return controller.Result{}, nil // the scheduler reserves
	}
	return controller.Result{}, r.reserve(ctx, v, pod)
}

// makeClaim makes the claim of an entry from its template. It returns the claim's name, or "" if the pod's status names it already or
// none is needed.
func (r *reconciler) makeClaim(ctx context.Context, v client.View, pod *corev1.Pod, entry *corev1.PodResourceClaim) (string, error) {
	name, unneeded := claimOf(pod, entry)
	if unneeded || entry.ResourceClaimTemplateName == nil {
		return "", nil
	}
	if name != "" {
		claim, ok := client.Get[*resourcev1.ResourceClaim](v, pod.Namespace, name)
		if ok && metav1.IsControlledBy(claim, pod) {
			return "", nil
		}
	}
	// It may have been made before its name could be stored.
	for _, claim := range claims.Any(v, string(pod.UID)) {
		if claim.Annotations[resourcev1.PodResourceClaimAnnotation] == entry.Name && claim.DeletionTimestamp == nil {
			return claim.Name, nil
		}
	}
	template, ok := client.Get[*resourcev1.ResourceClaimTemplate](v, pod.Namespace, *entry.ResourceClaimTemplateName)
	if !ok {
		return "", fmt.Errorf("resource claim template %q: resourceclaimtemplate.resource.k8s.io %q not found", *entry.ResourceClaimTemplateName, *entry.ResourceClaimTemplateName)
	}
	annotations := maps.Clone(template.Spec.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[resourcev1.PodResourceClaimAnnotation] = entry.Name
	owner := metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))
	owner.BlockOwnerDeletion = nil
	claim, err := client.Create(ctx, r.client, &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: claimPrefix(pod.Name, entry.Name), Labels: maps.Clone(template.Spec.Labels), Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*owner},
		},
		Spec: *template.Spec.Spec.DeepCopy(),
	})
	if err != nil {
		return "", fmt.Errorf("create ResourceClaim: %w", err)
	}
	return claim.Name, nil
}

// longestPrefix is how much of a name is left beside a hyphen and five random characters.
const longestPrefix = 57

// claimPrefix returns the prefix of a claim's generated name, with as much of both names as there is room for.
func claimPrefix(pod, entry string) string {
	prefix := pod + "-" + entry + "-"
	if n := len(prefix); n > longestPrefix {
		return pod[:len(pod)*longestPrefix/n] + "-" + entry[:len(entry)*longestPrefix/n]
	}
	return prefix
}

// nameClaims stores the names of claims in the pod's status, beside those that are there.
func (r *reconciler) nameClaims(ctx context.Context, pod *corev1.Pod, made map[string]string) error {
	changed := pod.DeepCopy()
	for i := range changed.Status.ResourceClaimStatuses {
		status := &changed.Status.ResourceClaimStatuses[i]
		if name, ok := made[status.Name]; ok {
			status.ResourceClaimName = &name
			delete(made, status.Name)
		}
	}
	for entry, name := range made {
		changed.Status.ResourceClaimStatuses = append(changed.Status.ResourceClaimStatuses, corev1.PodResourceClaimStatus{Name: entry, ResourceClaimName: &name})
	}
	slices.SortFunc(changed.Status.ResourceClaimStatuses, func(a, b corev1.PodResourceClaimStatus) int { return strings.Compare(a.Name, b.Name) })
	if _, err := client.UpdateStatus(ctx, r.client, changed); err != nil {
		return fmt.Errorf("update pod %s ResourceClaimStatuses: %w", pod.Name, err)
	}
	return nil
}

// reserve reserves the allocated claims of a pod that has a node: whoever bound it may not have done so.
func (r *reconciler) reserve(ctx context.Context, v client.View, pod *corev1.Pod) error {
	for i := range pod.Spec.ResourceClaims {
		entry := &pod.Spec.ResourceClaims[i]
		name, _ := claimOf(pod, entry)
		claim, ok := client.Get[*resourcev1.ResourceClaim](v, pod.Namespace, name)
		if name == "" || !ok || claim.Status.Allocation == nil || reserved(claim, pod) || len(claim.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize ||
			entry.ResourceClaimTemplateName != nil && !metav1.IsControlledBy(claim, pod) {
			continue
		}
		changed := claim.DeepCopy()
		changed.Status.ReservedFor = append(changed.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		if _, err := client.UpdateStatus(ctx, r.client, changed); err != nil {
			return fmt.Errorf("reserve claim %s: %w", name, err)
		}
	}
	return nil
}
