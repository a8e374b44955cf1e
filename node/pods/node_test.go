package pods

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/pods/eviction"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/fake"
)

// node is a manager over a fake runtime, in a synctest bubble.
type node struct {
	t  *testing.T
	rt *fake.Runtime
	m  *Manager

	mu        sync.Mutex
	statuses  map[types.UID]corev1.PodStatus
	ended     map[types.UID]bool
	events    []Event
	configs   map[string]*corev1.ConfigMap
	secrets   map[string]*corev1.Secret
	paths     map[string]string // of volumes
	images    eviction.ImageGC  // the zero value for the default
	classes   map[string]*nodev1.RuntimeClass
	node      *corev1.Node
	volErr    error
	setups    int
	refreshed []string // pods and their volumes
	volPanic  map[types.UID]bool
	torn      []string
	tornErr   error
	netErr    error
	deleted   []string
	dir       string
	stop      func()
	change    func(*Config) // of the next manager
}

func (n *node) PodStatus(pod *corev1.Pod, s corev1.PodStatus, terminated bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.statuses[pod.UID] = s
	if terminated {
		n.ended[pod.UID] = true
	}
}

func (n *node) Event(e Event) { n.mu.Lock(); n.events = append(n.events, e); n.mu.Unlock() }

func (n *node) ConfigMap(ns, name string) (*corev1.ConfigMap, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, ok := n.configs[name]
	return c, ok
}
func (n *node) RuntimeClass(name string) (*nodev1.RuntimeClass, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	c, ok := n.classes[name]
	return c, ok
}
func (n *node) Secret(ns, name string) (*corev1.Secret, bool) { s, ok := n.secrets[name]; return s, ok }
func (n *node) Services() ([]*corev1.Service, bool)           { return nil, true }
func (n *node) PersistentVolumeClaim(string, string) (*corev1.PersistentVolumeClaim, bool) {
	return nil, false
}
func (n *node) PersistentVolume(string) (*corev1.PersistentVolume, bool)    { return nil, false }
func (n *node) CSIDriver(string) (*storagev1.CSIDriver, bool)               { return nil, false }
func (n *node) VolumeAttachment(string) (*storagev1.VolumeAttachment, bool) { return nil, false }
func (n *node) PersistentVolumes() []*corev1.PersistentVolume               { return nil }
func (n *node) TrustBundles() []*certificatesv1.ClusterTrustBundle {
	return []*certificatesv1.ClusterTrustBundle{{Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: "a"}}}
}

func (n *node) AddPod(context.Context, netapi.PodNetwork) (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return netip.MustParseAddr("10.244.0.5"), n.netErr
}
func (n *node) DelPod(_ context.Context, uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deleted = append(n.deleted, uid)
	return nil
}
func (n *node) Sweep(context.Context, []string) error                 { return nil }
func (n *node) Configure(context.Context, netapi.NetworkConfig) error { return nil }

func (n *node) Setup(_ context.Context, pod *corev1.Pod, _ string, _ []string) (map[string]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.volPanic[pod.UID] {
		panic("a volume that nobody thought of")
	}
	n.setups++
	return n.paths, n.volErr
}
func (n *node) Refresh(_ context.Context, pod *corev1.Pod, volumes []string, _ string, _ []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refreshed = append(n.refreshed, pod.Name+" "+strings.Join(volumes, " "))
	return n.volErr
}
func (n *node) SubPath(_ *corev1.Pod, _ string, _ int, volume, sub string) (string, error) {
	return filepath.Join(volume, sub), nil
}
func (n *node) Labelled(_ *corev1.Pod, v *corev1.Volume) bool { return v.HostPath == nil }
func (n *node) TearDown(_ context.Context, uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.torn = append(n.torn, uid)
	return n.tornErr
}

// bubble runs a test with a node.
func bubble(t *testing.T, test func(t *testing.T, n *node)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := &node{t: t, rt: fake.New(image), statuses: map[types.UID]corev1.PodStatus{}, ended: map[types.UID]bool{}, configs: map[string]*corev1.ConfigMap{}, dir: dir}
		n.start()
		test(t, n)
		n.stop()
		list, _ := n.rt.ListContainers(context.Background(), "")
		for _, c := range list {
			_ = n.rt.KillContainer(context.Background(), c.ID)
		}
	})
}

// pass lets time pass, then waits until every worker has done what was due. Tests call it in a bubble (testing/synctest), where time is
// virtual: the clock jumps as soon as all goroutines are idle, so nothing really waits, and the result does not depend on how fast the
// machine is. Outside a bubble it panics.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// start starts another manager over the same runtime.
func (n *node) start() {
	c := Config{NodeName: "n1", NodeIP: netip.MustParseAddr("192.0.2.1"), Runtime: n.rt, Network: n, Volumes: n, Objects: n, Sink: n,
		DNS: func() DNS { return DNS{Domain: "cluster.local"} }, Node: func() *corev1.Node { return n.node }, RootDir: filepath.Join(n.dir, "pods"), LogDir: filepath.Join(n.dir, "logs"), LogLinkDir: filepath.Join(n.dir, "links"), PullDir: filepath.Join(n.dir, "images")}
	if n.change != nil {
		n.change(&c)
	}
	n.m = New(c)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	m := n.m
	go func() { _ = m.Run(ctx); close(done) }()
	n.stop = sync.OnceFunc(func() { cancel(); <-done })
}

func (n *node) status(p *corev1.Pod) corev1.PodStatus {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.statuses[p.UID]
}

func (n *node) said(reason string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []string
	for _, e := range n.events {
		if e.Reason == reason {
			out = append(out, e.Message)
		}
	}
	return out
}

func (n *node) hasEnded(p *corev1.Pod) bool {
	synctest.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ended[p.UID]
}

func (n *node) running(p *corev1.Pod, name string) runtime.Container {
	n.t.Helper()
	synctest.Wait()
	list, _ := n.rt.ListContainers(context.Background(), string(p.UID))
	for _, c := range list {
		if c.Name == name && c.State == runtime.StateRunning {
			return c
		}
	}
	n.t.Fatalf("container %s does not run; status %+v", name, n.status(p))
	return runtime.Container{}
}

func pod(name string, policy corev1.RestartPolicy, commands ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name), Generation: 1}}
	p.Spec.RestartPolicy = policy
	for i, c := range commands {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprintf("c%d", i+1), Image: image, Command: strings.Split(c, "|")})
	}
	return p
}

const trap = `sh|-c|trap "exit 0" TERM; while :; do :; done`

func deleting(p *corev1.Pod, grace int64) *corev1.Pod {
	p = p.DeepCopy()
	now := metav1.Now()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds, p.Generation = &now, &grace, p.Generation+1
	return p
}
