package attachdetach

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/internal/volumes"
)

// volume is what is known about one volume.
type volume struct {
	name           corev1.UniqueVolumeName
	driver, handle string
	pv             *corev1.PersistentVolume // as its driver sees it; nil if it is gone
	inline         bool                     // a pod defines it
	wanted         map[string][]*corev1.Pod // the pods that use it, by node
	attachments    []*storagev1.VolumeAttachment
}

// load collects what is known about a volume.
func load(v client.View, name corev1.UniqueVolumeName) *volume {
	o := &volume{name: name, wanted: map[string][]*corev1.Pod{}}
	o.driver, o.handle, _ = strings.Cut(strings.TrimPrefix(string(name), csiPrefix), "^")
	o.attachments = attachments.Any(v, string(name))
	for _, pv := range volumesByName.Any(v, string(name)) {
		csi, err := volumes.CSI(pv)
		if err != nil || csi == nil {
			continue
		}
		o.pv = csi
		o.attachments = append(o.attachments, attachments.Any(v, volumeKey(pv.Name))...)
		if ref := pv.Spec.ClaimRef; ref != nil {
			claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, ref.Namespace, ref.Name)
			if ok && claim.UID == ref.UID && claim.Spec.VolumeName == pv.Name {
				o.want(v, podsByVolume.Any(v, claimKey(ref.Namespace, ref.Name)))
			}
		}
	}
	for _, pod := range podsByVolume.Any(v, string(name)) {
		for _, pv := range inlineOf(pod) {
			if o.pv == nil && nameOf(pv) == name {
				o.pv, o.inline = pv, true
			}
		}
		o.want(v, []*corev1.Pod{pod})
	}
	// An attachment whose PersistentVolume is gone, of which the node's status has the name.
	for _, node := range nodesByVolume.Any(v, string(name)) {
		a, ok := client.Get[*storagev1.VolumeAttachment](v, "", volumes.AttachmentName(o.driver, o.handle, node.Name))
		if ok && !slices.ContainsFunc(o.attachments, func(b *storagev1.VolumeAttachment) bool { return b.Name == a.Name }) {
			o.attachments = append(o.attachments, a)
		}
	}
	return o
}

// want adds the pods that are not over to those that use the volume.
func (o *volume) want(v client.View, pods []*corev1.Pod) {
	for _, pod := range pods {
		if _, ok := client.Get[*corev1.Node](v, "", pod.Spec.NodeName); ok && !over(pod) {
			o.wanted[pod.Spec.NodeName] = append(o.wanted[pod.Spec.NodeName], pod)
		}
	}
}

// over says whether a pod does not need its volumes any more.
func over(pod *corev1.Pod) bool {
	stopped := func(statuses []corev1.ContainerStatus) bool {
		return !slices.ContainsFunc(statuses, func(s corev1.ContainerStatus) bool { return s.State.Terminated == nil && s.State.Waiting == nil })
	}
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed ||
		pod.DeletionTimestamp != nil && stopped(pod.Status.InitContainerStatuses) && stopped(pod.Status.ContainerStatuses) && stopped(pod.Status.EphemeralContainerStatuses)
}

// attachable says whether a driver's volumes are attached at all. They are if it does not say.
func attachable(v client.View, driver string) bool {
	d, ok := client.Get[*storagev1.CSIDriver](v, "", driver)
	return !ok || d.Spec.AttachRequired == nil || *d.Spec.AttachRequired
}

func (r *reconciler) syncVolume(ctx context.Context, v client.View, name corev1.UniqueVolumeName) (result controller.Result, err error) {
	o := load(v, name)
	if !attachable(v, o.driver) {
		o.wanted = nil
	}
	r.forget(name, func(node string) bool { return len(o.wanted[node]) > 0 })
	for _, a := range o.attachments {
		if len(o.wanted[a.Spec.NodeName]) > 0 || !ours(a) {
			continue
		}
		if err := r.detach(ctx, v, o, a); err != nil {
			return result, err
		}
	}
	if err := r.forgetGone(ctx, v, o); err != nil {
		return result, err
	}
	for _, node := range o.nodes() {
		after, err := r.attach(ctx, v, o, node)
		if err != nil {
			return result, err
		}
		if after > 0 && (result.After == 0 || after < result.After) {
			result.After = after
		}
	}
	return result, nil
}

// ours says whether a VolumeAttachment has a name as this controller gives them. Others belong to whoever made them.
func ours(a *storagev1.VolumeAttachment) bool {
	sum, ok := strings.CutPrefix(a.Name, "csi-")
	return ok && len(sum) == hex.EncodedLen(sha256.Size)
}

// nodes returns the nodes that want the volume, the one whose pod is the oldest first.
func (o *volume) nodes() (names []string) {
	oldest := map[string]*corev1.Pod{}
	for node, pods := range o.wanted {
		oldest[node] = slices.MinFunc(pods, func(a, b *corev1.Pod) int {
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
		})
		names = append(names, node)
	}
	slices.SortFunc(names, func(a, b string) int {
		x, y := oldest[a], oldest[b]
		return cmp.Or(x.CreationTimestamp.Compare(y.CreationTimestamp.Time), cmp.Compare(x.UID, y.UID), cmp.Compare(a, b))
	})
	return names
}

// detach ends an attachment once the node does not use the volume, or is known not to be able to.
func (r *reconciler) detach(ctx context.Context, v client.View, o *volume, a *storagev1.VolumeAttachment) error {
	if node, ok := client.Get[*corev1.Node](v, "", a.Spec.NodeName); ok {
		if slices.Contains(node.Status.VolumesInUse, o.name) && !silenced(node) && !(fenced(node) && o.pv != nil && volumes.Fenced(o.pv)) {
			return nil // the node reports when it does not use it any more
		}
		if err := r.mark(ctx, node, o.name, false); err != nil {
			return err
		}
	}
	if a.DeletionTimestamp != nil {
		return nil // the attacher is detaching it
	}
	err := r.Client.Delete(ctx, a, client.IfUID(a.UID))
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// silenced says whether a node uses no volume any more, whatever its status says.
func silenced(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// fenced says whether the worker of a node is known to have stopped the pods that use volumes for one node at a time.
func fenced(node *corev1.Node) bool { return metav1.HasAnnotation(node.ObjectMeta, volumes.FencedNode) }

// forgetGone removes the volume from the status of nodes that it is not attached to.
func (r *reconciler) forgetGone(ctx context.Context, v client.View, o *volume) error {
	for _, node := range nodesByVolume.Any(v, string(o.name)) {
		if !slices.ContainsFunc(o.attachments, func(a *storagev1.VolumeAttachment) bool { return a.Spec.NodeName == node.Name }) {
			if err := r.mark(ctx, node, o.name, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// mark sets whether a node's status says that a volume is attached.
func (r *reconciler) mark(ctx context.Context, node *corev1.Node, name corev1.UniqueVolumeName, attached bool) error {
	is := slices.ContainsFunc(node.Status.VolumesAttached, func(a corev1.AttachedVolume) bool { return a.Name == name })
	if is == attached {
		return nil
	}
	changed := node.DeepCopy()
	if attached {
		changed.Status.VolumesAttached = append(changed.Status.VolumesAttached, corev1.AttachedVolume{Name: name})
	} else {
		changed.Status.VolumesAttached = slices.DeleteFunc(changed.Status.VolumesAttached, func(a corev1.AttachedVolume) bool { return a.Name == name })
	}
	_, err := client.UpdateStatus(ctx, r.Client, changed)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// attach brings a volume one step closer to being attached to a node whose pods use it. It returns when to look again.
func (r *reconciler) attach(ctx context.Context, v client.View, o *volume, name string) (time.Duration, error) {
	node, ok := client.Get[*corev1.Node](v, "", name)
	if !ok {
		return 0, nil
	}
	for _, a := range o.attachments {
		if a.Spec.NodeName == name {
			return r.follow(ctx, o, node, a)
		}
	}
	var elsewhere []string
	for _, a := range o.attachments {
		elsewhere = append(elsewhere, a.Spec.NodeName)
	}
	if !volumes.Shared(o.pv) && len(elsewhere) > 0 {
		r.refuse(o, name, elsewhere)
		return 0, nil
	}
	source := storagev1.VolumeAttachmentSource{PersistentVolumeName: &o.pv.Name}
	if o.inline {
		source = storagev1.VolumeAttachmentSource{InlineVolumeSpec: &o.pv.Spec}
	}
	made, err := client.Create(ctx, r.Client, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: volumes.AttachmentName(o.driver, o.handle, name)},
		Spec:       storagev1.VolumeAttachmentSpec{Attacher: o.driver, NodeName: name, Source: source},
	})
	if apierrors.IsAlreadyExists(err) {
		return 0, nil // its event comes
	}
	if err != nil {
		r.tell(o, name, fmt.Sprintf("AttachVolume.Attach failed for volume %q : %v", o.pv.Name, err))
		return 0, err
	}
	o.attachments = append(o.attachments, made) // no other node gets it in this pass
	return r.Timeout, nil
}

// follow looks at how an attachment is getting on.
func (r *reconciler) follow(ctx context.Context, o *volume, node *corev1.Node, a *storagev1.VolumeAttachment) (time.Duration, error) {
	switch failure := a.Status.AttachError; {
	case a.DeletionTimestamp != nil:
		// Its end must be awaited, and then it is attached again. Whoever deleted it, the volume must not be mounted meanwhile.
		return 0, r.mark(ctx, node, o.name, false)
	case a.Status.Attached:
		r.forget(o.name, func(other string) bool { return other != node.Name })
		if slices.ContainsFunc(node.Status.VolumesAttached, func(v corev1.AttachedVolume) bool { return v.Name == o.name }) {
			return 0, nil
		}
		if err := r.mark(ctx, node, o.name, true); err != nil {
			return 0, err
		}
		for _, pod := range o.wanted[node.Name] {
			r.Recorder.Eventf(pod, corev1.EventTypeNormal, "SuccessfulAttachVolume", "AttachVolume.Attach succeeded for volume %q ", o.pv.Name)
		}
		return 0, nil
	case failure != nil:
		r.tell(o, node.Name, fmt.Sprintf("AttachVolume.Attach failed for volume %q : %s", o.pv.Name, failure.Message))
		return 0, nil
	}
	if left := a.CreationTimestamp.Add(r.Timeout).Sub(r.Now()); left > 0 {
		return left, nil
	}
	r.tell(o, node.Name, fmt.Sprintf("AttachVolume.Attach failed for volume %q : timed out waiting for external-attacher of %s CSI driver to attach volume %s", o.pv.Name, o.driver, o.handle))
	return r.Timeout, nil
}

// tell records an event for the pods that wait for a volume on a node, unless it was the last that was said about it.
func (r *reconciler) tell(o *volume, node, message string) {
	if r.say(o.name, node, message) {
		for _, pod := range o.wanted[node] {
			r.Recorder.Event(pod, corev1.EventTypeWarning, "FailedAttachVolume", message)
		}
	}
}

// say remembers what was said about a volume on a node, and returns whether it is new.
func (r *reconciler) say(name corev1.UniqueVolumeName, node, message string) (fresh bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.told[name] == nil {
		r.told[name] = map[string]string{}
	}
	fresh = r.told[name][node] != message
	r.told[name][node] = message
	return fresh
}

// forget forgets what was said about a volume on nodes that do not want it any more.
func (r *reconciler) forget(name corev1.UniqueVolumeName, wanted func(node string) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.told[name], func(node, _ string) bool { return !wanted(node) })
	if len(r.told[name]) == 0 {
		delete(r.told, name)
	}
}

// refuse says why a volume for one node is not attached to another one. Pods of other namespaces are not named.
func (r *reconciler) refuse(o *volume, node string, elsewhere []string) {
	if !r.say(o.name, node, "Multi-Attach") {
		return
	}
	var users []*corev1.Pod
	for _, other := range elsewhere {
		users = append(users, o.wanted[other]...)
	}
	for _, pod := range o.wanted[node] {
		r.Recorder.Eventf(pod, corev1.EventTypeWarning, "FailedAttachVolume", "%s for volume %q %s", "Waiting for detach", o.pv.Name, usedBy(pod.Namespace, users))
	}
}

func usedBy(namespace string, users []*corev1.Pod) string {
	if len(users) == 0 {
		return "Volume is already exclusively attached to one node, waiting on detach before it can be attached to another node"
	}
	var names []string
	for _, pod := range users {
		if pod.Namespace == namespace {
			names = append(names, pod.Name)
		}
	}
	others := len(users) - len(names)
	switch {
	case len(names) == 0:
		return fmt.Sprintf("Volume is already used by %d pod(s) in different namespaces", others)
	case others == 0:
		return "Volume is already used by pod(s) " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("Volume is already used by pod(s) %s and %d pod(s) in different namespaces", strings.Join(names, ", "), others)
}

// syncLost ends an attachment of which nothing says which volume it is of, if its node is gone or does not use any volume.
func (r *reconciler) syncLost(ctx context.Context, v client.View, name string) error {
	a, ok := client.Get[*storagev1.VolumeAttachment](v, "", name)
	if !ok || a.DeletionTimestamp != nil || attachedVolume(v, a) != "" || a.Spec.Source.PersistentVolumeName == nil {
		return nil
	}
	if node, ok := client.Get[*corev1.Node](v, "", a.Spec.NodeName); ok && len(node.Status.VolumesInUse) > 0 && !silenced(node) {
		return nil
	}
	err := r.Client.Delete(ctx, a, client.IfUID(a.UID))
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
