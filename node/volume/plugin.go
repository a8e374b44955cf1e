package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	storage "k8s.io/component-helpers/storage/volume"

	"github.com/kontiki/kontiki/node/podspec"
)

// source is what a volume of a pod is: what the pod's spec says, or the persistent volume of the claim that it names.
type source struct {
	volume *corev1.Volume
	pv     *corev1.PersistentVolume // nil if it is no claim's
	// namespace is the pod's.
	namespace string
	// readOnly says that the pod wants it read-only; block that it is a device without a file system.
	readOnly, block bool
}

// request is a volume that a pod needs.
type request struct {
	source
	pod    *corev1.Pod
	hostIP string
	podIPs []string
	// dir is the volume's folder below the pod's, where kinds that need one put it.
	dir string
	// state is that of a kind that keeps one.
	state *State
}

// plugin is one kind of volume.
//
// A kind without unmount has all that it makes in the pod's folder, and mount is also how it is refreshed. A kind with unmount is
// mounted once for a pod: a state file is written first, and from it alone the volume is unmounted later, by this process or another.
type plugin struct {
	// name is that in the folder's name, kubernetes.io~NAME.
	name     string
	supports func(s *source) bool
	// mount makes the volume, or updates it, and returns the path of its folder, file or device on the host.
	mount func(ctx context.Context, r *request) (string, error)
	// prepare adds to the state, before it is stored, what unmount needs; nil for nothing.
	prepare func(r *request, s *State) error
	// refresh does for a mounted volume of a kind that keeps a state what must be done from time to time; nil for nothing.
	refresh func(ctx context.Context, r *request) error
	unmount func(ctx context.Context, uid string, s *State) error
	// labelled kinds have files that are the pod's: where containers have SELinux labels, they get that of the container which mounts them.
	labelled bool
	// slow kinds may wait for other hosts or for hung file systems, so they are mounted beside the pod's worker.
	slow bool
}

// table has the kinds of volumes.
func (m *Manager) table() []plugin {
	inline := func(is func(v *corev1.VolumeSource) bool) func(*source) bool {
		return func(s *source) bool { return s.pv == nil && is(&s.volume.VolumeSource) }
	}
	return []plugin{
		{name: "empty-dir", supports: inline(func(v *corev1.VolumeSource) bool { return v.EmptyDir != nil }), mount: m.emptyDir, labelled: true},
		{name: "configmap", supports: inline(func(v *corev1.VolumeSource) bool { return v.ConfigMap != nil }), mount: m.project(configMapFiles), labelled: true},
		{name: "secret", supports: inline(func(v *corev1.VolumeSource) bool { return v.Secret != nil }), mount: m.project(secretFiles), labelled: true},
		{name: "downward-api", supports: inline(func(v *corev1.VolumeSource) bool { return v.DownwardAPI != nil }), mount: m.project(downwardFiles), labelled: true},
		{name: "projected", supports: inline(func(v *corev1.VolumeSource) bool { return v.Projected != nil }), mount: m.project(projectedFiles), labelled: true},
		{name: "image", supports: inline(func(v *corev1.VolumeSource) bool { return v.Image != nil }), mount: image},
		m.csiKind(),
		{name: "host-path", supports: inline(func(v *corev1.VolumeSource) bool { return v.HostPath != nil }), mount: m.mountHostPath, slow: true},
		{name: "host-path-volume", supports: func(s *source) bool { return s.pv != nil && s.pv.Spec.HostPath != nil }, mount: m.mountHostPath, unmount: nothing, slow: true},
		{name: "local-volume", supports: func(s *source) bool { return s.pv != nil && s.pv.Spec.Local != nil }, mount: m.mountLocal, unmount: m.unmountLocal, labelled: true, slow: true},
		{name: "nfs", supports: func(s *source) bool { return s.nfs() != nil }, mount: m.mountNFS, unmount: m.unmountNFS, slow: true},
	}
}

// ErrUnsupported is returned for a kind of volume that this node does not support.
var ErrUnsupported = errors.New("volume kind is not supported")

// find returns the kind of a volume.
func (m *Manager) find(s *source) (*plugin, error) {
	for i := range m.plugins {
		if m.plugins[i].supports(s) {
			return &m.plugins[i], nil
		}
	}
	if s.pv != nil {
		return nil, fmt.Errorf("%w: a persistent volume of type %s", ErrUnsupported, kindOf(s.pv.Spec.PersistentVolumeSource))
	}
	return nil, fmt.Errorf("%w: %s", ErrUnsupported, kindOf(s.volume.VolumeSource))
}

// nothing is to be done for unmounting a path of the host. It has a state all the same, by which it is known who uses the volume.
func nothing(context.Context, string, *State) error { return nil }

func (s *source) hostPath() *corev1.HostPathVolumeSource {
	if s.pv != nil {
		return s.pv.Spec.HostPath
	}
	return s.volume.HostPath
}

// mountOptions are those of a persistent volume.
func (s *source) mountOptions() []string {
	if s.pv == nil {
		return nil
	}
	if old, ok := s.pv.Annotations[corev1.MountOptionAnnotation]; ok {
		var out []string
		for o := range strings.SplitSeq(old, ",") {
			if o = strings.TrimSpace(o); o != "" {
				out = append(out, o)
			}
		}
		return out
	}
	return s.pv.Spec.MountOptions
}

// pvcProtection is the finalizer of a claim that pods use.
const pvcProtection = "kubernetes.io/pvc-protection"

// resolve finds out what a pod's volume is. The errors are the kubelet's.
func (m *Manager) resolve(pod *corev1.Pod, v *corev1.Volume) (source, error) {
	s := source{volume: v, namespace: pod.Namespace}
	var name string
	switch {
	case v.PersistentVolumeClaim != nil:
		name, s.readOnly = v.PersistentVolumeClaim.ClaimName, v.PersistentVolumeClaim.ReadOnly
	case v.Ephemeral != nil:
		name = ephemeral.VolumeClaimName(pod, v)
	default:
		return s, nil
	}
	fail := func(format string, args ...any) (source, error) {
		return s, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, name, fmt.Errorf(format, args...))
	}
	claim, ok := m.c.Objects.PersistentVolumeClaim(pod.Namespace, name)
	switch {
	case !ok:
		return fail("failed to fetch PVC from API server: persistentvolumeclaims %q not found", name)
	case claim.DeletionTimestamp != nil && !slices.Contains(claim.Finalizers, pvcProtection):
		return fail("PVC is being deleted")
	case claim.Status.Phase != corev1.ClaimBound:
		return fail("PVC is not bound")
	case claim.Spec.VolumeName == "":
		return fail("PVC has empty pvc.Spec.VolumeName")
	}
	if v.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return s, err
		}
	}
	pv, ok := m.c.Objects.PersistentVolume(claim.Spec.VolumeName)
	switch {
	case !ok:
		return fail("failed to fetch PV %s from API server: persistentvolumes %q not found", claim.Spec.VolumeName, claim.Spec.VolumeName)
	case pv.Spec.ClaimRef == nil:
		return fail("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", pv.Name)
	case pv.Spec.ClaimRef.UID != claim.UID:
		return fail("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", pv.Name, pv.Spec.ClaimRef.UID, claim.UID)
	}
	if m.c.Labels != nil {
		if err := storage.CheckNodeAffinity(pv, m.c.Labels()); err != nil {
			return s, fmt.Errorf("NodeAffinity check failed for volume %q : %w", pv.Name, err)
		}
	}
	s.pv = pv
	s.block = pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock
	return s, s.checkMode(pod)
}

// checkMode returns an error if a container uses a device as a folder, or the reverse.
func (s *source) checkMode(pod *corev1.Pod) error {
	check := func(c *corev1.Container) error {
		for _, mount := range c.VolumeMounts {
			if mount.Name == s.volume.Name && s.block {
				return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeMounts", mount.Name, corev1.PersistentVolumeBlock)
			}
		}
		for _, device := range c.VolumeDevices {
			if device.Name == s.volume.Name && !s.block {
				return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeDevices", device.Name, corev1.PersistentVolumeFilesystem)
			}
		}
		return nil
	}
	for c := range podspec.Containers(pod) {
		if err := check(c); err != nil {
			return err
		}
	}
	return nil
}

func image(_ context.Context, r *request) (string, error) {
	// The runtime mounts the image here when a container needs it.
	return r.dir, os.MkdirAll(r.dir, 0o755)
}

// project makes the function of a plugin whose files the agent writes.
func (m *Manager) project(collect func(p *projector, v *corev1.Volume) error) func(context.Context, *request) (string, error) {
	return func(ctx context.Context, r *request) (string, error) {
		p := projector{m: m, ctx: ctx, pod: r.pod, volume: r.volume.Name, dir: r.dir, hostIP: r.hostIP, podIPs: r.podIPs, mode: corev1.ConfigMapVolumeSourceDefaultMode}
		if err := collect(&p, r.volume); err != nil {
			return "", err
		}
		return r.dir, p.write(r.volume.Secret != nil || r.volume.Projected != nil)
	}
}

func configMapFiles(p *projector, v *corev1.Volume) error {
	p.defaultMode(v.ConfigMap.DefaultMode)
	return p.configMap(v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional)
}

func secretFiles(p *projector, v *corev1.Volume) error {
	p.defaultMode(v.Secret.DefaultMode)
	return p.secret(v.Secret.SecretName, v.Secret.Items, v.Secret.Optional)
}

func downwardFiles(p *projector, v *corev1.Volume) error {
	p.defaultMode(v.DownwardAPI.DefaultMode)
	return p.downward(v.DownwardAPI.Items)
}

func projectedFiles(p *projector, v *corev1.Volume) error {
	p.defaultMode(v.Projected.DefaultMode)
	for i := range v.Projected.Sources {
		if err := p.source(&v.Projected.Sources[i], i); err != nil {
			return err
		}
	}
	return nil
}

// ownsFiles says whether the spec of a volume sets the owner of a file, which is not supported.
func ownsFiles(v *corev1.Volume) bool {
	items := func(l []corev1.KeyToPath) bool {
		return slices.ContainsFunc(l, func(i corev1.KeyToPath) bool { return i.User != nil })
	}
	files := func(l []corev1.DownwardAPIVolumeFile) bool {
		return slices.ContainsFunc(l, func(f corev1.DownwardAPIVolumeFile) bool { return f.User != nil })
	}
	switch {
	case v.ConfigMap != nil:
		return v.ConfigMap.DefaultUser != nil || items(v.ConfigMap.Items)
	case v.Secret != nil:
		return v.Secret.DefaultUser != nil || items(v.Secret.Items)
	case v.DownwardAPI != nil:
		return v.DownwardAPI.DefaultUser != nil || files(v.DownwardAPI.Items)
	case v.Projected != nil:
		return v.Projected.DefaultUser != nil || slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
			return s.ConfigMap != nil && items(s.ConfigMap.Items) || s.Secret != nil && items(s.Secret.Items) ||
				s.DownwardAPI != nil && files(s.DownwardAPI.Items) || s.ServiceAccountToken != nil && s.ServiceAccountToken.User != nil ||
				s.ClusterTrustBundle != nil && s.ClusterTrustBundle.User != nil ||
				s.PodCertificate != nil && s.PodCertificate.User != nil
		})
	}
	return false
}

// kindOf is the name of the one source that is set in a VolumeSource or a VolumeProjection, as manifests spell it.
func kindOf(source any) string {
	value := reflect.ValueOf(source)
	for i := range value.NumField() {
		if field := value.Field(i); field.Kind() == reflect.Pointer && !field.IsNil() {
			name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
			return name
		}
	}
	return "unknown"
}
