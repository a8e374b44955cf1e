package plugins

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// VolumeRestrictions refuses nodes on which another pod has a disk that cannot be mounted twice, and all nodes while another pod uses a
// claim with the access mode ReadWriteOncePod.
type VolumeRestrictions struct{ Volumes *Volumes }

// Name returns the plugin's name.
func (*VolumeRestrictions) Name() string { return "VolumeRestrictions" }

var (
	diskInUse  = framework.Refuse(framework.Unschedulable, "VolumeRestrictions", "node(s) had no available disk")
	claimInUse = framework.Refuse(framework.Unschedulable, "VolumeRestrictions", "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod")
)

type restrictionFilter struct {
	pod *corev1.Pod
	// exclusive are the names of the pod's claims with ReadWriteOncePod, and uses is how often placed pods use them.
	exclusive sets.Set[string]
	uses      int
	disks     bool
}

// PreFilter counts the uses of the pod's exclusive claims.
func (r *VolumeRestrictions) PreFilter(c *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	if !framework.Mounts(p.Pod) {
		return nil, nil
	}
	f := &restrictionFilter{pod: p.Pod, exclusive: sets.Set[string]{}}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		f.disks = f.disks || isDisk(v)
		if v.PersistentVolumeClaim == nil {
			continue
		}
		name := v.PersistentVolumeClaim.ClaimName
		claim, ok := r.Volumes.claim(r.Volumes.Client.View(), p.Namespace, name)
		if !ok {
			return nil, framework.Refuse(framework.UnschedulableAndUnresolvable, "VolumeRestrictions", fmt.Sprintf("persistentvolumeclaim %q not found", name))
		}
		if slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			f.exclusive.Insert(name)
		}
	}
	if len(f.exclusive) > 0 {
		for _, n := range c.Nodes {
			for _, other := range n.Mounters {
				f.AddPod(other, n)
			}
		}
	}
	if !f.disks && len(f.exclusive) == 0 {
		return nil, nil
	}
	return f, nil
}

// AddPod counts a pod more.
func (f *restrictionFilter) AddPod(p *framework.PodInfo, _ *framework.NodeInfo) {
	f.uses += f.usedBy(p)
}

// RemovePod counts a pod less.
func (f *restrictionFilter) RemovePod(p *framework.PodInfo, _ *framework.NodeInfo) {
	f.uses -= f.usedBy(p)
}

func (f *restrictionFilter) usedBy(p *framework.PodInfo) (uses int) {
	if p.Namespace != f.pod.Namespace {
		return 0
	}
	for i := range p.Spec.Volumes {
		if claim := p.Spec.Volumes[i].PersistentVolumeClaim; claim != nil && f.exclusive.Has(claim.ClaimName) {
			uses++
		}
	}
	return uses
}

func (f *restrictionFilter) Filter(n *framework.NodeInfo) *framework.Status {
	if f.disks {
		for _, other := range n.Mounters {
			if disksConflict(f.pod, other.Pod) {
				return diskInUse
			}
		}
	}
	if f.uses > 0 {
		return claimInUse
	}
	return nil
}

func isDisk(v *corev1.Volume) bool {
	return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.RBD != nil || v.ISCSI != nil
}

func disksConflict(pod, other *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		for j := range other.Spec.Volumes {
			if diskConflicts(&pod.Spec.Volumes[i], &other.Spec.Volumes[j]) {
				return true
			}
		}
	}
	return false
}

// diskConflicts says whether two volumes are the same disk, and it cannot be mounted twice in this way.
func diskConflicts(a, b *corev1.Volume) bool {
	switch {
	case a.GCEPersistentDisk != nil && b.GCEPersistentDisk != nil:
		return a.GCEPersistentDisk.PDName == b.GCEPersistentDisk.PDName && !(a.GCEPersistentDisk.ReadOnly && b.GCEPersistentDisk.ReadOnly)
	case a.AWSElasticBlockStore != nil && b.AWSElasticBlockStore != nil:
		return a.AWSElasticBlockStore.VolumeID == b.AWSElasticBlockStore.VolumeID
	case a.ISCSI != nil && b.ISCSI != nil:
		return a.ISCSI.IQN == b.ISCSI.IQN && !(a.ISCSI.ReadOnly && b.ISCSI.ReadOnly)
	case a.RBD != nil && b.RBD != nil:
		same := a.RBD.RBDPool == b.RBD.RBDPool && a.RBD.RBDImage == b.RBD.RBDImage &&
			slices.ContainsFunc(a.RBD.CephMonitors, func(m string) bool { return slices.Contains(b.RBD.CephMonitors, m) })
		return same && !(a.RBD.ReadOnly && b.RBD.ReadOnly)
	}
	return false
}

// Events says that the other pod's end, a new node, or the claim may help.
func (r *VolumeRestrictions) Events() []framework.Hint {
	return []framework.Hint{
		{Resource: framework.AssignedPod, Actions: framework.Delete, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			old, _ := e.Pods()
			if disksConflict(p.Pod, old) {
				return true
			}
			shared := false
			claimNames(p.Pod, func(name string, _ bool) {
				shared = shared || usesClaim(old, &corev1.PersistentVolumeClaim{ObjectMeta: metaOf(p.Namespace, name)})
			})
			return shared
		}},
		{Resource: framework.Node, Actions: framework.Add},
		{Resource: framework.PersistentVolumeClaim, Actions: framework.Add | framework.Update, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			now, ok := e.New.(*corev1.PersistentVolumeClaim)
			return ok && usesClaim(p.Pod, now)
		}},
	}
}
