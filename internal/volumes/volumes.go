// Package volumes has what controllers, the scheduler and workers must agree on about volumes: their names, and what of a volume may be in
// use in two places.
package volumes

import (
	"crypto/sha256"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	csitranslation "k8s.io/csi-translation-lib"
	"k8s.io/klog/v2"
)

// translator knows the CSI drivers that have replaced the code of old kinds of volumes.
var translator = csitranslation.New()

// CSI returns a volume as its CSI driver sees it: itself, or the translation of one of a kind that a driver has replaced. It returns nil
// for a volume of another kind.
func CSI(pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	if pv.Spec.CSI != nil {
		return pv, nil
	}
	if !translator.IsPVMigratable(pv) {
		return nil, nil
	}
	translated, err := translator.TranslateInTreePVToCSI(klog.Background(), pv)
	if err != nil {
		return nil, fmt.Errorf("failed to translate in-tree pv to CSI: %w", err)
	}
	return translated, nil
}

// InlineCSI is CSI for a volume that a pod defines itself. It returns nil for a claim, and for a volume of a kind that no driver has replaced;
// so also for an ephemeral CSI volume, which is never attached.
func InlineCSI(volume *corev1.Volume, namespace string) (*corev1.PersistentVolume, error) {
	if !translator.IsInlineMigratable(volume) {
		return nil, nil
	}
	translated, err := translator.TranslateInTreeInlineVolumeToCSI(klog.Background(), volume, namespace)
	if err != nil {
		return nil, fmt.Errorf("failed to translate in-tree pv to CSI: %w", err)
	}
	return translated, nil
}

// Driver returns the CSI driver that has replaced a provisioner, or the provisioner.
func Driver(provisioner string) string {
	if driver, err := translator.GetCSINameFromInTreeName(provisioner); err == nil {
		return driver
	}
	return provisioner
}

// UniqueName returns the name of a CSI volume in a Node's status.
func UniqueName(driver, handle string) corev1.UniqueVolumeName {
	return corev1.UniqueVolumeName("kubernetes.io/csi/" + driver + "^" + handle)
}

// AttachmentName returns the name of the VolumeAttachment of a CSI volume and a node.
func AttachmentName(driver, handle, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(handle+driver+node)))
}

// Shared says whether a volume may be attached to several nodes. One without access modes may: if it must not, its driver says so.
func Shared(pv *corev1.PersistentVolume) bool {
	return len(pv.Spec.AccessModes) == 0 || slices.ContainsFunc(pv.Spec.AccessModes, func(mode corev1.PersistentVolumeAccessMode) bool {
		return mode == corev1.ReadWriteMany || mode == corev1.ReadOnlyMany
	})
}

// Fenced says whether a pod that uses a volume must be stopped before the volume may be used on another node: it is for one node at a time,
// and not bound to one node. A local volume whose affinity names several nodes is a file system that they share.
func Fenced(pv *corev1.PersistentVolume) bool {
	return !Shared(pv) && pv.Spec.HostPath == nil && !ofOneNode(pv)
}

// ofOneNode says whether a volume's node affinity names its nodes by their host name.
func ofOneNode(pv *corev1.PersistentVolume) bool {
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
		return false
	}
	terms := pv.Spec.NodeAffinity.Required.NodeSelectorTerms
	named := func(term corev1.NodeSelectorTerm) bool {
		return slices.ContainsFunc(slices.Concat(term.MatchExpressions, term.MatchFields), func(r corev1.NodeSelectorRequirement) bool {
			return (r.Key == corev1.LabelHostname || r.Key == "metadata.name") && r.Operator == corev1.NodeSelectorOpIn && len(r.Values) == 1
		})
	}
	return len(terms) == 1 && named(terms[0])
}

// Annotations of Nodes about fencing (docs/storage-fencing.md).
const (
	// LeaseOfNode is how long the leases of the worker are. Only nodes with it are fenced.
	LeaseOfNode = "kontiki.io/volume-lease"
	// FencingNode is on the Node of a worker that gets no leases any more, FencedNode on that of one whose last lease has ended, so that it
	// has stopped the pods that use volumes for one node at a time. Only controller/fence sets and removes them.
	FencingNode = "kontiki.io/fencing"
	FencedNode  = "kontiki.io/fenced"
)

// FencedPod says whether a pod uses a volume that it must not use without a lease. volume returns the volume of a claim; known is false if
// the claim or its volume is not known, and then unknown is the answer.
func FencedPod(pod *corev1.Pod, volume func(claim string) (pv *corev1.PersistentVolume, known bool), unknown bool) bool {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		claim := ""
		switch {
		case v.PersistentVolumeClaim != nil:
			claim = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			claim = ephemeral.VolumeClaimName(pod, v)
		default:
			if pv, err := InlineCSI(v, pod.Namespace); err == nil && pv != nil && Fenced(pv) {
				return true
			}
			continue
		}
		if pv, known := volume(claim); !known && unknown || known && Fenced(pv) {
			return true
		}
	}
	return false
}
