// Package attachdetach attaches volumes of CSI drivers to the nodes whose pods use them, and detaches them when none does any more
// (k8s.io/kubernetes/pkg/controller/volume/attachdetach). A VolumeAttachment asks for it; the driver's external-attacher does it.
//
// A node's worker and this controller take turns by two lists in the Node's status. The worker first reports a volume in volumesInUse, and
// mounts it only when one version of its Node has the volume in volumesInUse and in volumesAttached. This controller detaches a volume only
// after it has removed it from volumesAttached, in an update of a version of the Node that does not have it in volumesInUse. So whichever of
// the two writes first, the other sees it.
//
// A volume that is for one node at a time is attached to another node only when it is detached from the first. It is detached while it is
// in use only if the node is out of service, as an administrator says by a taint, or its worker is fenced (controller/fence): upstream's timeout of six
// minutes, after which a volume is detached from any node that is not ready, may lose data and does not exist here.
package attachdetach

import (
	"context"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/internal/volumes"
)

// Config has the controller's parameters.
type Config struct {
	Client   *client.Client
	Recorder record.EventRecorder
	// Timeout is how long an attacher may take before the pods are told (2 minutes).
	Timeout time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

type reconciler struct {
	Config
	mu   sync.Mutex
	told map[corev1.UniqueVolumeName]map[string]string // what was last said about a volume that cannot be attached to a node
}

// New returns the controller. Its keys are the unique names of volumes, and the names of VolumeAttachments of volumes that are not known any
// more, in the namespace lost.
func New(c Config) *controller.Controller {
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	r := &reconciler{Config: c, told: map[corev1.UniqueVolumeName]map[string]string{}}
	return &controller.Controller{
		Name: "attachdetach", Watches: []client.Object{&corev1.Pod{}, &corev1.Node{}, &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}, &storagev1.VolumeAttachment{}, &storagev1.CSIDriver{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(pv *corev1.PersistentVolume) bool { enqueueVolume(pv, enqueue); return true })
			client.Each(v, "", func(pod *corev1.Pod) bool { enqueueInline(pod, enqueue); return true })
			client.Each(v, "", func(a *storagev1.VolumeAttachment) bool { enqueueAttachment(v, a, enqueue); return true })
			client.Each(v, "", func(node *corev1.Node) bool { enqueueNode(node, enqueue); return true })
		},
		Enqueue: enqueue, Reconcile: r.reconcile,
	}
}

// lost is the namespace of keys of VolumeAttachments.
const lost = "attachment"

func keyOf(name corev1.UniqueVolumeName) controller.Key { return controller.Key{Name: string(name)} }

func enqueue(v client.View, event client.Event, add func(controller.Key)) {
	for _, o := range []client.Object{event.Old, event.New} {
		switch obj := o.(type) {
		case *corev1.Pod:
			enqueuePod(v, obj, add)
		case *corev1.Node:
			enqueueNode(obj, add)
			for _, pod := range attachingPods(v, event) {
				enqueuePod(v, pod, add)
			}
		case *corev1.PersistentVolumeClaim:
			if pv, ok := client.Get[*corev1.PersistentVolume](v, "", obj.Spec.VolumeName); ok {
				enqueueVolume(pv, add)
			}
		case *corev1.PersistentVolume:
			enqueueVolume(obj, add)
		case *storagev1.VolumeAttachment:
			enqueueAttachment(v, obj, add)
		case *storagev1.CSIDriver:
			for _, pv := range volumesByName.Any(v, driverKey(obj.Name)) {
				enqueueVolume(pv, add)
			}
		}
	}
}

// attachingPods returns the pods of a node that has just been created: they may have been waiting for it.
func attachingPods(v client.View, event client.Event) []*corev1.Pod {
	if event.Old != nil || event.New == nil {
		return nil
	}
	return client.PodsByNode.Any(v, event.New.GetName())
}

func enqueuePod(v client.View, pod *corev1.Pod, add func(controller.Key)) {
	if pod.Spec.NodeName == "" {
		return
	}
	for _, name := range claimsOf(pod) {
		claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, pod.Namespace, name)
		if !ok {
			continue
		}
		if pv, ok := client.Get[*corev1.PersistentVolume](v, "", claim.Spec.VolumeName); ok {
			enqueueVolume(pv, add)
		}
	}
	enqueueInline(pod, add)
}

func enqueueVolume(pv *corev1.PersistentVolume, add func(controller.Key)) {
	if name := nameOf(pv); name != "" {
		add(keyOf(name))
	}
}

func enqueueInline(pod *corev1.Pod, add func(controller.Key)) {
	if pod.Spec.NodeName == "" {
		return
	}
	for _, pv := range inlineOf(pod) {
		add(keyOf(nameOf(pv)))
	}
}

// enqueueNode enqueues the volumes in a node's status.
func enqueueNode(node *corev1.Node, add func(controller.Key)) {
	for i := range node.Status.VolumesAttached {
		if name := node.Status.VolumesAttached[i].Name; strings.HasPrefix(string(name), csiPrefix) {
			add(keyOf(name))
		}
	}
}

func enqueueAttachment(v client.View, a *storagev1.VolumeAttachment, add func(controller.Key)) {
	if name := attachedVolume(v, a); name != "" {
		add(keyOf(name))
	} else if ours(a) {
		add(controller.Key{Namespace: lost, Name: a.Name})
	}
}

// csiPrefix begins the unique names of volumes of CSI drivers. Another controller may attach others.
const csiPrefix = "kubernetes.io/csi/"

// nameOf returns the unique name of a volume; "" if no CSI driver attaches it.
func nameOf(pv *corev1.PersistentVolume) corev1.UniqueVolumeName {
	csi, err := volumes.CSI(pv)
	if err != nil || csi == nil {
		return ""
	}
	return volumes.UniqueName(csi.Spec.CSI.Driver, csi.Spec.CSI.VolumeHandle)
}

// inlineOf returns the volumes that a pod defines itself and a CSI driver attaches.
func inlineOf(pod *corev1.Pod) (out []*corev1.PersistentVolume) {
	for i := range pod.Spec.Volumes {
		if pv, err := volumes.InlineCSI(&pod.Spec.Volumes[i], pod.Namespace); err == nil && pv != nil {
			pv.Name = pod.Spec.Volumes[i].Name
			out = append(out, pv)
		}
	}
	return out
}

// attachedVolume returns the unique name of the volume of an attachment; "" if it is not known.
func attachedVolume(v client.View, a *storagev1.VolumeAttachment) corev1.UniqueVolumeName {
	if inline := a.Spec.Source.InlineVolumeSpec; inline != nil && inline.CSI != nil {
		return volumes.UniqueName(inline.CSI.Driver, inline.CSI.VolumeHandle)
	}
	if name := a.Spec.Source.PersistentVolumeName; name != nil {
		if pv, ok := client.Get[*corev1.PersistentVolume](v, "", *name); ok {
			return nameOf(pv)
		}
	}
	// Its PersistentVolume is gone. The node may still say which volume it was.
	if node, ok := client.Get[*corev1.Node](v, "", a.Spec.NodeName); ok {
		for i := range node.Status.VolumesAttached {
			name := node.Status.VolumesAttached[i].Name
			if driver, handle, ok := strings.Cut(strings.TrimPrefix(string(name), csiPrefix), "^"); ok && volumes.AttachmentName(driver, handle, node.Name) == a.Name {
				return name
			}
		}
	}
	return ""
}

// claimsOf returns the names of the claims that a pod uses.
func claimsOf(pod *corev1.Pod) (names []string) {
	for i := range pod.Spec.Volumes {
		switch volume := &pod.Spec.Volumes[i]; {
		case volume.PersistentVolumeClaim != nil:
			names = append(names, volume.PersistentVolumeClaim.ClaimName)
		case volume.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(pod, volume))
		}
	}
	return names
}

var (
	// volumesByName finds volumes by their unique names, and by their drivers.
	volumesByName = client.NewIndex(func(pv *corev1.PersistentVolume, add func(string)) {
		if csi, err := volumes.CSI(pv); err == nil && csi != nil {
			add(string(volumes.UniqueName(csi.Spec.CSI.Driver, csi.Spec.CSI.VolumeHandle)))
			add(driverKey(csi.Spec.CSI.Driver))
		}
	})
	// podsByVolume finds pods that are assigned to a node by the claims that they use, and by the unique names of the volumes that they
	// define themselves.
	podsByVolume = client.NewIndex(func(pod *corev1.Pod, add func(string)) {
		if pod.Spec.NodeName == "" {
			return
		}
		for _, name := range claimsOf(pod) {
			add(claimKey(pod.Namespace, name))
		}
		for _, pv := range inlineOf(pod) {
			add(string(nameOf(pv)))
		}
	})
	// attachments finds attachments by their PersistentVolume, and those of volumes that pods define themselves by the unique name.
	attachments = client.NewIndex(func(a *storagev1.VolumeAttachment, add func(string)) {
		if inline := a.Spec.Source.InlineVolumeSpec; inline != nil && inline.CSI != nil {
			add(string(volumes.UniqueName(inline.CSI.Driver, inline.CSI.VolumeHandle)))
		} else if name := a.Spec.Source.PersistentVolumeName; name != nil {
			add(volumeKey(*name))
		}
	})
	// nodesByVolume finds nodes by the volumes that their status says are attached.
	nodesByVolume = client.NewIndex(func(node *corev1.Node, add func(string)) {
		for i := range node.Status.VolumesAttached {
			add(string(node.Status.VolumesAttached[i].Name))
		}
	})
)

func driverKey(name string) string           { return "driver " + name }
func volumeKey(name string) string           { return "volume " + name }
func claimKey(namespace, name string) string { return "claim " + namespace + "/" + name }

func (r *reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	if key.Namespace == lost {
		return controller.Result{}, r.syncLost(ctx, v, key.Name)
	}
	return r.syncVolume(ctx, v, corev1.UniqueVolumeName(key.Name))
}
