package plugins

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/volumes"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// NodeVolumeLimits refuses nodes to which a CSI driver cannot attach more volumes, and those that lack a driver which pods must not be
// scheduled without.
type NodeVolumeLimits struct{ Volumes *Volumes }

// Name returns the plugin's name.
func (*NodeVolumeLimits) Name() string { return "NodeVolumeLimits" }

var tooManyVolumes = framework.Refuse(framework.Unschedulable, "NodeVolumeLimits", "node(s) exceed max volume count")

type limitFilter struct {
	plugin *NodeVolumeLimits
	view   client.View
	// problem is why the pod's volumes are not known.
	problem *framework.Status
	// wanted are the pod's volumes: the driver of each.
	wanted map[attached]string
	// attachments are the volumes that are attached to the nodes that were looked at.
	attachments map[string]map[attached]string
}

// attached identifies a volume: by its driver and handle, or by its claim as long as it does not exist.
type attached struct{ driver, handle string }

// Volatile says that the results depend on objects that are not part of the cluster.
func (*limitFilter) Volatile() {}

// PreFilter collects the pod's volumes.
func (l *NodeVolumeLimits) PreFilter(_ *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	if !framework.Mounts(p.Pod) {
		return nil, nil
	}
	f := &limitFilter{plugin: l, view: l.Volumes.Client.View(), wanted: map[attached]string{}, attachments: map[string]map[attached]string{}}
	if err := f.collect(p.Pod, f.wanted, true); err != nil {
		// Unless this plugin is alone, VolumeBinding says so better, for all nodes.
		f.problem = framework.Refuse(framework.UnschedulableAndUnresolvable, "NodeVolumeLimits", err.Error())
		return f, nil
	}
	if len(f.wanted) == 0 {
		return nil, nil
	}
	return f, nil
}

// collect adds the volumes of a pod that CSI drivers attach. The claims of a new pod must exist.
func (f *limitFilter) collect(pod *corev1.Pod, into map[attached]string, isNew bool) (err error) {
	claimNames(pod, func(name string, inline bool) {
		claim, ok := f.plugin.Volumes.claim(f.view, pod.Namespace, name)
		if !ok {
			if isNew && err == nil {
				err = fmt.Errorf("looking up PVC %s/%s: persistentvolumeclaim %q not found", pod.Namespace, name, name)
			}
			return
		}
		if inline {
			if notOwned := ephemeral.VolumeIsForPod(pod, claim); notOwned != nil {
				if isNew && err == nil {
					err = notOwned
				}
				return
			}
		}
		if a, ok := f.volumeOf(claim); ok {
			into[a] = a.driver
		}
	})
	for i := range pod.Spec.Volumes {
		csi, invalid := volumes.InlineCSI(&pod.Spec.Volumes[i], pod.Namespace)
		if invalid != nil {
			return cmp.Or(err, fmt.Errorf("converting volume(%s) from inline to csi: %w", pod.Spec.Volumes[i].Name, invalid))
		}
		if csi != nil {
			into[attached{csi.Spec.CSI.Driver, csi.Spec.CSI.VolumeHandle}] = csi.Spec.CSI.Driver
		}
	}
	return err
}

// volumeOf identifies the volume of a claim, if a CSI driver attaches it.
func (f *limitFilter) volumeOf(claim *corev1.PersistentVolumeClaim) (attached, bool) {
	if pv, ok := client.Get[*corev1.PersistentVolume](f.view, "", claim.Spec.VolumeName); ok && claim.Spec.VolumeName != "" {
		csi, err := volumes.CSI(pv)
		if err != nil || csi == nil {
			return attached{}, false
		}
		return attached{csi.Spec.CSI.Driver, csi.Spec.CSI.VolumeHandle}, true
	}
	class, ok := client.Get[*storagev1.StorageClass](f.view, "", volume.GetPersistentVolumeClaimClass(claim))
	if !ok || class.Provisioner == volume.NotSupportedProvisioner {
		return attached{}, false // it is bound before the pod is scheduled, so it is counted then
	}
	// A handle of a driver is not likely to begin with a slash.
	return attached{volumes.Driver(class.Provisioner), "/" + claimKey(claim.Namespace, claim.Name)}, true
}

func (f *limitFilter) Filter(n *framework.NodeInfo) *framework.Status {
	if f.problem != nil {
		return f.problem
	}
	csiNode, _ := client.Get[*storagev1.CSINode](f.view, "", n.Name)
	if refused := f.lacksDriver(csiNode); refused != nil {
		return refused
	}
	limits := limitsOf(csiNode)
	if len(limits) == 0 {
		return nil
	}
	present := map[attached]string{}
	for _, other := range n.Mounters {
		if err := f.collect(other.Pod, present, false); err != nil {
			return framework.Failed("NodeVolumeLimits", err)
		}
	}
	maps.Copy(present, f.attachedTo(n.Name))
	count := map[string]int64{}
	for _, driver := range present {
		count[driver]++
	}
	for a, driver := range f.wanted {
		if _, there := present[a]; there {
			continue // two pods on a node share a volume
		}
		count[driver]++
		if limit, ok := limits[driver]; ok && count[driver] > limit {
			return tooManyVolumes
		}
	}
	return nil
}

// lacksDriver refuses a node without a driver that says that pods must not be scheduled without it.
func (f *limitFilter) lacksDriver(csiNode *storagev1.CSINode) *framework.Status {
	for _, name := range f.wanted {
		driver, ok := client.Get[*storagev1.CSIDriver](f.view, "", name)
		if !ok || driver.Spec.PreventPodSchedulingIfMissing == nil || !*driver.Spec.PreventPodSchedulingIfMissing {
			continue
		}
		if csiNode == nil || !slices.ContainsFunc(csiNode.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == name }) {
			return framework.Refuse(framework.Unschedulable, "NodeVolumeLimits", name+" CSI driver is not installed on the node")
		}
	}
	return nil
}

func limitsOf(csiNode *storagev1.CSINode) map[string]int64 {
	if csiNode == nil {
		return nil
	}
	limits := map[string]int64{}
	for _, d := range csiNode.Spec.Drivers {
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			limits[d.Name] = int64(*d.Allocatable.Count)
		}
	}
	return limits
}

// attachedTo returns the volumes that are attached to a node, also those of pods that are gone.
func (f *limitFilter) attachedTo(node string) map[attached]string {
	if known, ok := f.attachments[node]; ok {
		return known
	}
	found := map[attached]string{}
	for _, a := range attachmentsByNode.Any(f.view, node) {
		if a.Spec.Source.PersistentVolumeName == nil {
			continue // its pod is known, or gone
		}
		if pv, ok := client.Get[*corev1.PersistentVolume](f.view, "", *a.Spec.Source.PersistentVolumeName); ok {
			if csi, err := volumes.CSI(pv); err == nil && csi != nil {
				found[attached{a.Spec.Attacher, csi.Spec.CSI.VolumeHandle}] = a.Spec.Attacher
			}
		}
	}
	f.attachments[node] = found
	return found
}

// attachmentsByNode finds attachments by their node.
var attachmentsByNode = client.NewIndex(func(a *storagev1.VolumeAttachment, add func(string)) { add(a.Spec.NodeName) })

// Events says that drivers that can attach more, and pods and attachments that end, may help.
func (l *NodeVolumeLimits) Events() []framework.Hint {
	return []framework.Hint{
		{Resource: framework.CSINode, Actions: framework.Add | framework.Update},
		{Resource: framework.CSIDriver, Actions: framework.Update | framework.Delete},
		{Resource: framework.AssignedPod, Actions: framework.Delete, Wakes: func(_ *framework.PodInfo, e *framework.Event) bool {
			old, _ := e.Pods()
			return framework.Mounts(old)
		}},
		{Resource: framework.PersistentVolumeClaim, Actions: framework.Add, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			now, ok := e.New.(*corev1.PersistentVolumeClaim)
			return ok && usesClaim(p.Pod, now)
		}},
		{Resource: framework.VolumeAttachment, Actions: framework.Delete},
	}
}
