package nodes

import (
	"cmp"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodeapi "k8s.io/api/node/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/kubernetes/pkg/api/v1/persistentvolume"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/localpath"
	"github.com/kontiki/kontiki/internal/volumes"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// kinds are the kinds of objects that assignments contain.
var kinds = []client.Object{&corev1.Pod{}, &corev1.Secret{}, &corev1.ConfigMap{}, &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{},
	&resourcev1.ResourceClaim{}, &storagev1.CSIDriver{}, &storagev1.VolumeAttachment{}, &nodeapi.RuntimeClass{},
	&corev1.Service{}, &discoveryv1.EndpointSlice{}, &corev1.Node{}, &certificatesv1.ClusterTrustBundle{}}

// key identifies an object of an assignment.
type key struct{ resource, namespace, name string }

func (k key) proto() *nodev1.ObjectKey {
	return &nodev1.ObjectKey{Resource: k.resource, Namespace: k.namespace, Name: k.name}
}

// assignment tracks which objects of its own one worker has been sent: its pods, what they refer to, what that refers to, the volumes
// whose folders it has, and its node.
// Only one goroutine may use it.
type assignment struct {
	node string
	// view returns the present state.
	view func() client.View
	// follows is told which objects the worker's objects refer to.
	follows names
	// sent has the revision of each of these objects that the worker has.
	sent map[key]uint64
	// named has what the worker's objects refer to; holds has the references of each pod, claim and volume, and of the node.
	named map[key]*reference
	holds map[key][]key
}

// names is told for which objects changes are needed. After name has returned, no later change is missed.
type names interface {
	name(key)
	unname(key)
}

// reference is an object that other objects refer to.
type reference struct {
	holders int
	// revision is that of the view in which the object was looked up first.
	revision uint64
	// uid is that of a claim: a volume is sent only if it is bound to exactly this claim.
	uid types.UID
}

func newAssignment(node string, view func() client.View, follows names) *assignment {
	return &assignment{node: node, view: view, follows: follows, sent: map[key]uint64{}, named: map[key]*reference{}, holds: map[key][]key{}}
}

// end ends the interest in all that is referred to.
func (a *assignment) end() {
	for ref := range a.named {
		a.follows.unname(ref)
	}
}

// delta collects the changes to send.
type delta struct {
	upserts map[key]client.Object
	deletes map[key]bool
}

func newDelta() *delta { return &delta{upserts: map[key]client.Object{}, deletes: map[key]bool{}} }

func (d *delta) put(k key, obj client.Object) {
	delete(d.deletes, k)
	d.upserts[k] = obj
}

func (d *delta) drop(k key) {
	delete(d.upserts, k)
	d.deletes[k] = true
}

// full returns all of the worker's own objects in a view.
func (a *assignment) full(v client.View) *delta {
	d := newDelta()
	for _, found := range client.PodsByNode.Any(v, a.node) {
		// The index may be ahead of the view, but the changes that are sent next are those after the view.
		if pod, ok := client.Get[*corev1.Pod](v, found.Namespace, found.Name); ok && pod.Spec.NodeName == a.node {
			a.addPod(d, pod)
		}
	}
	for _, volume := range volumesByNode.Any(v, a.node) {
		a.keep(d, volume)
	}
	if n, ok := client.Get[*corev1.Node](v, "", a.node); ok {
		d.put(nodeKey(a.node), n)
	}
	return d
}

// keep makes the node itself refer to a volume whose folder it has, or no longer.
func (a *assignment) keep(d *delta, volume *corev1.PersistentVolume) {
	k, own := key{"persistentvolumes", "", volume.Name}, nodeKey(a.node)
	refs := a.holds[own]
	if i := slices.Index(refs, k); localpath.NodeOf(volume.Annotations) == a.node && i < 0 {
		a.refer(d, own, append(slices.Clone(refs), k))
	} else if localpath.NodeOf(volume.Annotations) != a.node && i >= 0 {
		a.refer(d, own, slices.Delete(slices.Clone(refs), i, i+1))
	}
}

func (a *assignment) addPod(d *delta, pod *corev1.Pod) {
	k := key{"pods", pod.Namespace, pod.Name}
	d.put(k, pod)
	a.refer(d, k, append(references(pod), a.csiOfPod(pod)...))
}

func (a *assignment) removePod(d *delta, k key) {
	if _, ok := a.holds[k]; !ok {
		return
	}
	d.drop(k)
	a.forget(d, k)
}

// refer replaces what an object refers to. What is new is looked up and followed in turn.
func (a *assignment) refer(d *delta, from key, refs []key) {
	before := a.holds[from]
	a.holds[from] = refs
	for _, ref := range refs {
		if known := a.named[ref]; known != nil {
			known.holders++
			continue
		}
		a.follows.name(ref)
		v := a.view() // after that: it contains all changes that do not arrive
		a.named[ref] = &reference{holders: 1, revision: v.Revision()}
		if obj := lookUp(v, ref); obj != nil {
			a.take(d, ref, obj)
		}
	}
	a.release(d, before)
}

// forget ends the references of an object.
func (a *assignment) forget(d *delta, from key) {
	before := a.holds[from]
	delete(a.holds, from)
	a.release(d, before)
}

func (a *assignment) release(d *delta, refs []key) {
	for _, ref := range refs {
		if known := a.named[ref]; known != nil {
			if known.holders--; known.holders > 0 {
				continue
			}
			delete(a.named, ref)
			a.follows.unname(ref)
			d.drop(ref)
			a.forget(d, ref)
		}
	}
}

// take takes over a version of an object that others refer to.
func (a *assignment) take(d *delta, k key, obj client.Object) {
	switch obj := obj.(type) {
	case *corev1.PersistentVolumeClaim:
		a.named[k].uid = obj.UID
		d.put(k, obj)
		a.refer(d, k, volumeOf(obj))
	case *corev1.PersistentVolume:
		if localpath.NodeOf(obj.Annotations) != a.node && !a.mayMount(obj) {
			d.drop(k)
			a.forget(d, k)
			return
		}
		d.put(k, obj)
		if a.mayMount(obj) {
			a.refer(d, k, append(secretsOf(obj), a.csiOf(obj)...))
		} else {
			a.forget(d, k)
		}
	case *storagev1.VolumeAttachment:
		if obj.Spec.NodeName != a.node { // whoever made it, its name is not that of an attachment to this node
			d.drop(k)
			return
		}
		d.put(k, obj)
	default:
		d.put(k, obj)
	}
}

// csiOf returns the CSI driver of a volume, and the volume's attachment to the node.
func (a *assignment) csiOf(volume *corev1.PersistentVolume) []key {
	csi, err := volumes.CSI(volume)
	if err != nil || csi == nil {
		return nil
	}
	source := csi.Spec.CSI
	return []key{{"csidrivers", "", source.Driver}, {"volumeattachments", "", volumes.AttachmentName(source.Driver, source.VolumeHandle, a.node)}}
}

// csiOfPod returns the CSI drivers and attachments of the volumes that a pod defines itself.
func (a *assignment) csiOfPod(pod *corev1.Pod) (out []key) {
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if volume.CSI != nil {
			out = append(out, key{"csidrivers", "", volume.CSI.Driver})
		} else if pv, err := volumes.InlineCSI(volume, pod.Namespace); err == nil && pv != nil {
			out = append(out, a.csiOf(pv)...)
		}
	}
	slices.SortFunc(out, func(a, b key) int { return cmp.Or(cmp.Compare(a.resource, b.resource), cmp.Compare(a.name, b.name)) })
	return slices.Compact(out)
}

// mayMount says whether a volume is bound to a claim that one of the worker's pods uses, as node authorization asks: whoever may create
// a claim may write any volume's name into it, and gets neither that volume nor its Secrets by that.
func (a *assignment) mayMount(volume *corev1.PersistentVolume) bool {
	ref := volume.Spec.ClaimRef
	if ref == nil || ref.UID == "" {
		return false
	}
	claim := a.named[key{"persistentvolumeclaims", ref.Namespace, ref.Name}]
	return claim != nil && claim.uid == ref.UID
}

// lookUp returns the object that a reference names, or nil.
func lookUp(v client.View, ref key) client.Object {
	switch ref.resource {
	case "secrets":
		return got(client.Get[*corev1.Secret](v, ref.namespace, ref.name))
	case "configmaps":
		return got(client.Get[*corev1.ConfigMap](v, ref.namespace, ref.name))
	case "persistentvolumeclaims":
		return got(client.Get[*corev1.PersistentVolumeClaim](v, ref.namespace, ref.name))
	case "resourceclaims":
		return got(client.Get[*resourcev1.ResourceClaim](v, ref.namespace, ref.name))
	case "persistentvolumes":
		return got(client.Get[*corev1.PersistentVolume](v, "", ref.name))
	case "csidrivers":
		return got(client.Get[*storagev1.CSIDriver](v, "", ref.name))
	case "runtimeclasses":
		return got(client.Get[*nodeapi.RuntimeClass](v, "", ref.name))
	case "volumeattachments":
		return got(client.Get[*storagev1.VolumeAttachment](v, "", ref.name))
	}
	return nil
}

func got[T client.Object](obj T, ok bool) client.Object {
	if !ok {
		return nil
	}
	return obj
}

// apply adds to a delta the changes that events cause for the worker.
func (a *assignment) apply(d *delta, events []client.Event) {
	for _, event := range events {
		switch obj := event.Object().(type) {
		case *corev1.Pod:
			k := key{"pods", obj.Namespace, obj.Name}
			if event.New != nil && obj.Spec.NodeName == a.node {
				a.addPod(d, obj)
			} else {
				a.removePod(d, k)
			}
		case *corev1.Secret:
			a.referenceChanged(d, key{"secrets", obj.Namespace, obj.Name}, event)
		case *corev1.ConfigMap:
			a.referenceChanged(d, key{"configmaps", obj.Namespace, obj.Name}, event)
		case *corev1.PersistentVolumeClaim:
			a.referenceChanged(d, key{"persistentvolumeclaims", obj.Namespace, obj.Name}, event)
		case *resourcev1.ResourceClaim:
			a.referenceChanged(d, key{"resourceclaims", obj.Namespace, obj.Name}, event)
		case *storagev1.CSIDriver:
			a.referenceChanged(d, key{"csidrivers", "", obj.Name}, event)
		case *nodeapi.RuntimeClass:
			a.referenceChanged(d, key{"runtimeclasses", "", obj.Name}, event)
		case *storagev1.VolumeAttachment:
			a.referenceChanged(d, key{"volumeattachments", "", obj.Name}, event)
		case *corev1.PersistentVolume:
			a.referenceChanged(d, key{"persistentvolumes", "", obj.Name}, event)
			if event.New == nil {
				obj = &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: obj.Name}} // nobody has it
			}
			a.keep(d, obj)
		case *corev1.Node:
			a.changed(d, nodeKey(obj.Name), event)
		}
	}
}

// referenceChanged is changed for what others refer to, unless none does or the change was seen when the object was looked up.
func (a *assignment) referenceChanged(d *delta, k key, event client.Event) {
	known := a.named[k]
	if known == nil || event.Revision <= known.revision {
		return
	}
	if event.New == nil {
		d.drop(k)
		known.uid = ""
		a.forget(d, k)
		return
	}
	a.take(d, k, event.New)
}

func (a *assignment) changed(d *delta, k key, event client.Event) {
	if event.New == nil {
		d.drop(k)
		return
	}
	d.put(k, event.New)
}

// message encodes a delta, without the objects that the worker already has.
func (a *assignment) message(d *delta) (upserts []*nodev1.Object, deletes []*nodev1.ObjectKey, err error) {
	for k, obj := range d.upserts {
		object, err := encode(k, obj)
		if err != nil {
			return nil, nil, err
		}
		if a.sent[k] >= object.Revision {
			continue
		}
		a.sent[k] = object.Revision
		upserts = append(upserts, object)
	}
	for k := range d.deletes {
		if _, ok := a.sent[k]; ok {
			delete(a.sent, k)
			deletes = append(deletes, k.proto())
		}
	}
	return upserts, deletes, nil
}

// volumeOf returns the volume that a claim is bound to.
func volumeOf(claim *corev1.PersistentVolumeClaim) []key {
	if claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName == "" {
		return nil
	}
	return []key{{"persistentvolumes", "", claim.Spec.VolumeName}}
}

// secretsOf returns the Secrets that a worker needs for mounting a volume.
func secretsOf(volume *corev1.PersistentVolume) []key {
	var out []key
	persistentvolume.VisitPVSecretNames(volume, func(namespace, name string, forWorkers bool) bool {
		if k := (key{"secrets", namespace, name}); forWorkers && name != "" && !slices.Contains(out, k) {
			out = append(out, k)
		}
		return true
	})
	return out
}

// references returns the Secrets, ConfigMaps and claims that a pod refers to, each once.
func references(pod *corev1.Pod) []key {
	var out []key
	seen := map[key]bool{}
	add := func(resource, name string) {
		k := key{resource, pod.Namespace, name}
		if name != "" && !seen[k] {
			seen[k] = true
			out = append(out, k)
		}
	}
	if name := pod.Spec.RuntimeClassName; name != nil && *name != "" {
		out = append(out, key{"runtimeclasses", "", *name})
	}
	for name := range resourceclaim.PodClaims(pod) {
		add("resourceclaims", name)
	}
	for _, ref := range pod.Spec.ImagePullSecrets {
		add("secrets", ref.Name)
	}
	containers := append(append([]corev1.Container(nil), pod.Spec.InitContainers...), pod.Spec.Containers...)
	for _, c := range pod.Spec.EphemeralContainers {
		containers = append(containers, corev1.Container(c.EphemeralContainerCommon))
	}
	for _, c := range containers {
		for _, env := range c.Env {
			if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil {
				add("secrets", env.ValueFrom.SecretKeyRef.Name)
			}
			if env.ValueFrom != nil && env.ValueFrom.ConfigMapKeyRef != nil {
				add("configmaps", env.ValueFrom.ConfigMapKeyRef.Name)
			}
		}
		for _, from := range c.EnvFrom {
			if from.SecretRef != nil {
				add("secrets", from.SecretRef.Name)
			}
			if from.ConfigMapRef != nil {
				add("configmaps", from.ConfigMapRef.Name)
			}
		}
	}
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if volume.PersistentVolumeClaim != nil {
			add("persistentvolumeclaims", volume.PersistentVolumeClaim.ClaimName)
		}
		if volume.Ephemeral != nil {
			add("persistentvolumeclaims", ephemeral.VolumeClaimName(pod, volume))
		}
		if volume.CSI != nil && volume.CSI.NodePublishSecretRef != nil {
			add("secrets", volume.CSI.NodePublishSecretRef.Name)
		}
		if volume.Secret != nil {
			add("secrets", volume.Secret.SecretName)
		}
		if volume.ConfigMap != nil {
			add("configmaps", volume.ConfigMap.Name)
		}
		if volume.Projected != nil {
			for _, source := range volume.Projected.Sources {
				if source.Secret != nil {
					add("secrets", source.Secret.Name)
				}
				if source.ConfigMap != nil {
					add("configmaps", source.ConfigMap.Name)
				}
			}
		}
	}
	return out
}
