// Package csimount mounts the volumes of CSI drivers for the pods of a node: it waits until they are attached, stages each once on the node, if
// its driver wants that, publishes it for each pod that uses it, expands its file system, and undoes all that. Paths, files beside them and the
// order of the driver's operations are the kubelet's (k8s.io/kubernetes/pkg/volume/csi), since drivers rely on them. The client of the drivers
// is node/csi; which volumes a pod has, and what is stored about them, is the affair of node/volume.
package csimount

import (
	"context"
	"maps"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/node/csi"
	"github.com/kontiki/kontiki/node/kubeletroot"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Objects provides the objects that say how a volume is mounted.
type Objects interface {
	Secret(namespace, name string) (*corev1.Secret, bool)
	PersistentVolumeClaim(namespace, name string) (*corev1.PersistentVolumeClaim, bool)
	CSIDriver(name string) (*storagev1.CSIDriver, bool)
	VolumeAttachment(name string) (*storagev1.VolumeAttachment, bool)
}

// Config has the parameters of a Mounter.
type Config struct {
	NodeName string
	// Kubelet is the kubelet's folder, and Drivers are the drivers of the node. Without one of them only the methods for what is known may be called.
	Kubelet *kubeletroot.Root
	Drivers *csi.Drivers
	Objects Objects
	// Token issues a token of a pod's service account, and says when it is to be renewed.
	Token func(ctx context.Context, pod *corev1.Pod, r *storagev1.TokenRequest) (authenticationv1.TokenRequestStatus, time.Time, error)
	// Node returns the Node as the masters have it; it may return nil.
	Node func() *corev1.Node
	// InUseChanged is called when InUse may return something else. It must not call the Mounter's methods.
	InUseChanged func()
	// DueChanged is called when Next may return an earlier time. It must not call the Mounter's methods.
	DueChanged func()
	// ReportExpansion reports what has become of expanding a volume; nil for not.
	ReportExpansion func(ctx context.Context, r *nodev1.ReportExpansionRequest) error
	// Event records an event of a pod.
	Event func(pod *corev1.Pod, kind, reason, message string)
}

// Key names a volume of a pod: the pod's UID and the volume's name in the pod.
type Key struct{ UID, Volume string }

// State is what is needed to unmount a volume of a CSI driver. Its owner stores it.
type State struct {
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
}

// Request is a volume that a pod needs.
type Request struct {
	Pod    *corev1.Pod
	Volume *corev1.Volume
	// PV is the persistent volume of the claim that the pod names; nil if there is none.
	PV *corev1.PersistentVolume
	// ReadOnly says that the pod wants it read-only; Block that it is a device without a file system.
	ReadOnly, Block bool
	// Options are the mount options of the persistent volume.
	Options []string
	// Dir is the volume's folder below the pod's.
	Dir string
	// State is what Prepare returned; it is changed. Mounted says that mounting was completed before.
	State   *State
	Mounted bool
	// Save stores the State durably, and calls Keep.
	Save func() error
}

func (r *Request) key() Key { return Key{string(r.Pod.UID), r.Volume.Name} }

// kept is what is known of a volume that has a State.
type kept struct {
	State
	// released says that the pod does not need it to be staged any more: of two pods that end at the same time, the second unstages it.
	released bool
}

// Mounter mounts and unmounts. Its methods are safe for concurrent use, except that operations on one volume of a pod must not overlap.
type Mounter struct {
	c Config
	// Now is the clock that says what is due; tests replace it.
	Now func() time.Time

	mu     sync.Mutex
	states map[Key]*kept
	// staged is what this process has staged, by the path, and staging has a *sync.Mutex for each.
	staged  map[string]bool
	staging sync.Map
	due     map[Key]time.Time // when which is to be refreshed
	tokens  map[tokenKey]*token
	// leaving are volumes that are not in use any more, but are in the last known version of the Node; attached tells of a new version.
	leaving  map[corev1.UniqueVolumeName]bool
	attached broadcast.Signal
	// expandAt is when an expansion that failed is tried again; settled is the size to which a volume was expanded, or cannot be while it is mounted;
	// expandFailed are the names of volumes for which it failed.
	expandAt     map[Key]time.Time
	settled      map[Key]int64
	expandFailed map[string]bool
	usages       map[Key]*measured
}

// New creates a Mounter, which knows of the volumes that previous processes have mounted.
func New(c Config, known map[Key]State) *Mounter {
	m := &Mounter{c: c, Now: time.Now, states: map[Key]*kept{}, staged: map[string]bool{}, due: map[Key]time.Time{}, tokens: map[tokenKey]*token{},
		leaving: map[corev1.UniqueVolumeName]bool{}, expandAt: map[Key]time.Time{}, settled: map[Key]int64{}, expandFailed: map[string]bool{}, usages: map[Key]*measured{}}
	for k, s := range known {
		m.states[k] = &kept{State: s}
	}
	m.adoptInUse()
	return m
}

// Keep notes that a State was stored.
func (m *Mounter) Keep(k Key, s State) {
	m.mu.Lock()
	m.states[k] = &kept{State: s}
	m.mu.Unlock()
	m.used(&s)
}

// Drop notes that a volume is not mounted any more and that its State was removed.
func (m *Mounter) Drop(k Key, s State) {
	m.mu.Lock()
	delete(m.states, k)
	delete(m.usages, k)
	m.left(&s)
	m.mu.Unlock()
	m.used(&s)
}

// Forget forgets what is only needed while a pod runs: its tokens, and what is due.
func (m *Mounter) Forget(uid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.tokens, func(k tokenKey, _ *token) bool { return k.UID == uid })
	maps.DeleteFunc(m.due, func(k Key, _ time.Time) bool { return k.UID == uid })
	maps.DeleteFunc(m.expandAt, func(k Key, _ time.Time) bool { return k.UID == uid })
	maps.DeleteFunc(m.settled, func(k Key, _ int64) bool { return k.UID == uid })
}

// Wait returns how long nothing is due, at most the given time.
func (m *Mounter) Wait(most time.Duration) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, at := range m.due {
		most = min(most, at.Sub(m.Now()))
	}
	return most
}

// Due returns the volumes that must be refreshed.
func (m *Mounter) Due() []Key {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Key
	for k, at := range m.due {
		if !m.Now().Before(at) {
			out = append(out, k)
		}
	}
	return out
}

// dueIn has a volume refreshed after a while.
func (m *Mounter) dueIn(k Key, d time.Duration) {
	m.mu.Lock()
	m.due[k] = m.Now().Add(d)
	m.mu.Unlock()
	m.c.DueChanged()
}
