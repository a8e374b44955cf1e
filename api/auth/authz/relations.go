package authz

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	pvutil "k8s.io/kubernetes/pkg/api/v1/persistentvolume"
	podutil "k8s.io/kubernetes/pkg/api/v1/pod"

	"github.com/kontiki/kontiki/api/client"
)

// podReferences finds the pods of a node by what they use: "node|kind|namespace|name", with the kinds below. A mirror pod, which its node created
// itself, uses nothing.
var podReferences = client.NewIndex(func(pod *corev1.Pod, add func(string)) {
	if pod.Spec.NodeName == "" {
		return
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return
	}
	used := func(kind, name string) { add(reference(pod.Spec.NodeName, kind, pod.Namespace, name)) }
	if pod.Spec.ServiceAccountName != "" {
		used("serviceaccount", pod.Spec.ServiceAccountName)
	}
	podutil.VisitPodSecretNames(pod, func(name string) bool {
		used("secret", name)
		return true
	})
	podutil.VisitPodConfigmapNames(pod, func(name string) bool {
		used("configmap", name)
		return true
	})
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if volume.PersistentVolumeClaim != nil {
			used("claim", volume.PersistentVolumeClaim.ClaimName)
		} else if volume.Ephemeral != nil {
			used("claim", ephemeral.VolumeClaimName(pod, volume))
		}
	}
	for name := range resourceclaim.PodClaims(pod) {
		used("resourceclaim", name)
	}
})

func reference(node, kind, namespace, name string) string {
	return node + "|" + kind + "|" + namespace + "|" + name
}

// uses returns the relation of a node to what one of its pods refers to.
func uses(kind string) relation {
	return func(v client.View, node, namespace, name string) bool {
		return len(podReferences.Any(v, reference(node, kind, namespace, name))) > 0
	}
}

// volumeSecrets finds volumes by the secrets "namespace|name" that nodes need to mount them.
var volumeSecrets = client.NewIndex(func(pv *corev1.PersistentVolume, add func(string)) {
	if pv.Spec.ClaimRef == nil {
		return
	}
	pvutil.VisitPVSecretNames(pv, func(namespace, name string, kubeletVisible bool) bool {
		if kubeletVisible {
			add(namespace + "|" + name)
		}
		return true
	})
})

// usesSecret is the relation to a secret that a pod uses, or a volume of a claim that a pod uses.
func usesSecret(v client.View, node, namespace, name string) bool {
	if uses("secret")(v, node, namespace, name) {
		return true
	}
	for _, pv := range volumeSecrets.Any(v, namespace+"|"+name) {
		if claimed(v, node, pv) {
			return true
		}
	}
	return false
}

// claimed says whether a pod of the node uses the claim that a volume is bound to.
func claimed(v client.View, node string, pv *corev1.PersistentVolume) bool {
	ref := pv.Spec.ClaimRef
	return ref != nil && uses("claim")(v, node, ref.Namespace, ref.Name)
}

func usesVolume(v client.View, node, _, name string) bool {
	pv, ok := client.Get[*corev1.PersistentVolume](v, "", name)
	return ok && claimed(v, node, pv)
}

// runs is the relation to the node's own pods.
func runs(v client.View, node, namespace, name string) bool {
	pod, ok := client.Get[*corev1.Pod](v, namespace, name)
	return ok && pod.Spec.NodeName == node
}

func isAttachmentOf(v client.View, node, _, name string) bool {
	attachment, ok := client.Get[*storagev1.VolumeAttachment](v, "", name)
	return ok && attachment.Spec.NodeName == node
}

func isSliceOf(v client.View, node, _, name string) bool {
	slice, ok := client.Get[*resourcev1.ResourceSlice](v, "", name)
	return ok && slice.Spec.NodeName != nil && *slice.Spec.NodeName == node
}

func isCertificateRequestOf(v client.View, node, namespace, name string) bool {
	request, ok := client.Get[*certificatesv1.PodCertificateRequest](v, namespace, name)
	return ok && string(request.Spec.NodeName) == node
}
