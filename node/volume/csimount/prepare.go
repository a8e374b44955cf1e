package csimount

import (
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/internal/volumes"
)

// Mounts says whether a CSI driver mounts a volume of a pod, or the persistent volume of the claim that it names; pv is nil if there is none.
// An error of the translation is returned when it is mounted.
func Mounts(namespace string, v *corev1.Volume, pv *corev1.PersistentVolume) bool {
	if pv == nil && v.CSI != nil {
		return true
	}
	pv, err := translated(namespace, v, pv)
	return err != nil || pv != nil
}

// translated returns a volume as its CSI driver sees it; nil if no CSI driver mounts it, or the pod defines it itself for its driver.
func translated(namespace string, v *corev1.Volume, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	if pv != nil {
		return volumes.CSI(pv)
	}
	return volumes.InlineCSI(v, namespace)
}

func (r *Request) csi() (*corev1.PersistentVolume, error) {
	return translated(r.Pod.Namespace, r.Volume, r.PV)
}

// Prepare returns how a volume is mounted and unmounted; the request has no State yet.
func (m *Mounter) Prepare(r *Request) (*State, error) {
	if inline := r.Volume.CSI; r.PV == nil && inline != nil {
		if err := m.mayInline(inline.Driver, storagev1.VolumeLifecycleEphemeral); err != nil {
			return nil, err
		}
		return &State{Driver: inline.Driver, Handle: fmt.Sprintf("csi-%x", sha256.Sum256([]byte(string(r.Pod.UID)+r.Volume.Name))), Target: filepath.Join(r.Dir, "mount")}, nil
	}
	pv, err := r.csi()
	if err != nil {
		return nil, err
	}
	source := pv.Spec.CSI
	if !filepath.IsLocal(source.Driver) || filepath.Base(source.Driver) != source.Driver || !filepath.IsLocal(pv.Name) || filepath.Base(pv.Name) != pv.Name {
		return nil, fmt.Errorf("invalid driver %q or volume %q", source.Driver, pv.Name)
	}
	if err := m.mayInline(source.Driver, storagev1.VolumeLifecyclePersistent); err != nil {
		return nil, err
	}
	s := &State{Driver: source.Driver, Handle: source.VolumeHandle, Block: r.Block}
	if top := filepath.Join(m.c.Kubelet.Plugins(), "kubernetes.io", "csi"); r.Block {
		s.Staging = filepath.Join(top, "volumeDevices", "staging", pv.Name)
		s.Target = filepath.Join(top, "volumeDevices", "publish", pv.Name, string(r.Pod.UID))
	} else {
		s.Staging = filepath.Join(top, source.Driver, fmt.Sprintf("%x", sha256.Sum256([]byte(source.VolumeHandle))), "globalmount")
		s.Target = filepath.Join(r.Dir, "mount")
	}
	if m.attaches(source.Driver) {
		s.InUse = volumes.UniqueName(source.Driver, source.VolumeHandle)
	}
	return s, nil
}

// mayInline returns an error if a driver has no volumes of a mode of life.
func (m *Mounter) mayInline(name string, mode storagev1.VolumeLifecycleMode) error {
	driver, ok := m.c.Objects.CSIDriver(name)
	modes := []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	if ok && len(driver.Spec.VolumeLifecycleModes) > 0 {
		modes = driver.Spec.VolumeLifecycleModes
	}
	switch {
	case slices.Contains(modes, mode):
		return nil
	case !ok:
		return fmt.Errorf("volume mode %q not supported by driver %s (no CSIDriver object)", mode, name)
	}
	return fmt.Errorf("volume mode %q not supported by driver %s (only supports %q)", mode, name, modes)
}

// attaches says whether a driver's volumes are attached to the node before they are mounted.
func (m *Mounter) attaches(name string) bool {
	driver, ok := m.c.Objects.CSIDriver(name)
	return !ok || ptr.Deref(driver.Spec.AttachRequired, true)
}
