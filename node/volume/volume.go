// Package volume makes the volumes of pods available on the host. The kinds of volumes are in a table (table): those that a pod's spec
// describes, and the persistent volumes of claims.
//
// Volumes with the content of objects are updated atomically for readers, and follow their objects until the pod ends. What is mounted
// for a pod is below RootDir/UID. It is recorded in a state file before it is mounted, and TearDown unmounts it by that file, so that
// also what a previous process has mounted is unmounted, without the pod or its objects. Whatever may wait for another host is done
// beside the pod's worker, which waits for it with a limit. Nothing that is mounted is ever removed by removing folders.
package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/tree"
	"github.com/kontiki/kontiki/node/csi"
	"github.com/kontiki/kontiki/node/kubeletroot"
	"github.com/kontiki/kontiki/node/volume/csimount"
	"github.com/kontiki/kontiki/node/volume/mounts"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Objects provides the objects for volumes.
type Objects interface {
	ConfigMap(namespace, name string) (*corev1.ConfigMap, bool)
	Secret(namespace, name string) (*corev1.Secret, bool)
	// TrustBundles returns all ClusterTrustBundles.
	TrustBundles() []*certificatesv1.ClusterTrustBundle
	PersistentVolumeClaim(namespace, name string) (*corev1.PersistentVolumeClaim, bool)
	PersistentVolume(name string) (*corev1.PersistentVolume, bool)
	CSIDriver(name string) (*storagev1.CSIDriver, bool)
	VolumeAttachment(name string) (*storagev1.VolumeAttachment, bool)
	// PersistentVolumes returns all that the node knows.
	PersistentVolumes() []*corev1.PersistentVolume
}

// Config has the parameters of a Manager.
type Config struct {
	// RootDir has a directory for each pod's UID.
	RootDir string
	// DeviceRoot has the file systems of devices that pods share; "" means a folder beside RootDir.
	DeviceRoot string
	// Kubelet is the kubelet's folder, into which pods' paths of the host lead that name it; nil if there is none.
	Kubelet *kubeletroot.Root
	Objects Objects
	// Token issues service account tokens; it may fail while there is no session with a master.
	Token func(ctx context.Context, r *nodev1.CreateTokenRequest) (*nodev1.CreateTokenResponse, error)
	// Certify requests certificates for pods; it may fail while there is no session with a master.
	Certify func(ctx context.Context, r *nodev1.CertifyPodRequest) (*nodev1.CertifyPodResponse, error)
	// Node returns the Node object, for resources in downward API volumes; it may return nil.
	Node func() *corev1.Node
	// Labels returns the node's labels in the cluster, for the node affinity of volumes; nil if they are not known.
	Labels func() map[string]string
	// NodeName is the name of the node, and FolderRoot the folder with the folders of its volumes of the provisioner kontiki.io/local-path;
	// "" if it has none.
	NodeName   string
	FolderRoot string
	// ReportVolume reports what has become of such a folder; it may fail while there is no session with a master.
	ReportVolume func(ctx context.Context, r *nodev1.ReportVolumeRequest) error
	// CSI are the CSI drivers of the node; nil if it has none.
	CSI *csi.Drivers
	// ClusterNode returns the Node as the masters have it; it may return nil.
	ClusterNode func() *corev1.Node
	// InUseChanged is called when InUse may return something else. It must not call the Manager's methods.
	InUseChanged func()
	// ReportExpansion reports what has become of expanding a volume; it may fail while there is no session with a master.
	ReportExpansion func(ctx context.Context, r *nodev1.ReportExpansionRequest) error
	// Event records an event of a pod; nil for not.
	Event func(pod *corev1.Pod, kind, reason, message string)
}

// Error is the error for a volume that could not be created; its text is the kubelet's.
type Error struct {
	Volume string
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.Volume, e.Err)
}
func (e *Error) Unwrap() error { return e.Err }

// NotReadyError is the error for a volume that cannot be mounted yet; its text is the kubelet's.
type NotReadyError struct {
	Volume string
	// Failed says that it is not known what to mount; otherwise it is being mounted.
	Failed bool
	Err    error
}

func (e *NotReadyError) Error() string {
	failed := ""
	if e.Failed {
		failed = e.Volume
	}
	return fmt.Sprintf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], failed to process volumes=[%s]: %v", e.Volume, failed, e.Err)
}
func (e *NotReadyError) Unwrap() error { return e.Err }

// Awaited says whether others have still to bind the claim.
func (e *NotReadyError) Awaited() bool { return e.Failed }

// Manager manages volumes. Its methods are safe for concurrent use, except that calls for one pod must not overlap.
type Manager struct {
	c           Config
	plugins     []plugin
	mountWait   time.Duration // shorter in tests
	mu          sync.Mutex
	states      map[string]map[string]*State // by the pod's UID and the volume's name
	operations  map[operationKey]*operation
	limits      map[types.UID]int64 // the quotas of folders that are known to be set
	folders     chan struct{}
	devices     sync.Map // *sync.Mutex by the name of a volume
	tokens      map[tokenKey]*token
	credentials map[tokenKey]*credential
	expiry      func(uid types.UID, volumes []string)
	wake        chan struct{}
	csi         *csimount.Mounter
}

// New creates a Manager, which knows what previous processes have mounted.
func New(c Config) *Manager {
	if c.DeviceRoot == "" {
		c.DeviceRoot = c.RootDir + "-devices"
	}
	m := &Manager{c: c, mountWait: mountWait, tokens: map[tokenKey]*token{}, credentials: map[tokenKey]*credential{}, states: map[string]map[string]*State{},
		operations: map[operationKey]*operation{}, limits: map[types.UID]int64{}, folders: make(chan struct{}, 1), expiry: func(types.UID, []string) {}, wake: make(chan struct{}, 1)}
	m.plugins = m.table()
	m.loadStates()
	m.csi = m.newMounter()
	m.unmountShares()
	return m
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
		wait = m.csi.Wait(wait)
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

// rouse has Run look again at what expires when.
func (m *Manager) rouse() {
	select {
	case m.wake <- struct{}{}:
	default:
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
	for _, k := range m.csi.Due() {
		due(tokenKey{uid: k.UID, volume: k.Volume}, now)
	}
	return out
}

func (m *Manager) podDir(uid string) string { return filepath.Join(m.c.RootDir, uid) }

func (m *Manager) node() *corev1.Node {
	if m.c.Node == nil {
		return nil
	}
	return m.c.Node()
}

func (m *Manager) dir(pod *corev1.Pod, plugin, name string) string {
	return filepath.Join(m.podDir(string(pod.UID)), "volumes", "kubernetes.io~"+plugin, name)
}

// Setup creates or updates every volume of the pod, and returns the path of each on the host. It stops at the first that fails, with
// an error whose text is the kubelet's.
func (m *Manager) Setup(ctx context.Context, pod *corev1.Pod, hostIP string, podIPs []string) (map[string]string, error) {
	out := map[string]string{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		path, err := m.one(ctx, pod, v, hostIP, podIPs)
		if err != nil {
			return nil, err
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
			return err
		}
	}
	return nil
}

// Labelled says whether the files of a volume that Setup has made get the SELinux label of the containers that mount it: those of the host
// and of other hosts do not.
func (m *Manager) Labelled(pod *corev1.Pod, v *corev1.Volume) bool {
	if s, ok := m.state(string(pod.UID), v.Name); ok {
		i := slices.IndexFunc(m.plugins, func(p plugin) bool { return p.name == s.Plugin })
		return i >= 0 && m.plugins[i].labelled
	}
	p, err := m.find(&source{volume: v, namespace: pod.Namespace})
	return err == nil && p.labelled
}

// one makes or updates one volume.
func (m *Manager) one(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, hostIP string, podIPs []string) (string, error) {
	if ownsFiles(v) {
		return "", &Error{v.Name, fmt.Errorf("%w: a user for files of a volume", ErrUnsupported)}
	}
	if s, ok := m.state(string(pod.UID), v.Name); ok && s.Mounted && m.stillMounted(pod, s) {
		m.refresh(ctx, pod, v, s)
		return s.Path, nil // whatever has become of its claim
	}
	s, err := m.resolve(pod, v)
	if err != nil {
		return "", &NotReadyError{v.Name, true, err}
	}
	r := &request{source: s, pod: pod, hostIP: hostIP, podIPs: podIPs}
	name := v.Name
	if s.pv != nil {
		name = s.pv.Name
	}
	p, err := m.find(&s)
	if err != nil {
		return "", &Error{name, err}
	}
	r.dir = m.dir(pod, p.name, name)
	mount := func(ctx context.Context) (string, error) { return p.mount(ctx, r) }
	if p.unmount != nil {
		mount = func(ctx context.Context) (string, error) { return m.mountOnce(ctx, p, r) }
	}
	var path string
	if p.slow {
		path, err = m.within(ctx, operationKey{string(pod.UID), v.Name}, m.mountWait, mount)
	} else {
		path, err = mount(ctx)
	}
	switch {
	case errors.Is(err, errBusy):
		if m.csi.LimitReached(csimount.Key{UID: string(pod.UID), Volume: v.Name}) {
			return "", &AttachLimitError{v.Name}
		}
		return "", &NotReadyError{v.Name, false, context.DeadlineExceeded}
	case err != nil:
		return "", &Error{name, err}
	}
	return path, nil
}

// refreshWait is how long a pod's worker waits for the refresh of a mounted volume, which goes on then.
const refreshWait = 5 * time.Second

// refresh does for a mounted volume what its kind does from time to time. What fails is tried again when the pod is refreshed next.
func (m *Manager) refresh(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, s State) {
	i := slices.IndexFunc(m.plugins, func(p plugin) bool { return p.name == s.Plugin && p.refresh != nil })
	if i < 0 {
		return
	}
	found, err := m.resolve(pod, v)
	if err != nil || found.pv != nil && found.pv.Name != s.PersistentVolume || !m.plugins[i].supports(&found) {
		return // its claim has gone, or has another volume by now
	}
	r := &request{source: found, pod: pod, dir: s.Dir, state: &s}
	_, err = m.within(ctx, operationKey{string(pod.UID), v.Name}, refreshWait, func(ctx context.Context) (string, error) {
		return s.Path, m.plugins[i].refresh(ctx, r)
	})
	if err != nil && !errors.Is(err, errBusy) && ctx.Err() == nil {
		slog.Warn("refresh a volume", "namespace", pod.Namespace, "pod", pod.Name, "volume", v.Name, "err", err)
	}
}

// mountOnce mounts a volume of a kind that keeps a state.
func (m *Manager) mountOnce(ctx context.Context, p *plugin, r *request) (string, error) {
	uid := string(r.pod.UID)
	s := State{Plugin: p.name, Volume: r.volume.Name, Dir: r.dir}
	if r.pv != nil {
		s.PersistentVolume = r.pv.Name
	}
	if p.prepare != nil {
		if err := p.prepare(r, &s); err != nil {
			return "", err
		}
	}
	if before, ok := m.state(uid, s.Volume); ok && (before.Plugin != s.Plugin || before.Dir != s.Dir) { // the claim has another volume by now
		if err := m.unmountByState(ctx, uid, before); err != nil {
			return "", err
		}
	} else if ok && before.CSI != nil && s.CSI != nil {
		s.CSI.Begun = before.CSI.Begun
	}
	r.state = &s
	if r.pv != nil && slices.Contains(r.pv.Spec.AccessModes, corev1.ReadWriteOncePod) && !m.reserve(uid, &s) {
		return "", errOncePod
	}
	if err := m.saveState(uid, s); err != nil {
		return "", err
	}
	path, err := p.mount(ctx, r)
	if err != nil {
		return "", err
	}
	s.Path, s.Mounted, s.seen = path, true, true
	return path, m.saveState(uid, s)
}

// stillMounted says whether a volume that was mounted is; it is not after the host was started anew.
func (m *Manager) stillMounted(pod *corev1.Pod, s State) bool {
	if s.seen {
		return true
	}
	if s.CSI != nil && !mounts.At(s.CSI.Target) || s.CSI == nil && s.Path == s.Dir && !mounts.At(s.Dir) {
		return false
	}
	s.seen = true
	m.keepState(string(pod.UID), &s)
	return true
}

// unmountByState unmounts a volume as its state says, and then forgets the state.
func (m *Manager) unmountByState(ctx context.Context, uid string, s State) error {
	i := slices.IndexFunc(m.plugins, func(p plugin) bool { return p.name == s.Plugin && p.unmount != nil })
	if i < 0 {
		return fmt.Errorf("volume %q: its kind %q is not known to this version", s.Volume, s.Plugin)
	}
	if err := m.plugins[i].unmount(ctx, uid, &s); err != nil {
		return fmt.Errorf("volume %q: %w", s.Volume, err)
	}
	if err := m.dropState(uid, s); err != nil {
		return err
	}
	if s.PersistentVolume != "" {
		m.deviceUnused(ctx, s.PersistentVolume)
	}
	return nil
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
	m.csi.Forget(uid)
	dir := m.podDir(uid)
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	busy := m.settle(ctx, uid)
	m.unmountSubPaths(uid)
	var errs []error
	for _, s := range m.statesOf(uid) {
		if busy[s.Volume] {
			errs = append(errs, fmt.Errorf("volume %q: %w", s.Volume, errBusy))
			continue
		}
		_, err := m.within(ctx, operationKey{uid, s.Volume}, settleWait, func(ctx context.Context) (string, error) { return "", m.unmountByState(ctx, uid, s) })
		errs = append(errs, err)
	}
	m.PokeFolders()
	for volume := range m.settle(ctx, uid) { // what was hung on a volume ends when that is unmounted
		errs = append(errs, fmt.Errorf("volume %q: %w", volume, errBusy))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for range 3 {
		for _, p := range mounts.Below(dir) {
			_ = unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		}
	}
	if left := mounts.Below(dir); len(left) > 0 {
		return fmt.Errorf("volumes of pod %s: %s is still mounted", uid, left[0])
	}
	return errors.Join(tree.RemoveAll(ctx, filepath.Join(dir, "volume-subpaths")), tree.RemoveAll(ctx, filepath.Join(dir, "volumes")),
		tree.RemoveAll(ctx, filepath.Join(dir, stateDir)))
}
