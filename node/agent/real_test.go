package agent

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/containerd"
	"github.com/kontiki/kontiki/node/runtime/containerd/logger"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "container-logger" {
		os.Exit(logger.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// fakeNetwork gives addresses and connects nothing: a pod has its loopback.
type fakeNetwork struct {
	mu     sync.Mutex
	pods   map[string]netip.Addr
	next   byte
	config netapi.NetworkConfig
	fail   error
	told   chan struct{} // signalled by Configure, if not nil
	former []string      // pods of former lives
	swept  chan struct{} // closed by Sweep
}

func (f *fakeNetwork) AddPod(_ context.Context, p netapi.PodNetwork) (netip.Addr, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return netip.Addr{}, f.fail
	}
	if f.pods == nil {
		f.pods = map[string]netip.Addr{}
	}
	if a, ok := f.pods[p.UID]; ok {
		return a, nil
	}
	f.next++
	f.pods[p.UID] = netip.AddrFrom4([4]byte{10, 244, 0, f.next})
	return f.pods[p.UID], nil
}

func (f *fakeNetwork) DelPod(_ context.Context, uid string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pods, uid)
	return nil
}

func (f *fakeNetwork) Sweep(_ context.Context, keep []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.former = slices.DeleteFunc(f.former, func(uid string) bool { return !slices.Contains(keep, uid) })
	if f.swept != nil {
		close(f.swept)
		f.swept = nil
	}
	return nil
}

func (f *fakeNetwork) Configure(_ context.Context, c netapi.NetworkConfig) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.config = c
	if f.told != nil {
		select {
		case f.told <- struct{}{}:
		default:
		}
	}
	return nil
}

// world is a node with a real containerd.
type world struct {
	t         *testing.T
	dir       string
	runtime   *containerd.Runtime
	daemon    *runtimetest.Daemon
	master    *master
	network   *fakeNetwork
	agent     *Agent
	stop      func()
	config    containerd.Config
	consumers []ServiceConsumer
	static    string // the folder of static pods
}

func newWorld(t *testing.T) *world {
	d := runtimetest.StartDaemon(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, daemon: d, dir: d.Dir, network: &fakeNetwork{}}
	w.config = containerd.Config{Address: d.Address, Namespace: "n1", StateDir: filepath.Join(d.Dir, "rt"),
		CgroupParent: fmt.Sprintf("kontiki-agent-test-%d", os.Getpid()), Logger: [2]string{self, "container-logger"}}
	w.master = newMaster(t)
	w.start()
	t.Cleanup(w.cleanup)
	if _, err := w.runtime.ImportImage(context.Background(), bytes.NewReader(runtimetest.BusyboxArchive(t))); err != nil {
		t.Fatal(err)
	}
	return w
}

// start begins a life of the agent, with a runtime client of its own.
func (w *world) start() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	rt, err := containerd.New(ctx, w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.runtime = rt
	a, err := New(Config{NodeName: "node-1", NodeIP: netip.MustParseAddr("192.0.2.1"), StateDir: filepath.Join(w.dir, "agent"), LogDir: filepath.Join(w.dir, "logs"),
		Runtime: rt, Network: w.network, Masters: []string{w.master.addr}, Dial: dialPlain, ServiceConsumers: w.consumers, StaticPods: w.static})
	if err != nil {
		w.t.Fatal(err)
	}
	w.agent = a
	actx, acancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(actx) }()
	w.stop = sync.OnceFunc(func() {
		acancel()
		if err := <-done; err != nil {
			w.t.Errorf("agent: %v", err)
		}
		rt.Close()
	})
}

func (w *world) cleanup() {
	w.stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	rt, err := containerd.New(ctx, w.config)
	if err != nil {
		w.t.Errorf("cleanup: %v", err)
		return
	}
	defer rt.Close()
	list, _ := rt.ListContainers(ctx, "")
	for _, c := range list {
		_ = rt.KillContainer(ctx, c.ID)
		if err := rt.RemoveContainer(ctx, c.ID); err != nil {
			w.t.Errorf("cleanup: %v", err)
		}
	}
	boxes, _ := rt.ListSandboxes(ctx)
	for _, b := range boxes {
		if err := rt.RemoveSandbox(ctx, b.UID); err != nil {
			w.t.Errorf("cleanup: %v", err)
		}
	}
	for _, c := range []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd", "unified", ""} {
		_ = os.Remove(filepath.Join("/sys/fs/cgroup", c, w.config.CgroupParent))
	}
}

func testPod(name string, containers ...corev1.Container) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Generation: 1}}
	p.Spec.NodeName = "node-1"
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	p.Spec.DNSPolicy = corev1.DNSClusterFirst
	for i, c := range containers {
		if c.Name == "" {
			c.Name = fmt.Sprintf("c%d", i+1)
		}
		if c.Image == "" {
			c.Image = runtimetest.BusyboxName
		}
		c.TerminationMessagePath = "/dev/termination-log"
		c.ImagePullPolicy = corev1.PullNever
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	return p
}

func sh(script string) corev1.Container {
	return corev1.Container{Command: []string{"sh", "-c", script}}
}

func (w *world) exec(p *corev1.Pod, container string, command ...string) string {
	w.t.Helper()
	list, err := w.runtime.ListContainers(context.Background(), string(p.UID))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, c := range list {
		if c.Name == container && c.State == runtime.StateRunning {
			var out bytes.Buffer
			code, err := w.runtime.Exec(context.Background(), c.ID, runtime.ExecOptions{Command: command, Stdout: &out, Stderr: &out})
			if err != nil || code != 0 {
				w.t.Fatalf("exec %q: %d, %v, %s", command, code, err, out.String())
			}
			return out.String()
		}
	}
	w.t.Fatalf("container %s does not run", container)
	return ""
}

func running(s corev1.PodStatus) bool {
	for _, c := range s.ContainerStatuses {
		if c.State.Running == nil {
			return false
		}
	}
	return s.Phase == corev1.PodRunning && len(s.ContainerStatuses) > 0
}

func TestRealPodRunsAndEnds(t *testing.T) {
	w := newWorld(t)
	p := testPod("one", sh(`trap "exit 0" TERM; echo hello; while :; do sleep 0.1; done`))
	w.master.pod(p)
	s := w.master.awaitPod(p.UID, "running and ready", func(s corev1.PodStatus) bool {
		return running(s) && s.ContainerStatuses[0].Ready
	})
	if s.PodIP != "10.244.0.1" || s.HostIP != "192.0.2.1" || s.StartTime == nil || s.QOSClass != corev1.PodQOSBestEffort {
		t.Errorf("status %+v", s)
	}
	if id := s.ContainerStatuses[0].ContainerID; !strings.HasPrefix(id, "containerd://") {
		t.Errorf("container id %q", id)
	}
	if got := w.exec(p, "c1", "hostname"); got != "one\n" {
		t.Errorf("hostname = %q", got)
	}
	if got := w.exec(p, "c1", "cat", "/etc/resolv.conf"); !strings.Contains(got, "nameserver 10.96.0.10") || !strings.Contains(got, "default.svc.cluster.local") {
		t.Errorf("resolv.conf = %q", got)
	}
	w.master.delete(p, 10)
	w.master.awaitEnd(p.UID)
	w.master.remove("pods", "default", "one")
	w.master.awaitEvent("Killing", "Stopping container c1")
	w.awaitGone(p)
}

// awaitGone waits until nothing of a pod is left on the node.
func (w *world) awaitGone(p *corev1.Pod) {
	w.t.Helper()
	deadline := time.Now().Add(15 * time.Second)
	for {
		list, _ := w.runtime.ListContainers(context.Background(), string(p.UID))
		_, err := os.Stat(filepath.Join(w.dir, "agent", "pods", string(p.UID)))
		_, err2 := os.Stat(filepath.Join(w.dir, "rt", "sandboxes", string(p.UID)))
		if len(list) == 0 && os.IsNotExist(err) && os.IsNotExist(err2) {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("left of pod: containers %v, folder %v, sandbox %v", list, err, err2)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
