package volume

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/internal/volumes"
	"github.com/kontiki/kontiki/node/csi"
)

// A volume of a CSI driver is staged once on the node, if the driver wants that, and published for each pod that uses it. Paths, files beside
// them and the order of the driver's operations are the kubelet's (k8s.io/kubernetes/pkg/volume/csi), since drivers rely on them.

// CSIState is what is needed to unmount a volume of a CSI driver.
type CSIState struct {
	Driver string `json:"driver"`
	Handle string `json:"handle"`
	// Staging is where it is staged for all pods of the node, "" for a volume that the pod defines itself; Target is where it is published for the pod.
	Staging string `json:"staging,omitempty"`
	Target  string `json:"target"`
	Block   bool   `json:"block,omitempty"`
	// InUse is its name in the Node's status, "" if it is not attached.
	InUse corev1.UniqueVolumeName `json:"inUse,omitempty"`
	// Begun says that the driver may have been asked to mount it.
	Begun bool `json:"begun,omitempty"`
	// Size is the capacity in bytes for which the file system on the node is known to be made.
	Size int64 `json:"size,omitempty"`
	// released says that the pod does not need it to be staged any more: of two pods that end at the same time, the second unstages it.
	released bool
}

// volumeData is the name of the kubelet's file beside a mount, which some drivers and tools read.
const volumeData = "vol_data.json"

// csi returns a volume as its CSI driver sees it; nil if no CSI driver mounts it, or the pod defines it itself for its driver.
func (s *source) csi() (*corev1.PersistentVolume, error) {
	if s.pv != nil {
		return volumes.CSI(s.pv)
	}
	return volumes.InlineCSI(s.volume, s.namespace)
}

// isCSI says whether a CSI driver mounts a volume. An error of the translation is returned when it is mounted.
func isCSI(s *source) bool {
	if s.pv == nil && s.volume.CSI != nil {
		return true
	}
	pv, err := s.csi()
	return err != nil || pv != nil
}

// prepareCSI says in the state how the volume is unmounted.
func (m *Manager) prepareCSI(r *request, s *State) error {
	if m.c.Kubelet == nil || m.c.CSI == nil {
		return fmt.Errorf("%w: csi, on a node without a kubelet's folder", ErrUnsupported)
	}
	if inline := r.volume.CSI; r.pv == nil && inline != nil {
		if err := m.mayInline(inline.Driver, storagev1.VolumeLifecycleEphemeral); err != nil {
			return err
		}
		s.CSI = &CSIState{Driver: inline.Driver, Handle: fmt.Sprintf("csi-%x", sha256.Sum256([]byte(string(r.pod.UID)+r.volume.Name))), Target: filepath.Join(r.dir, "mount")}
		return nil
	}
	pv, err := r.csi()
	if err != nil {
		return err
	}
	source := pv.Spec.CSI
	if !filepath.IsLocal(source.Driver) || filepath.Base(source.Driver) != source.Driver || !filepath.IsLocal(pv.Name) || filepath.Base(pv.Name) != pv.Name {
		return fmt.Errorf("invalid driver %q or volume %q", source.Driver, pv.Name)
	}
	if err := m.mayInline(source.Driver, storagev1.VolumeLifecyclePersistent); err != nil {
		return err
	}
	s.CSI = &CSIState{Driver: source.Driver, Handle: source.VolumeHandle, Block: r.block}
	if top := filepath.Join(m.c.Kubelet.Plugins(), "kubernetes.io", "csi"); r.block {
		s.CSI.Staging = filepath.Join(top, "volumeDevices", "staging", pv.Name)
		s.CSI.Target = filepath.Join(top, "volumeDevices", "publish", pv.Name, string(r.pod.UID))
	} else {
		s.CSI.Staging = filepath.Join(top, source.Driver, fmt.Sprintf("%x", sha256.Sum256([]byte(source.VolumeHandle))), "globalmount")
		s.CSI.Target = filepath.Join(r.dir, "mount")
	}
	if m.attaches(source.Driver) {
		s.CSI.InUse = volumes.UniqueName(source.Driver, source.VolumeHandle)
	}
	return nil
}

// mayInline returns an error if a driver has no volumes of a mode of life.
func (m *Manager) mayInline(name string, mode storagev1.VolumeLifecycleMode) error {
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
func (m *Manager) attaches(name string) bool {
	driver, ok := m.c.Objects.CSIDriver(name)
	return !ok || ptr.Deref(driver.Spec.AttachRequired, true)
}

// mountCSI mounts a volume of a CSI driver.
func (m *Manager) mountCSI(ctx context.Context, r *request) (string, error) {
	c := r.state.CSI
	attachment, err := m.awaitAttached(ctx, c)
	if err != nil {
		return "", err
	}
	driver, err := m.c.CSI.Driver(c.Driver)
	if err != nil {
		return "", fmt.Errorf("kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: %w", err)
	}
	can, err := driver.Capabilities(ctx)
	if err != nil {
		return "", err
	}
	v, readOnly, err := m.csiVolume(r, can)
	if err != nil {
		return "", err
	}
	v.PublishContext = attachment
	c.Begun = true
	if err := m.saveState(string(r.pod.UID), *r.state); err != nil {
		return "", err
	}
	staged, err := m.stage(ctx, driver, can, r, v)
	if err != nil {
		return "", err
	}
	if err := m.publish(ctx, driver, r, v, staged, readOnly); err != nil {
		if csi.Finished(err) {
			m.removeTarget(c)
		}
		return "", err
	}
	if !c.Block && !mounted(c.Target) {
		slog.Warn("a CSI driver has mounted nothing for a volume: does its container mount the kubelet's folder with mountPropagation Bidirectional?",
			"driver", c.Driver, "pod", r.pod.Name, "namespace", r.pod.Namespace, "volume", r.volume.Name)
	}
	if !can.MountGroup && !readOnly && m.groupsCSI(r, v) {
		if err := setGroup(ctx, c.Target, r.pod); err != nil {
			return "", fmt.Errorf("applyFSGroup failed for vol %s: %w", c.Handle, err)
		}
	}
	if r.pv != nil {
		c.Size = sizeOf(r.pv)
		if claim, ok := m.claimOf(r.pv); ok && waitsForNode(claim) {
			c.Size = 0
			m.expandCSI(ctx, r, driver, can, v)
		}
	}
	m.dueAgain(r)
	return c.Target, nil
}

// csiVolume returns what the driver is told of a volume, without its Secrets, and whether it is mounted read-only.
func (m *Manager) csiVolume(r *request, can csi.Capabilities) (*csi.Volume, bool, error) {
	v := &csi.Volume{Handle: r.state.CSI.Handle, AccessMode: corev1.ReadWriteOnce, MultiWriter: can.MultiWriter, Block: r.block}
	readOnly := r.readOnly
	if inline := r.volume.CSI; r.pv == nil && inline != nil {
		v.FSType, v.Attributes = ptr.Deref(inline.FSType, ""), inline.VolumeAttributes
		readOnly = ptr.Deref(inline.ReadOnly, false)
	} else {
		pv, err := r.csi()
		if err != nil {
			return nil, false, err
		}
		v.FSType, v.Attributes, v.Options = pv.Spec.CSI.FSType, pv.Spec.CSI.VolumeAttributes, r.mountOptions()
		if len(pv.Spec.AccessModes) > 0 {
			v.AccessMode = pv.Spec.AccessModes[0]
		}
	}
	if gid := fsGroup(r.pod); can.MountGroup && gid >= 0 && !r.block {
		v.Group = strconv.Itoa(gid)
	}
	return v, readOnly, nil
}

// groupsCSI says whether the agent gives the files of a volume to the pod's fsGroup (CSIDriver.spec.fsGroupPolicy).
func (m *Manager) groupsCSI(r *request, v *csi.Volume) bool {
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if driver, ok := m.c.Objects.CSIDriver(r.state.CSI.Driver); ok && driver.Spec.FSGroupPolicy != nil && *driver.Spec.FSGroupPolicy != "" {
		policy = *driver.Spec.FSGroupPolicy
	}
	switch {
	case r.block || policy == storagev1.NoneFSGroupPolicy:
		return false
	case policy == storagev1.FileFSGroupPolicy:
		return true
	}
	return v.FSType != "" && (r.pv == nil || slices.Contains(r.pv.Spec.AccessModes, corev1.ReadWriteOnce))
}

// secretData returns what a Secret says, for a driver.
func (m *Manager) secretData(what, namespace, name string) (map[string]string, error) {
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

func (m *Manager) secretRef(what string, ref *corev1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	return m.secretData(what, ref.Namespace, ref.Name)
}

// stage stages a volume, unless it is, and returns where; "" if the driver does not want that.
func (m *Manager) stage(ctx context.Context, driver *csi.Driver, can csi.Capabilities, r *request, v *csi.Volume) (string, error) {
	c := r.state.CSI
	if c.Staging == "" || !can.Stage {
		return "", nil
	}
	lock := m.deviceLock(c.Staging)
	lock.Lock()
	defer lock.Unlock()
	m.mu.Lock()
	done := m.staged[c.Staging]
	m.mu.Unlock()
	if done {
		return c.Staging, nil
	}
	pv, err := r.csi()
	if err != nil {
		return "", err
	}
	staging := *v
	if staging.Secrets, err = m.secretRef("NodeStageSecretRef", pv.Spec.CSI.NodeStageSecretRef); err != nil {
		return "", err
	}
	if err := os.MkdirAll(c.Staging, 0o750); err != nil {
		return "", err
	}
	if !c.Block {
		if err := m.writeData(filepath.Dir(c.Staging), map[string]string{"volumeHandle": c.Handle, "driverName": c.Driver}); err != nil {
			return "", err
		}
	}
	if err := driver.Stage(ctx, &staging, m.c.Kubelet.Seen(c.Staging)); err != nil {
		return "", fmt.Errorf("MountVolume.MountDevice failed for volume %q : %w", pv.Name, err)
	}
	m.mu.Lock()
	m.staged[c.Staging] = true
	m.mu.Unlock()
	return c.Staging, nil
}

// publish publishes a volume for a pod, for the first time or again.
func (m *Manager) publish(ctx context.Context, driver *csi.Driver, r *request, v *csi.Volume, staged string, readOnly bool) error {
	c := r.state.CSI
	published := *v
	published.Attributes = maps.Clone(v.Attributes)
	if published.Attributes == nil {
		published.Attributes = map[string]string{}
	}
	mode := storagev1.VolumeLifecyclePersistent
	var err error
	if inline := r.volume.CSI; r.pv == nil && inline != nil {
		mode = storagev1.VolumeLifecycleEphemeral
		if ref := inline.NodePublishSecretRef; ref != nil {
			published.Secrets, err = m.secretData("NodePublishSecretRef", r.pod.Namespace, ref.Name)
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
				"csi.storage.k8s.io/pod.name": r.pod.Name, "csi.storage.k8s.io/pod.namespace": r.pod.Namespace, "csi.storage.k8s.io/pod.uid": string(r.pod.UID),
				"csi.storage.k8s.io/serviceAccount.name": r.pod.Spec.ServiceAccountName, "csi.storage.k8s.io/ephemeral": strconv.FormatBool(mode == storagev1.VolumeLifecycleEphemeral)})
		}
		tokens, err := m.csiTokens(ctx, r, driver)
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
		name := r.volume.Name
		if r.pv != nil {
			name = r.pv.Name
		}
		if err := m.writeData(filepath.Dir(c.Target), map[string]string{"specVolID": name, "volumeHandle": c.Handle, "driverName": c.Driver, "nodeName": m.c.NodeName,
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

// unmountCSI reverses mountCSI.
func (m *Manager) unmountCSI(ctx context.Context, s *State) error {
	c := s.CSI
	if c == nil || !c.Begun {
		return nil
	}
	if m.c.Kubelet == nil || m.c.CSI == nil {
		return fmt.Errorf("%w: csi, on a node without a kubelet's folder", ErrUnsupported)
	}
	driver, err := m.c.CSI.Driver(c.Driver)
	if err != nil {
		return fmt.Errorf("kubernetes.io/csi: Unmounter.TearDownAt failed to get CSI client: %w", err)
	}
	if err := driver.Unpublish(ctx, c.Handle, m.c.Kubelet.Seen(c.Target)); err != nil {
		return fmt.Errorf("kubernetes.io/csi: Unmounter.TearDownAt failed: %w", err)
	}
	if mounted(c.Target) {
		return fmt.Errorf("the CSI driver %s says that it has unmounted %s, which is still mounted", c.Driver, c.Target)
	}
	m.removeTarget(c)
	return m.unstage(ctx, driver, s)
}

// unstage reverses stage when no pod uses the volume any more.
func (m *Manager) unstage(ctx context.Context, driver *csi.Driver, s *State) error {
	c := s.CSI
	if c.Staging == "" {
		return nil
	}
	lock := m.deviceLock(c.Staging)
	lock.Lock()
	defer lock.Unlock()
	if m.release(s) > 0 {
		return nil
	}
	can, err := driver.Capabilities(ctx)
	if err != nil {
		return err
	}
	if can.Stage {
		if err := driver.Unstage(ctx, c.Handle, m.c.Kubelet.Seen(c.Staging)); err != nil {
			return fmt.Errorf("UnmountDevice failed: %w", err)
		}
		if mounted(c.Staging) {
			return fmt.Errorf("the CSI driver %s says that it has unstaged %s, which is still mounted", c.Driver, c.Staging)
		}
	}
	m.mu.Lock()
	delete(m.staged, c.Staging)
	m.mu.Unlock()
	removeEmpty(c.Staging)
	if !c.Block {
		os.Remove(filepath.Join(filepath.Dir(c.Staging), volumeData)) // it may not be there
		removeEmpty(filepath.Dir(c.Staging))
	}
	return nil
}

// release notes that a pod does not need its volume to be staged any more, and returns how many others do.
func (m *Manager) release(s *State) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, pod := range m.states {
		for _, other := range pod {
			switch {
			case other.CSI == nil || !other.CSI.Begun || other.CSI.Staging != s.CSI.Staging:
			case other.Dir == s.Dir && other.Volume == s.Volume:
				other.CSI.released = true
			case !other.CSI.released:
				n++
			}
		}
	}
	return n
}

// removeTarget removes what is left where a volume was published. Nothing that is mounted is entered.
func (m *Manager) removeTarget(c *CSIState) {
	if mounted(c.Target) {
		return
	}
	removeEmpty(c.Target)
	if c.Block {
		removeEmpty(filepath.Dir(c.Target))
		return
	}
	os.Remove(filepath.Join(filepath.Dir(c.Target), volumeData)) // it may not be there
	removeEmpty(filepath.Dir(c.Target))
}

// removeEmpty removes an empty folder, or a file, on which a device was mounted. What cannot be removed is removed with the pod's folder, or stays.
func removeEmpty(path string) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		slog.Debug("a folder of a CSI volume stays", "path", path, "err", err)
	}
}

// refreshCSI publishes a mounted volume again, if its driver wants that, and expands its file system, if that is due.
func (m *Manager) refreshCSI(ctx context.Context, r *request) error {
	c := r.state.CSI
	again := m.mustRepublish(r)
	claim, ok := m.claimOf(r.pv)
	grow := ok && m.mustExpand(r, claim)
	if !again && !grow {
		return nil
	}
	driver, err := m.c.CSI.Driver(c.Driver)
	if err != nil {
		return err
	}
	can, err := driver.Capabilities(ctx)
	if err != nil {
		return err
	}
	v, readOnly, err := m.csiVolume(r, can)
	if err != nil {
		return err
	}
	if grow {
		m.expandCSI(ctx, r, driver, can, v)
	}
	if !again {
		return nil
	}
	if c.InUse != "" {
		if a, ok := m.c.Objects.VolumeAttachment(volumes.AttachmentName(c.Driver, c.Handle, m.c.NodeName)); ok {
			v.PublishContext = a.Status.AttachmentMetadata
		}
	}
	staged := ""
	if can.Stage {
		staged = c.Staging
	}
	err = m.publish(ctx, driver, r, v, staged, readOnly)
	m.dueAgain(r)
	return err
}

// republishPeriod is how often a volume is published again for a driver that wants that (CSIDriver.spec.requiresRepublish).
const republishPeriod = time.Minute

func (m *Manager) mustRepublish(r *request) bool {
	driver, ok := m.c.Objects.CSIDriver(r.state.CSI.Driver)
	if !ok || !ptr.Deref(driver.Spec.RequiresRepublish, false) {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return !time.Now().Before(m.due[operationKey{string(r.pod.UID), r.volume.Name}]) // also if it is not known
}

// dueAgain notes when a volume must be published again.
func (m *Manager) dueAgain(r *request) {
	driver, ok := m.c.Objects.CSIDriver(r.state.CSI.Driver)
	if ok && ptr.Deref(driver.Spec.RequiresRepublish, false) {
		m.dueIn(r, republishPeriod)
	}
}

// dueIn has a volume refreshed after a while.
func (m *Manager) dueIn(r *request, d time.Duration) {
	m.mu.Lock()
	m.due[operationKey{string(r.pod.UID), r.volume.Name}] = time.Now().Add(d)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// claimOf returns the claim of a volume.
func (m *Manager) claimOf(pv *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, bool) {
	if pv == nil || pv.Spec.ClaimRef == nil {
		return nil, false
	}
	claim, ok := m.c.Objects.PersistentVolumeClaim(pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name)
	return claim, ok && claim.UID == pv.Spec.ClaimRef.UID
}

// withoutNodeExpansion is an annotation of claims whose file systems the driver's controller expands.
const withoutNodeExpansion = "volume.kubernetes.io/node-expansion-not-required"

// expandsEverywhere says whether a volume must be expanded on each of its nodes.
func expandsEverywhere(claim *corev1.PersistentVolumeClaim) bool {
	return slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany) && !metav1.HasAnnotation(claim.ObjectMeta, withoutNodeExpansion)
}
