package plugins

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/internal/volumes"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// VolumeBinding refuses nodes that the pod's volumes cannot be used on, and chooses volumes for claims that wait for their first
// consumer: one that exists, or the node for which one is to be provisioned. Before the pod is bound, it writes that into the volumes
// and claims, and waits until the volume controller and the provisioners have completed it.
type VolumeBinding struct {
	Volumes *Volumes
	// Timeout is how long it waits.
	Timeout time.Duration
	// Shape scores nodes by the share of the storage that the pod would use.
	Shape []ShapePoint
}

// DefaultBindTimeout and DefaultStorageShape are upstream's defaults.
const DefaultBindTimeout = 10 * time.Minute

// DefaultStorageShape prefers nodes with much storage left.
var DefaultStorageShape = []ShapePoint{{0, framework.MaxScore}, {100, 0}}

// Name returns the plugin's name.
func (*VolumeBinding) Name() string { return "VolumeBinding" }

func refuseVolumes(reasons ...string) *framework.Status {
	return framework.Refuse(framework.UnschedulableAndUnresolvable, "VolumeBinding", reasons...)
}

var (
	elsewhere  = refuseVolumes("node(s) didn't match PersistentVolume's node affinity")
	noVolume   = refuseVolumes("node(s) didn't find available persistent volumes to bind")
	noSpace    = refuseVolumes("node(s) did not have enough free storage")
	lostVolume = refuseVolumes("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
	immediate  = refuseVolumes("pod has unbound immediate PersistentVolumeClaims")
)

// volumeFilter is what is known about the claims of one pod.
type volumeFilter struct {
	plugin *VolumeBinding
	view   client.View
	pod    *corev1.Pod
	bound  []*corev1.PersistentVolumeClaim
	// waiting are the claims that wait for their first consumer, the smallest first, and candidates the volumes of their classes.
	waiting    []*corev1.PersistentVolumeClaim
	candidates map[string][]*corev1.PersistentVolume
	capacities map[string][]storageCapacity // by class, as far as they were needed
	// plans are what is to be done for the nodes that passed.
	plans map[string]*volumePlan
	taken *volumePlan // the one that was reserved
}

// volumePlan is what is to be done for a pod on a node.
type volumePlan struct {
	bindings   []volumeMatch
	provisions []provision
}

type volumeMatch struct {
	pv    *corev1.PersistentVolume
	claim *corev1.PersistentVolumeClaim
}

type provision struct {
	claim    *corev1.PersistentVolumeClaim
	capacity *storagev1.CSIStorageCapacity // nil if it is not known
}

// Volatile says that the results depend on objects that are not part of the cluster.
func (*volumeFilter) Volatile() {}

// PreFilter sorts the pod's claims.
func (b *VolumeBinding) PreFilter(_ *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	if !hasClaims(p.Pod) {
		return nil, nil
	}
	f := &volumeFilter{plugin: b, view: b.Volumes.Client.View(), pod: p.Pod, candidates: map[string][]*corev1.PersistentVolume{},
		capacities: map[string][]storageCapacity{}, plans: map[string]*volumePlan{}}
	unbound := false
	var refused *framework.Status
	claimNames(p.Pod, func(name string, inline bool) {
		claim, reason := b.usable(f.view, p.Pod, name, inline)
		if reason != "" {
			refused = cmp.Or(refused, refuseVolumes(reason))
			return
		}
		if fullyBound(claim) {
			f.bound = append(f.bound, claim)
			return
		}
		waits, err := waitsForConsumer(f.view, claim)
		switch {
		case err != nil:
			refused = cmp.Or(refused, framework.Failed("VolumeBinding", err))
		case waits && claim.Spec.VolumeName == "":
			f.waiting = append(f.waiting, claim)
		default:
			unbound = true
		}
	})
	if refused != nil {
		return nil, refused
	}
	if unbound {
		return nil, immediate
	}
	f.findCandidates()
	return f, nil
}

// usable returns a claim, or why a pod cannot use it.
func (b *VolumeBinding) usable(view client.View, pod *corev1.Pod, name string, inline bool) (*corev1.PersistentVolumeClaim, string) {
	claim, ok := b.Volumes.claim(view, pod.Namespace, name)
	switch {
	case !ok && inline:
		return nil, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
	case !ok:
		return nil, fmt.Sprintf("persistentvolumeclaim %q not found", name)
	case claim.Status.Phase == corev1.ClaimLost:
		return nil, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return nil, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
	}
	if inline {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return nil, err.Error()
		}
	}
	return claim, ""
}

// findCandidates lists the volumes of the classes of the waiting claims.
func (f *volumeFilter) findCandidates() {
	if len(f.waiting) == 0 {
		return
	}
	slices.SortStableFunc(f.waiting, func(a, b *corev1.PersistentVolumeClaim) int {
		x, y := a.Spec.Resources.Requests[corev1.ResourceStorage], b.Spec.Resources.Requests[corev1.ResourceStorage]
		return x.Cmp(y)
	})
	// Volumes that are reserved for other claims can be many, and are not looked at.
	keys := map[string][]string{}
	for _, claim := range f.waiting {
		class := volume.GetPersistentVolumeClaimClass(claim)
		if keys[class] == nil {
			keys[class] = []string{classKey(class)}
		}
		keys[class] = append(keys[class], reservedKey(claim.Namespace, claim.Name))
	}
	for class, keys := range keys {
		for _, pv := range candidateVolumes.Any(f.view, keys...) {
			f.candidates[class] = append(f.candidates[class], f.plugin.Volumes.pv(pv))
		}
	}
}

// candidateVolumes finds volumes by the claim that they are reserved for, and those that are free by their class.
var candidateVolumes = client.NewIndex(func(pv *corev1.PersistentVolume, add func(string)) {
	if ref := pv.Spec.ClaimRef; ref != nil {
		add(reservedKey(ref.Namespace, ref.Name))
	} else {
		add(classKey(volume.GetPersistentVolumeClass(pv)))
	}
})

// capacitiesByClass finds how much storage there is for a class.
var capacitiesByClass = client.NewIndex(func(c *storagev1.CSIStorageCapacity, add func(string)) { add(c.StorageClassName) })

func classKey(name string) string               { return "class " + name }
func reservedKey(namespace, name string) string { return "claim " + namespace + "/" + name }

func (f *volumeFilter) Filter(n *framework.NodeInfo) *framework.Status {
	if refused := f.boundElsewhere(n.Node); refused != nil {
		return refused
	}
	plan := &volumePlan{}
	var provisioned []*corev1.PersistentVolumeClaim
	chosen := map[string]*corev1.PersistentVolume{}
	for _, claim := range f.waiting {
		if selected, ok := claim.Annotations[volume.AnnSelectedNode]; ok {
			if selected != n.Name {
				return noVolume
			}
			provisioned = append(provisioned, claim)
			continue
		}
		pv, err := volume.FindMatchingVolume(claim, f.candidates[volume.GetPersistentVolumeClaimClass(claim)], n.Node, chosen, true, true)
		if err != nil {
			return framework.Failed("VolumeBinding", err)
		}
		if pv == nil {
			provisioned = append(provisioned, claim)
			continue
		}
		chosen[pv.Name] = pv
		plan.bindings = append(plan.bindings, volumeMatch{pv, claim})
	}
	for _, claim := range provisioned {
		capacity, refused := f.canProvision(claim, n.Node)
		if refused != nil {
			return refused
		}
		plan.provisions = append(plan.provisions, provision{claim, capacity})
	}
	f.plans[n.Name] = plan
	return nil
}

// boundElsewhere refuses a node that a bound volume cannot be used on.
func (f *volumeFilter) boundElsewhere(node *corev1.Node) *framework.Status {
	for _, claim := range f.bound {
		pv, ok := client.Get[*corev1.PersistentVolume](f.view, "", claim.Spec.VolumeName)
		if !ok {
			return lostVolume
		}
		if usableOn(pv, node) != nil {
			return elsewhere
		}
	}
	return nil
}

// usableOn says why a volume cannot be used on a node. The driver that has replaced the volume's kind may call its zones otherwise.
func usableOn(pv *corev1.PersistentVolume, node *corev1.Node) error {
	csi, err := volumes.CSI(pv)
	if err != nil {
		return err
	}
	if csi == nil {
		csi = pv
	}
	return volume.CheckNodeAffinity(csi, node.Labels)
}

// canProvision refuses a node for which no volume can be provisioned.
func (f *volumeFilter) canProvision(claim *corev1.PersistentVolumeClaim, node *corev1.Node) (*storagev1.CSIStorageCapacity, *framework.Status) {
	name := volume.GetPersistentVolumeClaimClass(claim)
	class, ok := client.Get[*storagev1.StorageClass](f.view, "", name)
	if !ok {
		return nil, framework.Failed("VolumeBinding", fmt.Errorf("failed to find storage class %q", name))
	}
	if class.Provisioner == "" || class.Provisioner == volume.NotSupportedProvisioner {
		return nil, noVolume
	}
	if !inTopology(class.AllowedTopologies, node.Labels) {
		return nil, noVolume
	}
	return f.hasCapacity(claim, class, node)
}

// inTopology says whether a node has the labels of one of the terms, or there are none. An empty term matches nothing.
func inTopology(terms []corev1.TopologySelectorTerm, nodeLabels map[string]string) bool {
	matches := func(term corev1.TopologySelectorTerm) bool {
		return len(term.MatchLabelExpressions) > 0 && !slices.ContainsFunc(term.MatchLabelExpressions, func(r corev1.TopologySelectorLabelRequirement) bool {
			value, ok := nodeLabels[r.Key]
			return !ok || !slices.Contains(r.Values, value)
		})
	}
	return len(terms) == 0 || slices.ContainsFunc(terms, matches)
}

// hasCapacity refuses a node if the driver publishes how much storage there is, and none that the node can use is large enough.
func (f *volumeFilter) hasCapacity(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node) (*storagev1.CSIStorageCapacity, *framework.Status) {
	size, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return nil, nil
	}
	driver, ok := client.Get[*storagev1.CSIDriver](f.view, "", class.Provisioner)
	if !ok || driver.Spec.StorageCapacity == nil || !*driver.Spec.StorageCapacity {
		return nil, nil
	}
	for _, c := range f.capacitiesOf(class.Name) {
		limit := c.MaximumVolumeSize
		if limit == nil {
			limit = c.Capacity
		}
		if limit != nil && limit.Cmp(size) >= 0 && c.topology != nil && c.topology.Matches(labels.Set(node.Labels)) {
			return c.CSIStorageCapacity, nil
		}
	}
	return nil, noSpace
}

// storageCapacity is how much storage there is for a class, for nodes with some labels.
type storageCapacity struct {
	*storagev1.CSIStorageCapacity
	topology labels.Selector // nil if it is for no node
}

// capacitiesOf returns the capacities of a class. They are looked up once for all nodes.
func (f *volumeFilter) capacitiesOf(class string) []storageCapacity {
	list, known := f.capacities[class]
	if known {
		return list
	}
	for _, c := range capacitiesByClass.Any(f.view, class) {
		found := storageCapacity{CSIStorageCapacity: c}
		if c.NodeTopology != nil {
			found.topology = framework.SelectorOf(c.NodeTopology)
		}
		list = append(list, found)
	}
	f.capacities[class] = list
	return list
}

// PreScore returns a score if there is a choice of storage.
func (b *VolumeBinding) PreScore(_ *framework.Cluster, _ *framework.PodInfo, filter framework.PodFilter) framework.PodScore {
	f, ok := filter.(*volumeFilter)
	if !ok || len(f.waiting) == 0 || len(b.Shape) == 0 {
		return nil
	}
	return &storageScore{f}
}

type storageScore struct{ filter *volumeFilter }

// Compare says that the scores must not be kept: they depend on the plans.
func (*storageScore) Compare([]*framework.NodeInfo) bool { return true }

// Score rates how much of the storage the pod would use: the mean over the storage classes.
func (s *storageScore) Score(n *framework.NodeInfo) int64 {
	plan := s.filter.plans[n.Name]
	if plan == nil {
		return 0
	}
	type usage struct{ requested, capacity int64 }
	classes := map[string]usage{}
	for _, m := range plan.bindings {
		wanted, has := m.claim.Spec.Resources.Requests[corev1.ResourceStorage], m.pv.Spec.Capacity[corev1.ResourceStorage]
		name := volume.GetPersistentVolumeClaimClass(m.claim)
		u := classes[name]
		classes[name] = usage{u.requested + amount.Value(&wanted), u.capacity + amount.Value(&has)}
	}
	for _, p := range plan.provisions {
		if len(plan.bindings) > 0 || p.capacity == nil || p.capacity.Capacity == nil {
			continue
		}
		wanted := p.claim.Spec.Resources.Requests[corev1.ResourceStorage]
		name := volume.GetPersistentVolumeClaimClass(p.claim)
		classes[name] = usage{classes[name].requested + amount.Value(&wanted), amount.Value(p.capacity.Capacity)}
	}
	if len(classes) == 0 {
		return 0
	}
	var sum int64
	for _, u := range classes {
		if u.capacity == 0 || u.requested > u.capacity {
			sum += valueOf(s.filter.plugin.Shape, 100)
		} else {
			sum += valueOf(s.filter.plugin.Shape, u.requested*100/u.capacity)
		}
	}
	return int64(math.Round(float64(sum) / float64(len(classes))))
}

// Reserve assumes the plan for a node, so that no other pod gets the volumes.
func (f *volumeFilter) Reserve(n *framework.NodeInfo) *framework.Status {
	plan := f.plans[n.Name]
	if plan == nil {
		return nil
	}
	f.taken = &volumePlan{}
	v := f.plugin.Volumes
	for _, m := range plan.bindings {
		pv, changed, err := volume.GetBindVolumeToClaim(m.pv, m.claim)
		if err != nil {
			f.Unreserve()
			return framework.Failed("VolumeBinding", err)
		}
		if changed {
			v.assumedPVs[pv.Name] = pv
		}
		f.taken.bindings = append(f.taken.bindings, volumeMatch{pv, m.claim})
	}
	for _, p := range plan.provisions {
		claim := p.claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnSelectedNode, n.Name)
		v.assumedClaims[claimKey(claim.Namespace, claim.Name)] = claim
		f.taken.provisions = append(f.taken.provisions, provision{claim: claim})
	}
	return nil
}

// Unreserve gives up what was assumed. What was written stays: the next attempt finds it.
func (f *volumeFilter) Unreserve() {
	if f.taken == nil {
		return
	}
	v := f.plugin.Volumes
	for _, m := range f.taken.bindings {
		if v.assumedPVs[m.pv.Name] == m.pv {
			delete(v.assumedPVs, m.pv.Name)
		}
	}
	for _, p := range f.taken.provisions {
		if key := claimKey(p.claim.Namespace, p.claim.Name); v.assumedClaims[key] == p.claim {
			delete(v.assumedClaims, key)
		}
	}
	f.taken = nil
}

// PreBind writes the plan, and waits until all claims are bound.
func (f *volumeFilter) PreBind(ctx context.Context, node string) error {
	plan := f.taken
	if plan == nil || len(plan.bindings)+len(plan.provisions) == 0 {
		return nil
	}
	c := f.plugin.Volumes.Client
	for _, m := range plan.bindings {
		if _, err := client.Update(ctx, c, m.pv.DeepCopy()); err != nil {
			return fmt.Errorf("binding volumes: %w", err)
		}
	}
	for _, p := range plan.provisions {
		if _, err := client.Update(ctx, c, p.claim.DeepCopy()); err != nil {
			return fmt.Errorf("binding volumes: %w", err)
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.plugin.Timeout, fmt.Errorf("not bound after %v", f.plugin.Timeout))
	defer cancel()
	err := f.plugin.Volumes.await(ctx, plan.names(), func(v client.View) (bool, error) { return plan.completed(v, node) })
	if err != nil {
		return fmt.Errorf("binding volumes: %w", cmp.Or(context.Cause(ctx), err))
	}
	return nil
}

// names returns the keys of the objects that decide whether a plan is completed, but for volumes that are provisioned.
func (plan *volumePlan) names() (names []string) {
	for _, m := range plan.bindings {
		names = append(names, volumeName(m.pv.Name), claimKey(m.claim.Namespace, m.claim.Name))
	}
	for _, p := range plan.provisions {
		names = append(names, claimKey(p.claim.Namespace, p.claim.Name))
	}
	return names
}

// completed says whether all claims of a plan are bound. It returns an error if another node must be chosen.
func (plan *volumePlan) completed(v client.View, name string) (bool, error) {
	node, ok := client.Get[*corev1.Node](v, "", name)
	if !ok {
		return false, fmt.Errorf("failed to get node %q: node %q not found", name, name)
	}
	usable := func(pv *corev1.PersistentVolume) error {
		if err := usableOn(pv, node); err != nil {
			return fmt.Errorf("pv %q node affinity doesn't match node %q: %w", pv.Name, name, err)
		}
		return nil
	}
	done := true
	for _, m := range plan.bindings {
		pv, ok := client.Get[*corev1.PersistentVolume](v, "", m.pv.Name)
		if !ok {
			return false, fmt.Errorf("failed to check binding: persistentvolume %q not found", m.pv.Name)
		}
		claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, m.claim.Namespace, m.claim.Name)
		if !ok {
			return false, fmt.Errorf("failed to check binding: persistentvolumeclaim %q not found", m.claim.Name)
		}
		if err := usable(pv); err != nil {
			return false, err
		}
		if pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID == "" {
			return false, fmt.Errorf("ClaimRef got reset for pv %q", pv.Name)
		}
		done = done && fullyBound(claim)
	}
	for _, p := range plan.provisions {
		claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, p.claim.Namespace, p.claim.Name)
		if !ok {
			return false, fmt.Errorf("failed to check provisioning pvc: persistentvolumeclaim %q not found", p.claim.Name)
		}
		// A provisioner that fails removes the annotation.
		if claim.Annotations[volume.AnnSelectedNode] != name {
			return false, fmt.Errorf("provisioning failed for PVC %q", claim.Name)
		}
		if pv, ok := client.Get[*corev1.PersistentVolume](v, "", claim.Spec.VolumeName); ok {
			if err := usable(pv); err != nil {
				return false, err
			}
		}
		done = done && fullyBound(claim)
	}
	return done, nil
}

// Events says which changes of volumes, claims, classes and nodes may help.
func (b *VolumeBinding) Events() []framework.Hint {
	const changes = framework.Add | framework.Update
	return []framework.Hint{
		{Resource: framework.StorageClass, Actions: changes, Wakes: func(_ *framework.PodInfo, e *framework.Event) bool {
			old, _ := e.Old.(*storagev1.StorageClass)
			now, _ := e.New.(*storagev1.StorageClass)
			return old == nil || now == nil || !apiequality.Semantic.DeepEqual(old.AllowedTopologies, now.AllowedTopologies)
		}},
		{Resource: framework.PersistentVolumeClaim, Actions: changes, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			now, ok := e.New.(*corev1.PersistentVolumeClaim)
			return ok && usesClaim(p.Pod, now)
		}},
		{Resource: framework.PersistentVolume, Actions: changes},
		{Resource: framework.Node, Actions: changes, Wakes: labelsChanged},
		{Resource: framework.CSIDriver, Actions: framework.Update},
		{Resource: framework.CSIStorageCapacity, Actions: changes},
	}
}
