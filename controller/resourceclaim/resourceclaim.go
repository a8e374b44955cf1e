// Package resourceclaim makes the resource claims of pods from templates, reserves allocated claims for pods that were bound without
// the scheduler, and takes back what pods no longer use: reservations, allocations, and claims that were made for a pod.
package resourceclaim

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

type reconciler struct {
	client   *client.Client
	recorder record.EventRecorder
}

// New returns the controllers: of what pods need, and of what claims are needed for.
func New(c *client.Client, recorder record.EventRecorder) []*controller.Controller {
	r := &reconciler{c, recorder}
	return []*controller.Controller{
		{
			Name:    "resourceclaim-pods",
			Watches: []client.Object{&corev1.Pod{}, &resourcev1.ResourceClaim{}, &resourcev1.ResourceClaimTemplate{}},
			Start: func(v client.View, enqueue func(controller.Key)) {
				client.Each(v, "", func(pod *corev1.Pod) bool {
					if mayRun(pod) {
						enqueue(controller.KeyOf(pod))
					}
					return true
				})
			},
			Enqueue: enqueuePods, Reconcile: r.syncPod,
		},
		{
			Name:    "resourceclaim",
			Watches: []client.Object{&corev1.Pod{}, &resourcev1.ResourceClaim{}},
			Start: func(v client.View, enqueue func(controller.Key)) {
				client.Each(v, "", func(claim *resourcev1.ResourceClaim) bool { enqueue(controller.KeyOf(claim)); return true })
			},
			Enqueue: enqueueClaims, Reconcile: r.syncClaim,
		},
	}
}

// pods finds pods that may run by the claims and the templates that they name.
var pods = client.NewIndex(func(pod *corev1.Pod, add func(string)) {
	if !mayRun(pod) {
		return
	}
	for i := range pod.Spec.ResourceClaims {
		if name := pod.Spec.ResourceClaims[i].ResourceClaimTemplateName; name != nil {
			add("template " + pod.Namespace + "/" + *name)
		}
	}
	for _, name := range claimNames(pod) {
		add("claim " + pod.Namespace + "/" + name)
	}
})

// usersOf returns the pods that may run and name a claim.
func usersOf(v client.View, claim *resourcev1.ResourceClaim) []*corev1.Pod {
	return pods.Any(v, "claim "+claim.Namespace+"/"+claim.Name)
}

// claims finds claims by the UID of the pod that they were made for.
var claims = client.NewIndex(func(claim *resourcev1.ResourceClaim, add func(string)) {
	if ref := owningPod(claim); ref != nil {
		add(string(ref.UID))
	}
})

// owningPod returns the reference to the pod that a claim was made for; nil if it was made by a user.
func owningPod(claim *resourcev1.ResourceClaim) *metav1.OwnerReference {
	if ref := metav1.GetControllerOfNoCopy(claim); ref != nil && ref.APIVersion == "v1" && ref.Kind == "Pod" {
		return ref
	}
	return nil
}

// mayRun says whether a pod needs claims made and reserved.
func mayRun(pod *corev1.Pod) bool {
	return len(pod.Spec.ResourceClaims) > 0 && pod.DeletionTimestamp == nil && !done(pod)
}

// done says whether it is certain that a pod's containers do not run and never will.
func done(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.DeletionTimestamp != nil && pod.Spec.NodeName == ""
}

// claimOf returns the name of the claim of an entry of a pod, or "" if it was not made yet. unneeded says that none will be.
func claimOf(pod *corev1.Pod, entry *corev1.PodResourceClaim) (name string, unneeded bool) {
	if entry.ResourceClaimName != nil {
		return *entry.ResourceClaimName, false
	}
	for _, status := range pod.Status.ResourceClaimStatuses {
		if status.Name == entry.Name {
			if status.ResourceClaimName == nil {
				return "", true
			}
			return *status.ResourceClaimName, false
		}
	}
	return "", false
}

// claimNames returns the names of the claims that a pod uses, as far as they were made.
func claimNames(pod *corev1.Pod) (names []string) {
	for i := range pod.Spec.ResourceClaims {
		if name, _ := claimOf(pod, &pod.Spec.ResourceClaims[i]); name != "" {
			names = append(names, name)
		}
	}
	if st := pod.Status.ExtendedResourceClaimStatus; st != nil && st.ResourceClaimName != "" {
		names = append(names, st.ResourceClaimName)
	}
	return names
}

func enqueuePods(v client.View, event client.Event, enqueue func(controller.Key)) {
	var key string
	switch obj := event.Object().(type) {
	case *corev1.Pod:
		if event.New != nil && mayRun(obj) {
			enqueue(controller.KeyOf(obj))
		}
		return
	case *resourcev1.ResourceClaim:
		key = "claim " + obj.Namespace + "/" + obj.Name
	case *resourcev1.ResourceClaimTemplate:
		if event.Old != nil {
			return // templates never change
		}
		key = "template " + obj.Namespace + "/" + obj.Name
	}
	for _, pod := range pods.Any(v, key) {
		enqueue(controller.KeyOf(pod))
	}
}

func enqueueClaims(v client.View, event client.Event, enqueue func(controller.Key)) {
	pod, ok := event.Object().(*corev1.Pod)
	if !ok {
		if event.New != nil {
			enqueue(controller.KeyOf(event.New))
		}
		return
	}
	if event.New != nil && !done(pod) || len(pod.Spec.ResourceClaims) == 0 && pod.Status.ExtendedResourceClaimStatus == nil {
		return
	}
	for _, name := range claimNames(pod) {
		enqueue(controller.Key{Namespace: pod.Namespace, Name: name})
	}
	for _, claim := range claims.Any(v, string(pod.UID)) {
		enqueue(controller.KeyOf(claim))
	}
}

// reserved says whether a claim is reserved for a pod.
func reserved(claim *resourcev1.ResourceClaim, pod *corev1.Pod) bool {
	return slices.ContainsFunc(claim.Status.ReservedFor, func(ref resourcev1.ResourceClaimConsumerReference) bool { return ref.UID == pod.UID })
}
