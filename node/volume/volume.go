// Package volume creates the volumes of pods in directories of the host: emptyDir, configMap, secret, downwardAPI, projected,
// hostPath, and the directories on which images are mounted. Volumes with the content of objects are updated atomically for
// readers, and follow their objects until the pod ends. All volumes of a pod are below RootDir/UID, and are removed by TearDown.
package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/beneath"
	"github.com/kontiki/kontiki/internal/tree"
	"github.com/kontiki/kontiki/node/podspec"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Objects provides the objects for volumes.
type Objects interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, bool)
	Secret(namespace, name string) (*corev1.Secret, bool)
	// TrustBundles returns all ClusterTrustBundles.
	TrustBundles() []*certificatesv1.ClusterTrustBundle
}

// Config has the parameters of a Manager.
type Config struct {
	// RootDir has a directory for each pod's UID.
	RootDir string
	Objects Objects
	// Token issues service account tokens; it may fail while there is no session with a master.
	Token func(ctx context.Context, r *nodev1.CreateTokenRequest) (*nodev1.CreateTokenResponse, error)
	// Certify requests certificates for pods; it may fail while there is no session with a master.
	Certify func(ctx context.Context, r *nodev1.CertifyPodRequest) (*nodev1.CertifyPodResponse, error)
	// Node returns the Node object, for resources in downward API volumes; it may return nil.
	Node func() *corev1.Node
}

// ErrUnsupported is returned for a kind of volume that this node does not support.
var ErrUnsupported = errors.New("volume kind is not supported")

// Error is the error for a volume that could not be created; its text is the kubelet's.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}
func (e *Error) Unwrap() error { return e.Err }

// Manager manages volumes. Its methods are safe for concurrent use, except that calls for one pod must not overlap.
type Manager struct {
	c           Config
	mu          sync.Mutex
	tokens      map[tokenKey]*token
	credentials map[tokenKey]*credential
	expiry      func(uid types.UID, volumes []string)
	wake        chan struct{}
}

// New creates a Manager.
func New(c Config) *Manager {
	return &Manager{c: c, tokens: map[tokenKey]*token{}, credentials: map[tokenKey]*credential{}, expiry: func(types.UID, []string) {}, wake: make(chan struct{}, 1)}
}

// OnExpiry sets the function to call when tokens in a pod's volumes must be renewed: it should lead to a Refresh. Call it before
// Run.
func (m *Manager) OnExpiry(f func(uid types.UID, volumes []string)) { m.expiry = f }

// Run calls OnExpiry's function when a token approaches its expiry, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		wait := time.Hour
		m.mu.Lock()
		for _, t := range m.tokens {
			wait = min(wait, time.Until(t.renew))
		}
		for _, c := range m.credentials {
			if c.key != nil {
				wait = min(wait, time.Until(c.renew))
			}
		}
		m.mu.Unlock()
		timer.Reset(max(wait, time.Second))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.wake:
			continue
		case <-timer.C:
		}
		for uid, volumes := range m.expiring(time.Now()) {
			m.expiry(uid, volumes)
		}
	}
}

// expiring returns the volumes with tokens or certificates that must be renewed, by pod.
func (m *Manager) expiring(now time.Time) map[types.UID][]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[types.UID][]string{}
	due := func(k tokenKey, renew time.Time) {
		if uid := types.UID(k.uid); !now.Before(renew) && !slices.Contains(out[uid], k.volume) {
			out[uid] = append(out[uid], k.volume)
		}
	}
	for k, t := range m.tokens {
		due(k, t.renew)
	}
	for k, c := range m.credentials {
		if c.key != nil {
			due(k, c.renew)
		}
	}
	return out
}

func (m *Manager) podDir(uid string) string { return filepath.Join(m.c.RootDir, uid) }

func (m *Manager) dir(pod *corev1.Pod, plugin, name string) string {
	return filepath.Join(m.podDir(string(pod.UID)), "volumes", "kubernetes.io~"+plugin, name)
}

// Setup creates or updates every volume of the pod, and returns the path of each on the host. It stops at the first that fails,
// with an *Error.
func (m *Manager) Setup(ctx context.Context, pod *corev1.Pod, hostIP string, podIPs []string) (map[string]string, error) {
	out := map[string]string{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		path, err := m.one(ctx, pod, v, hostIP, podIPs)
		if err != nil {
			return nil, &Error{v.Name, err}
		}
		out[v.Name] = path
	}
	return out, nil
}

// Refresh updates some volumes of the pod, as Setup does for all.
func (m *Manager) Refresh(ctx context.Context, pod *corev1.Pod, volumes []string, hostIP string, podIPs []string) error {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !slices.Contains(volumes, v.Name) {
			continue
		}
		if _, err := m.one(ctx, pod, v, hostIP, podIPs); err != nil {
			return &Error{v.Name, err}
		}
	}
	return nil
}

func (m *Manager) one(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, hostIP string, podIPs []string) (string, error) {
	if ownsFiles(v) {
		return "", fmt.Errorf("%w: a user for files of a volume", ErrUnsupported)
	}
	p := projector{m: m, ctx: ctx, pod: pod, volume: v.Name, hostIP: hostIP, podIPs: podIPs, mode: corev1.ConfigMapVolumeSourceDefaultMode}
	switch {
	case v.EmptyDir != nil:
		return m.emptyDir(pod, v)
	case v.HostPath != nil:
		return hostPath(v.HostPath)
	case v.Image != nil:
		// The runtime mounts the image here when a container needs it.
		dir := m.dir(pod, "image", v.Name)
		return dir, os.MkdirAll(dir, 0o755)
	case v.ConfigMap != nil:
		s := v.ConfigMap
		p.defaultMode(s.DefaultMode)
		if err := p.configMap(s.Name, s.Items, s.Optional); err != nil {
			return "", err
		}
		return p.write("configmap")
	case v.Secret != nil:
		s := v.Secret
		p.defaultMode(s.DefaultMode)
		if err := p.secret(s.SecretName, s.Items, s.Optional); err != nil {
			return "", err
		}
		return p.write("secret")
	case v.DownwardAPI != nil:
		p.defaultMode(v.DownwardAPI.DefaultMode)
		if err := p.downward(v.DownwardAPI.Items); err != nil {
			return "", err
		}
		return p.write("downward-api")
	case v.Projected != nil:
		p.defaultMode(v.Projected.DefaultMode)
		for i := range v.Projected.Sources {
			if err := p.source(&v.Projected.Sources[i], i); err != nil {
				return "", err
			}
		}
		return p.write("projected")
	}
	return "", fmt.Errorf("%w: %s", ErrUnsupported, kindOf(v.VolumeSource))
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

func (m *Manager) emptyDir(pod *corev1.Pod, v *corev1.Volume) (string, error) {
	if v.EmptyDir.Mode != nil {
		return "", fmt.Errorf("%w: emptyDir with a mode", ErrUnsupported)
	}
	dir := m.dir(pod, "empty-dir", v.Name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	switch err := os.Mkdir(dir, 0o777); {
	case err == nil:
		if err := os.Chmod(dir, 0o777); err != nil { // regardless of the umask
			return "", err
		}
	case !errors.Is(err, os.ErrExist):
		return "", err
	}
	switch v.EmptyDir.Medium {
	case corev1.StorageMediumDefault:
	case corev1.StorageMediumMemory:
		if !mounted(dir) {
			opts := "mode=1777"
			if size := m.memorySize(pod, v.EmptyDir); size > 0 {
				opts = fmt.Sprintf("mode=0777,size=%d", size)
			}
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, opts); err != nil {
				return "", fmt.Errorf("mount tmpfs: %w", err)
			}
			if err := os.Chmod(dir, 0o777); err != nil {
				return "", err
			}
		}
	default:
		return "", fmt.Errorf("%w: emptyDir with medium %q", ErrUnsupported, v.EmptyDir.Medium)
	}
	return dir, m.ownTop(pod, dir)
}

// memorySize returns the size limit of a memory volume in bytes: its own limit, the pod's memory limit, or the node's allocatable
// memory, whichever is smallest; 0 if none is known.
func (m *Manager) memorySize(pod *corev1.Pod, e *corev1.EmptyDirVolumeSource) int64 {
	var size int64
	least := func(n int64) {
		if n > 0 && (size == 0 || n < size) {
			size = n
		}
	}
	if m.c.Node != nil {
		if n := m.c.Node(); n != nil {
			least(n.Status.Allocatable.Memory().Value())
		}
	}
	if q, ok := podspec.Limit(pod, corev1.ResourceMemory); ok {
		least(q.Value())
	}
	if e.SizeLimit != nil {
		least(e.SizeLimit.Value())
	}
	return size
}

// ownTop gives a new emptyDir to the pod's fsGroup.
func (m *Manager) ownTop(pod *corev1.Pod, dir string) error {
	gid := fsGroup(pod)
	if gid < 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	if st.Gid == uint32(gid) && st.Mode&unix.S_ISGID != 0 {
		return nil
	}
	if err := os.Chown(dir, -1, gid); err != nil {
		return err
	}
	return os.Chmod(dir, os.FileMode(st.Mode&0o777)|0o070|os.ModeSetgid)
}

func fsGroup(pod *corev1.Pod) int {
	if s := pod.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		return int(*s.FSGroup)
	}
	return -1
}

// mounted says whether dir is the root of a mount.
func mounted(dir string) bool {
	for _, p := range mountsBelow(filepath.Dir(dir)) {
		if p == dir {
			return true
		}
	}
	return false
}

// mountsBelow returns the mounts below dir, deepest and latest first.
func mountsBelow(dir string) []string {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		path := unescape(f[4])
		if strings.HasPrefix(path, dir+"/") {
			out = append([]string{path}, out...)
		}
	}
	return out
}

// unescape decodes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func hostPath(s *corev1.HostPathVolumeSource) (string, error) {
	kind := corev1.HostPathUnset
	if s.Type != nil {
		kind = *s.Type
	}
	path := s.Path
	st, err := os.Stat(path)
	absent := errors.Is(err, os.ErrNotExist)
	if err != nil && !absent && kind != corev1.HostPathUnset {
		return "", fmt.Errorf("hostPath type check failed: %w", err)
	}
	want := func(ok func(os.FileInfo) bool, what string) (string, error) {
		if absent || !ok(st) {
			return "", fmt.Errorf("hostPath type check failed: %s is not %s", path, what)
		}
		return path, nil
	}
	switch kind {
	case corev1.HostPathUnset:
		if absent { // a runtime creates the missing directory of a mount's source
			return path, os.MkdirAll(path, 0o755)
		}
		return path, err
	case corev1.HostPathDirectoryOrCreate:
		if absent {
			return path, os.MkdirAll(path, 0o755)
		}
		return want(os.FileInfo.IsDir, "a directory")
	case corev1.HostPathDirectory:
		return want(os.FileInfo.IsDir, "a directory")
	case corev1.HostPathFileOrCreate:
		if absent {
			f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
			if err != nil {
				return "", err
			}
			return path, f.Close()
		}
		return want(func(s os.FileInfo) bool { return s.Mode().IsRegular() }, "a file")
	case corev1.HostPathFile:
		return want(func(s os.FileInfo) bool { return s.Mode().IsRegular() }, "a file")
	case corev1.HostPathSocket:
		return want(func(s os.FileInfo) bool { return s.Mode()&os.ModeSocket != 0 }, "a socket")
	case corev1.HostPathCharDev:
		return want(func(s os.FileInfo) bool { return s.Mode()&os.ModeCharDevice != 0 }, "a character device")
	case corev1.HostPathBlockDev:
		return want(func(s os.FileInfo) bool { return s.Mode()&os.ModeDevice != 0 && s.Mode()&os.ModeCharDevice == 0 }, "a block device")
	}
	return "", fmt.Errorf("hostPath type check failed: unknown type %q", kind)
}

// SubPath returns a path for mounting a part of a volume. That part is looked up beneath the volume and bind-mounted at a path of
// the agent's own, so that no one who can write to the volume can redirect the mount, now or later. It is never opened: a FIFO, a
// socket or a device is passed on like a file.
func (m *Manager) SubPath(pod *corev1.Pod, container string, index int, volumePath, subPath string) (string, error) {
	st, err := os.Stat(volumePath)
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		return "", fmt.Errorf("subPath %q: the volume is not a directory", subPath)
	}
	clean := filepath.Clean(subPath)
	if !filepath.IsLocal(clean) {
		return "", fmt.Errorf("subPath %q leads out of the volume", subPath)
	}
	part, err := beneath.Handle(volumePath, clean, beneath.Follow)
	if errors.Is(err, os.ErrNotExist) {
		if err := makeBelow(volumePath, clean, st.Mode().Perm()); err != nil {
			return "", err
		}
		part, err = beneath.Handle(volumePath, clean, beneath.Follow)
	}
	if err != nil {
		return "", err
	}
	defer part.Close()
	fst, err := part.Stat()
	if err != nil {
		return "", err
	}
	if fst.Mode()&os.ModeSymlink != 0 {
		return "", fmt.Errorf("subPath %q is a symbolic link", subPath)
	}
	target := filepath.Join(m.podDir(string(pod.UID)), "volume-subpaths", container, fmt.Sprint(index))
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return "", err
	}
	for unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil { // of a previous attempt
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) { // it may be a directory instead of a file, or the reverse
		return "", err
	}
	if fst.IsDir() {
		err = os.Mkdir(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o640)
	}
	if err != nil {
		return "", err
	}
	if err := unix.Mount(beneath.Path(part), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind %s: %w", subPath, err)
	}
	return target, nil
}

// makeBelow creates a directory in a volume.
func makeBelow(volumePath, path string, mode os.FileMode) error {
	root, err := os.OpenRoot(volumePath)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(path, 0o750); err != nil {
		return err
	}
	return root.Chmod(path, mode)
}

// TearDown removes all volumes of a pod. It unmounts first, and removes nothing while something is still mounted.
func (m *Manager) TearDown(ctx context.Context, uid string) error {
	m.mu.Lock()
	for k := range m.tokens {
		if k.uid == uid {
			delete(m.tokens, k)
		}
	}
	for k := range m.credentials {
		if k.uid == uid {
			delete(m.credentials, k)
		}
	}
	m.mu.Unlock()
	dir := m.podDir(uid)
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for range 3 {
		for _, p := range mountsBelow(dir) {
			_ = unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	if left := mountsBelow(dir); len(left) > 0 {
		return fmt.Errorf("volumes of pod %s: %s is still mounted", uid, left[0])
	}
	return errors.Join(tree.RemoveAll(ctx, filepath.Join(dir, "volume-subpaths")), tree.RemoveAll(ctx, filepath.Join(dir, "volumes")))
}
