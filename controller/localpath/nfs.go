package localpath

import (
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/internal/localpath"
)

// The provisioner kontiki.io/nfs makes a folder per claim on an NFS server. Masters do not mount anything: the node of the first pod makes
// the folder, and some node that is ready removes it.

// removalTime is how long a node may take to remove a folder until another one is asked too.
const removalTime = 2 * time.Minute

type nfsReconciler struct {
	reconciler
	provisioning sync.Mutex
	mu           sync.Mutex
	asked        map[string]time.Time // when the node in a volume's annotation was asked to remove its folder
}

// NewNFS returns the controller of the provisioner kontiki.io/nfs. Its keys are those of claims, which have a namespace, and of volumes, which
// have none.
func NewNFS(c *client.Client, recorder record.EventRecorder) *controller.Controller {
	r := &nfsReconciler{reconciler: reconciler{c, recorder}, asked: map[string]time.Time{}}
	claims := func(claim *corev1.PersistentVolumeClaim, enqueue func(controller.Key)) {
		if asks(claim, localpath.NFS) {
			enqueue(controller.KeyOf(claim))
		}
	}
	volumes := func(volume *corev1.PersistentVolume, enqueue func(controller.Key)) {
		if volume.Annotations[localpath.ProvisionedBy] == localpath.NFS {
			enqueue(controller.KeyOf(volume))
		}
	}
	return &controller.Controller{
		Name:    "nfs",
		Watches: []client.Object{&corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}, &storagev1.StorageClass{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(claim *corev1.PersistentVolumeClaim) bool { claims(claim, enqueue); return true })
			client.Each(v, "", func(volume *corev1.PersistentVolume) bool { volumes(volume, enqueue); return true })
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			switch obj := event.Object().(type) {
			case *corev1.PersistentVolumeClaim:
				claims(obj, enqueue)
			case *corev1.PersistentVolume:
				volumes(obj, enqueue)
				if class := obj.Spec.StorageClassName; event.New == nil && obj.Annotations[localpath.ProvisionedBy] == localpath.NFS {
					retry(v, class, enqueue) // one of them may get its folder
				}
			case *storagev1.StorageClass:
				retry(v, obj.Name, enqueue)
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			if key.Namespace == "" {
				return r.syncVolume(ctx, v, key.Name)
			}
			return controller.Result{}, r.syncClaim(ctx, v, key)
		},
	}
}

// waitingNFS finds claims that have no volume by their class.
var waitingNFS = client.NewIndex(func(claim *corev1.PersistentVolumeClaim, add func(string)) {
	if claim.Spec.VolumeName == "" && asks(claim, localpath.NFS) {
		add(storage.GetPersistentVolumeClaimClass(claim))
	}
})

// retry enqueues the claims of a class that have no volume: what was refused may be possible now.
func retry(v client.View, class string, enqueue func(controller.Key)) {
	for _, claim := range waitingNFS.Any(v, class) {
		enqueue(controller.KeyOf(claim))
	}
}

// folders finds volumes by their folder on a server, and by each folder above it.
var folders = client.NewIndex(func(volume *corev1.PersistentVolume, add func(string)) {
	if volume.Annotations[localpath.ProvisionedBy] != localpath.NFS || volume.Spec.NFS == nil {
		return
	}
	at := path.Clean(volume.Spec.NFS.Path)
	add(folderKey("at", volume.Spec.NFS.Server, at))
	for at != "/" && at != "." {
		at = path.Dir(at)
		add(folderKey("below", volume.Spec.NFS.Server, at))
	}
})

func folderKey(where, server, at string) string { return where + " " + server + " " + at }

func (r *nfsReconciler) syncClaim(ctx context.Context, v client.View, key controller.Key) error {
	claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, key.Namespace, key.Name)
	if !ok || !asks(claim, localpath.NFS) || claim.DeletionTimestamp != nil {
		return nil
	}
	if claim.Spec.VolumeName != "" {
		return r.expand(ctx, v, claim, localpath.NFS)
	}
	name := "pvc-" + string(claim.UID)
	if _, ok := client.Get[*corev1.PersistentVolume](v, "", name); ok {
		return nil // the binder binds it
	}
	className := storage.GetPersistentVolumeClaimClass(claim)
	class, ok := client.Get[*storagev1.StorageClass](v, "", className)
	if !ok || class.Provisioner != localpath.NFS {
		return nil // the binder says so
	}
	if ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) != storagev1.VolumeBindingImmediate && claim.Annotations[storage.AnnSelectedNode] == "" {
		return nil // there is no consumer yet
	}
	r.provisioning.Lock() // so that no two claims get one folder
	defer r.provisioning.Unlock()
	volume, err := nfsVolume(r.client.View(), claim, class, name)
	if err == nil {
		if _, err = client.Create(ctx, r.client, volume); err != nil && !apierrors.IsInvalid(err) && !apierrors.IsForbidden(err) {
			if apierrors.IsAlreadyExists(err) {
				return nil
			}
			return err
		}
	}
	if err != nil {
		r.recorder.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %s", className, err)
		return nil
	}
	r.recorder.Eventf(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", name)
	return nil
}

// nfsVolume returns the volume for a claim, or why there can be none.
func nfsVolume(v client.View, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, name string) (*corev1.PersistentVolume, error) {
	subDir := "${pv.metadata.name}"
	for key, value := range class.Parameters {
		switch key {
		case "server", "share":
		case "subDir":
			subDir = value
		default:
			return nil, fmt.Errorf("unknown parameter %q", key)
		}
	}
	server, share := class.Parameters["server"], class.Parameters["share"]
	if server == "" || share == "" {
		return nil, fmt.Errorf("the parameters server and share are required")
	}
	if !path.IsAbs(share) || slices.Contains(strings.Split(share, "/"), "..") {
		return nil, fmt.Errorf("share %q: it must be an absolute path without '..'", share)
	}
	if why := refuseAny(claim); why != "" {
		return nil, fmt.Errorf("%s", why)
	}
	folder, err := expandSubDir(subDir, claim, name)
	if err != nil {
		return nil, err
	}
	at := path.Join(share, folder)
	if other := overlapping(v, server, at); other != "" {
		return nil, fmt.Errorf("subDir %q: the folder %s is that of volume %s, or is in it or around it; each claim needs one of its own", subDir, at, other)
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: []string{localpath.Finalizer}, Annotations: map[string]string{
			localpath.ProvisionedBy: localpath.NFS, localpath.Share: path.Clean(share), localpath.Quota: localpath.QuotaMissing + "the NFS server decides about the size of its folders"}},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: claim.Spec.AccessModes, Capacity: corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			StorageClassName: class.Name, MountOptions: class.MountOptions, VolumeMode: ptr.To(corev1.PersistentVolumeFilesystem),
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			ClaimRef:                      reference(claim),
			PersistentVolumeSource:        corev1.PersistentVolumeSource{NFS: &corev1.NFSVolumeSource{Server: server, Path: at}},
		},
	}, nil
}

// expandSubDir returns the folder of a claim below the share. It never leads out of the share, whatever the template and the names are.
func expandSubDir(template string, claim *corev1.PersistentVolumeClaim, volume string) (string, error) {
	folder := strings.NewReplacer("${pvc.metadata.name}", claim.Name, "${pvc.metadata.namespace}", claim.Namespace, "${pv.metadata.name}", volume).Replace(template)
	if strings.Contains(folder, "${") {
		return "", fmt.Errorf("subDir %q: only ${pvc.metadata.name}, ${pvc.metadata.namespace} and ${pv.metadata.name} are known", template)
	}
	if len(folder) > maxSubDir {
		return "", fmt.Errorf("subDir %q: the folder's path has %d bytes, the limit is %d", template, len(folder), maxSubDir)
	}
	for part := range strings.SplitSeq(folder, "/") {
		// A name that begins with a dot may be one that removed folders have until they are gone.
		if part == "" || strings.HasPrefix(part, ".") || strings.ContainsFunc(part, func(c rune) bool { return c < ' ' || c == 0x7f || c == '\\' }) {
			return "", fmt.Errorf("subDir %q: %q is not a path of folders below the share", template, folder)
		}
	}
	return folder, nil
}

const maxSubDir = 1024

// overlapping returns a volume whose folder is the same as another, or above or below it.
func overlapping(v client.View, server, at string) string {
	keys := []string{folderKey("at", server, at), folderKey("below", server, at)}
	for up := at; up != "/"; {
		up = path.Dir(up)
		keys = append(keys, folderKey("at", server, up))
	}
	for _, volume := range folders.Any(v, keys...) {
		return volume.Name
	}
	return ""
}

// syncVolume has the folder of a released volume removed, and removes the volume when that is done.
func (r *nfsReconciler) syncVolume(ctx context.Context, v client.View, name string) (controller.Result, error) {
	volume, ok := client.Get[*corev1.PersistentVolume](v, "", name)
	if !ok || volume.Annotations[localpath.ProvisionedBy] != localpath.NFS {
		r.mu.Lock()
		delete(r.asked, name)
		r.mu.Unlock()
		return controller.Result{}, nil
	}
	switch {
	case volume.Status.Phase == corev1.VolumeBound:
		return controller.Result{}, nil
	case volume.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete:
		if volume.DeletionTimestamp == nil {
			return controller.Result{}, nil
		}
		_, err := r.release(ctx, volume) // the data stays
		return controller.Result{}, err
	case !localpath.ToRemove(string(volume.Spec.PersistentVolumeReclaimPolicy), string(volume.Status.Phase), volume.DeletionTimestamp != nil):
		return controller.Result{}, nil
	case volume.Annotations[localpath.State] == localpath.Made:
		return r.askNode(ctx, v, volume)
	}
	return controller.Result{}, r.finish(ctx, volume) // it is removed, or was never made
}

// askNode names the node that is to remove the folder: one that is ready, and after a while the next one.
func (r *nfsReconciler) askNode(ctx context.Context, v client.View, volume *corev1.PersistentVolume) (controller.Result, error) {
	var ready []string
	client.Each(v, "", func(node *corev1.Node) bool {
		if isReady(node) {
			ready = append(ready, node.Name)
		}
		return true
	})
	slices.SortFunc(ready, cmp.Compare[string])
	again := controller.Result{After: removalTime}
	now := volume.Annotations[localpath.Node]
	r.mu.Lock()
	since, asked := r.asked[volume.Name]
	if !asked && now != "" { // by a leader before this one
		since, asked = time.Now(), true
		r.asked[volume.Name] = since
	}
	r.mu.Unlock()
	if left := removalTime - time.Since(since); asked && left > 0 && slices.Contains(ready, now) {
		return controller.Result{After: left}, nil
	}
	if len(ready) == 0 {
		r.recorder.Event(volume, corev1.EventTypeWarning, "VolumeFailedDelete", "no node is ready to remove the folder")
		return again, nil
	}
	next, _ := slices.BinarySearch(ready, now+"\x00")
	changed := volume.DeepCopy()
	changed.Annotations[localpath.Node] = ready[next%len(ready)]
	if _, err := client.Update(ctx, r.client, changed); err != nil {
		return controller.Result{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked[volume.Name] = time.Now()
	return again, nil
}

func isReady(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue && node.DeletionTimestamp == nil
		}
	}
	return false
}
