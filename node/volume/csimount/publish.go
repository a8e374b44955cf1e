package csimount

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/volumes"
	"github.com/kontiki/kontiki/node/csi"
	"github.com/kontiki/kontiki/node/volume/fsgroup"
)

// volume returns what the driver is told of a volume, without its Secrets, and whether it is mounted read-only.
func (m *Mounter) volume(r *Request, can csi.Capabilities) (*csi.Volume, bool, error) {
	v := &csi.Volume{Handle: r.State.Handle, AccessMode: corev1.ReadWriteOnce, MultiWriter: can.MultiWriter, Block: r.Block}
	readOnly := r.ReadOnly
	if inline := r.Volume.CSI; r.PV == nil && inline != nil {
		v.FSType, v.Attributes = ptr.Deref(inline.FSType, ""), inline.VolumeAttributes
		readOnly = ptr.Deref(inline.ReadOnly, false)
	} else {
		pv, err := r.csi()
		if err != nil {
			return nil, false, err
		}
		v.FSType, v.Attributes, v.Options = pv.Spec.CSI.FSType, pv.Spec.CSI.VolumeAttributes, r.Options
		if len(pv.Spec.AccessModes) > 0 {
			v.AccessMode = pv.Spec.AccessModes[0]
		}
	}
	if gid := fsgroup.Of(r.Pod); can.MountGroup && gid >= 0 && !r.Block {
		v.Group = strconv.Itoa(gid)
	}
	return v, readOnly, nil
}

// groups says whether the agent gives the files of a volume to the pod's fsGroup (CSIDriver.spec.fsGroupPolicy).
func (m *Mounter) groups(r *Request, v *csi.Volume) bool {
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if driver, ok := m.c.Objects.CSIDriver(r.State.Driver); ok && driver.Spec.FSGroupPolicy != nil && *driver.Spec.FSGroupPolicy != "" {
		policy = *driver.Spec.FSGroupPolicy
	}
	switch {
	case r.Block || policy == storagev1.NoneFSGroupPolicy:
		return false
	case policy == storagev1.FileFSGroupPolicy:
		return true
	}
	return v.FSType != "" && (r.PV == nil || slices.Contains(r.PV.Spec.AccessModes, corev1.ReadWriteOnce))
}

// secretData returns what a Secret says, for a driver.
func (m *Mounter) secretData(what, namespace, name string) (map[string]string, error) {
	secret, ok := m.c.Objects.Secret(namespace, name)
	if !ok {
		return nil, fmt.Errorf("fetching %s %s/%s failed: secrets %q not found", what, namespace, name, name)
	}
	out := map[string]string{}
	for k, v := range secret.Data {
		out[k] = string(v)
	}
	return out, nil
}

func (m *Mounter) secretRef(what string, ref *corev1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	return m.secretData(what, ref.Namespace, ref.Name)
}

// publish publishes a volume for a pod, for the first time or again.
func (m *Mounter) publish(ctx context.Context, driver *csi.Driver, r *Request, v *csi.Volume, staged string, readOnly bool) error {
	c := r.State
	published := *v
	published.Attributes = maps.Clone(v.Attributes)
	if published.Attributes == nil {
		published.Attributes = map[string]string{}
	}
	mode := storagev1.VolumeLifecyclePersistent
	var err error
	if inline := r.Volume.CSI; r.PV == nil && inline != nil {
		mode = storagev1.VolumeLifecycleEphemeral
		if ref := inline.NodePublishSecretRef; ref != nil {
			published.Secrets, err = m.secretData("NodePublishSecretRef", r.Pod.Namespace, ref.Name)
		}
	} else {
		pv, csiErr := r.csi()
		if csiErr != nil {
			return csiErr
		}
		published.Secrets, err = m.secretRef("NodePublishSecretRef", pv.Spec.CSI.NodePublishSecretRef)
	}
	if err != nil {
		return err
	}
	if driver, ok := m.c.Objects.CSIDriver(c.Driver); ok {
		if ptr.Deref(driver.Spec.PodInfoOnMount, false) {
			maps.Copy(published.Attributes, map[string]string{
				"csi.storage.k8s.io/pod.name": r.Pod.Name, "csi.storage.k8s.io/pod.namespace": r.Pod.Namespace, "csi.storage.k8s.io/pod.uid": string(r.Pod.UID),
				"csi.storage.k8s.io/serviceAccount.name": r.Pod.Spec.ServiceAccountName, "csi.storage.k8s.io/ephemeral": strconv.FormatBool(mode == storagev1.VolumeLifecycleEphemeral)})
		}
		tokens, err := m.driverTokens(ctx, r, driver)
		if err != nil {
			return err
		}
		if tokens != "" && ptr.Deref(driver.Spec.ServiceAccountTokenInSecrets, false) {
			if published.Secrets == nil {
				published.Secrets = map[string]string{}
			}
			published.Secrets[tokensAttribute] = tokens
		} else if tokens != "" {
			published.Attributes[tokensAttribute] = tokens
		}
	}
	if err := os.MkdirAll(filepath.Dir(c.Target), 0o750); err != nil {
		return err
	}
	if !c.Block {
		name := r.Volume.Name
		if r.PV != nil {
			name = r.PV.Name
		}
		if err := writeData(filepath.Dir(c.Target), map[string]string{"specVolID": name, "volumeHandle": c.Handle, "driverName": c.Driver, "nodeName": m.c.NodeName,
			"volumeLifecycleMode": string(mode), "attachmentID": volumes.AttachmentName(c.Driver, c.Handle, m.c.NodeName)}); err != nil {
			return err
		}
	}
	seen := ""
	if staged != "" {
		seen = m.c.Kubelet.Seen(staged)
	}
	return driver.Publish(ctx, &published, seen, m.c.Kubelet.Seen(c.Target), readOnly)
}

// volumeData is the name of the kubelet's file beside a mount, which some drivers and tools read.
const volumeData = "vol_data.json"

// writeData writes the kubelet's file beside a mount.
func writeData(dir string, data map[string]string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return durable.Save(filepath.Join(dir, volumeData), &data)
}
