package plugins

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/storage/volume"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// VolumeZone refuses nodes in other zones or regions than the pod's bound volumes are labelled with.
type VolumeZone struct{ Volumes *Volumes }

// Name returns the plugin's name.
func (*VolumeZone) Name() string { return "VolumeZone" }

var wrongZone = framework.Refuse(framework.UnschedulableAndUnresolvable, "VolumeZone", "node(s) had no available volume zone")

// zoneLabels are the labels that are compared, by what a node without the label may have instead.
var zoneLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone: corev1.LabelTopologyZone, corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	corev1.LabelTopologyZone: corev1.LabelTopologyZone, corev1.LabelTopologyRegion: corev1.LabelTopologyRegion,
}

// zoneSeparator separates the zones of a volume that is in several.
const zoneSeparator = "__"

type zoneFilter []zoneConstraint

type zoneConstraint struct {
	key    string
	values sets.Set[string]
}

// Volatile says that the results depend on objects that are not part of the cluster.
func (zoneFilter) Volatile() {}

// PreFilter collects the zones of the pod's volumes.
func (z *VolumeZone) PreFilter(_ *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	if !hasClaims(p.Pod) {
		return nil, nil
	}
	var f zoneFilter
	view := z.Volumes.Client.View()
	for i := range p.Spec.Volumes {
		source := p.Spec.Volumes[i].PersistentVolumeClaim
		if source == nil {
			continue
		}
		pv, reason := z.boundVolume(view, p.Namespace, source.ClaimName)
		if reason != "" {
			return nil, framework.Refuse(framework.UnschedulableAndUnresolvable, "VolumeZone", reason)
		}
		if pv != nil {
			f = append(f, zonesOf(pv)...)
		}
	}
	if len(f) == 0 {
		return nil, nil
	}
	return f, nil
}

// boundVolume returns the volume of a claim, nil if it waits for its first consumer, or why there is none.
func (z *VolumeZone) boundVolume(view client.View, namespace, name string) (*corev1.PersistentVolume, string) {
	claim, ok := z.Volumes.claim(view, namespace, name)
	if !ok {
		return nil, fmt.Sprintf("persistentvolumeclaim %q not found", name)
	}
	if claim.Spec.VolumeName != "" {
		pv, ok := client.Get[*corev1.PersistentVolume](view, "", claim.Spec.VolumeName)
		if !ok {
			return nil, fmt.Sprintf("persistentvolume %q not found", claim.Spec.VolumeName)
		}
		return pv, ""
	}
	className := volume.GetPersistentVolumeClaimClass(claim)
	if className == "" {
		return nil, "PersistentVolumeClaim had no pv name and storageClass name"
	}
	class, ok := client.Get[*storagev1.StorageClass](view, "", className)
	switch {
	case !ok:
		return nil, fmt.Sprintf("storageclass.storage.k8s.io %q not found", className)
	case class.VolumeBindingMode == nil:
		return nil, fmt.Sprintf("VolumeBindingMode not set for StorageClass %q", className)
	case *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer:
		return nil, "PersistentVolume had no name"
	}
	return nil, ""
}

func zonesOf(pv *corev1.PersistentVolume) (out []zoneConstraint) {
	for key := range zoneLabels {
		if value, ok := pv.Labels[key]; ok {
			out = append(out, zoneConstraint{key, sets.New(strings.Split(value, zoneSeparator)...)})
		}
	}
	return out
}

func (f zoneFilter) Filter(n *framework.NodeInfo) *framework.Status {
	constrained := false
	for key := range zoneLabels {
		_, ok := n.Labels[key]
		constrained = constrained || ok
	}
	if !constrained {
		return nil // the nodes of a cluster with a single zone need not have labels
	}
	for _, c := range f {
		value, ok := n.Labels[c.key]
		if !ok {
			value, ok = n.Labels[zoneLabels[c.key]]
		}
		if !ok || !c.values.Has(value) {
			return wrongZone
		}
	}
	return nil
}

// Events says which changes of volumes, claims, classes and nodes may help.
func (z *VolumeZone) Events() []framework.Hint {
	return []framework.Hint{
		{Resource: framework.StorageClass, Actions: framework.Add},
		{Resource: framework.Node, Actions: framework.Add | framework.Update, Wakes: labelsChanged},
		{Resource: framework.PersistentVolumeClaim, Actions: framework.Add | framework.Update, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			now, ok := e.New.(*corev1.PersistentVolumeClaim)
			return ok && usesClaim(p.Pod, now)
		}},
		{Resource: framework.PersistentVolume, Actions: framework.Add | framework.Update},
	}
}
