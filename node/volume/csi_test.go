package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/internal/volumes"
	nodecsi "github.com/kontiki/kontiki/node/csi"
	"github.com/kontiki/kontiki/node/kubeletroot"
	"github.com/kontiki/kontiki/node/plugins"
	"github.com/kontiki/kontiki/node/volume/mounts"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/csidriver"
)

const gib = 1 << 30

// csiNode is a node with a CSI driver.
type csiNode struct {
	*shelf
	t       *testing.T
	root    *kubeletroot.Root
	drivers *nodecsi.Drivers
	driver  *csidriver.Node
	m       *Manager
	options csidriver.Options

	mu         sync.Mutex
	node       *corev1.Node
	expansions []string
	refuse     error
	events     []string
	seen       int // of the driver's calls
}

// newCSINode starts a driver and returns a node on which it is registered, whose pod "uid" uses the claim "data" of its volume.
func newCSINode(t *testing.T, o csidriver.Options, object *storagev1.CSIDriverSpec) (*csiNode, *corev1.Pod) {
	t.Helper()
	dir, err := os.MkdirTemp("", "csi") // the address of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &csiNode{t: t}
	if n.root, err = kubeletroot.New(filepath.Join(dir, "kubelet")); err != nil {
		t.Fatal(err)
	}
	o.Dir, o.NodeID, o.Real = filepath.Join(dir, "store"), "id-of-n1", n.root.Real
	n.options = o
	if n.driver, err = csidriver.New(o); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	socket := filepath.Join(n.root.Plugins(), csidriver.Name, "csi.sock")
	served := make(chan error, 1)
	go func() { served <- n.driver.Serve(ctx, socket) }()
	t.Cleanup(func() {
		cancel()
		<-served
		for _, m := range mounts.Below(dir) { // of a test that failed
			_ = unix.Unmount(m, unix.MNT_DETACH)
		}
	})
	await.That(t, "the driver serves", func() error { _, err := os.Lstat(socket); return err })
	var pod *corev1.Pod
	n.shelf, pod = claimed(corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: csidriver.Name, VolumeHandle: n.create("pv")}})
	pv := n.shelf.volumes["pv"]
	pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	pv.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(gib, resource.BinarySI)}
	n.claims["data"].Spec.AccessModes = pv.Spec.AccessModes
	n.shelf.drivers = map[string]*storagev1.CSIDriver{}
	if object != nil {
		n.shelf.drivers[csidriver.Name] = &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: csidriver.Name}, Spec: *object}
	}
	n.node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	n.drivers = nodecsi.New(nodecsi.Config{Root: n.root, Changed: func() {}, Report: func(context.Context, *nodev1.ReportDriverRequest) (*nodev1.ReportDriverResponse, error) {
		return &nodev1.ReportDriverResponse{}, nil
	}})
	if err := n.drivers.Register(ctx, itsPlugin()); err != nil {
		t.Fatal(err)
	}
	n.restart()
	return n, pod
}

func itsPlugin() plugins.Plugin {
	return plugins.Plugin{Name: csidriver.Name, Endpoint: "/var/lib/kubelet/plugins/" + csidriver.Name + "/csi.sock", Socket: "reg.sock", Versions: []string{"1.0.0"}}
}

// create makes a volume in the driver's store and returns its handle.
func (n *csiNode) create(name string) string {
	n.t.Helper()
	handle, err := csidriver.Create(n.options.Dir, name, gib, n.t.Name() == "TestADeviceOfADriver")
	if err != nil {
		n.t.Fatal(err)
	}
	return handle
}

// restart is a new process of the agent.
func (n *csiNode) restart() {
	n.m = New(Config{RootDir: n.root.Pods(), Kubelet: n.root, Objects: n, Token: n.token, NodeName: "n1", CSI: n.drivers,
		ClusterNode: func() *corev1.Node { n.mu.Lock(); defer n.mu.Unlock(); return n.node },
		ReportExpansion: func(_ context.Context, r *nodev1.ReportExpansionRequest) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.expansions = append(n.expansions, fmt.Sprint(strings.TrimPrefix(r.Phase.String(), "PHASE_"), " ", r.Size))
			return n.refuse
		},
		Event: func(pod *corev1.Pod, kind, reason, message string) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.events = append(n.events, fmt.Sprint(pod.Name, " ", kind, " ", reason))
		}})
}

// steps are the names of the driver's operations since the last call.
func (n *csiNode) steps() string {
	var out []string
	for _, c := range n.driver.Calls()[n.seen:] {
		out = append(out, strings.TrimSuffix(strings.TrimPrefix(string(c.ProtoReflect().Descriptor().Name()), "Node"), "VolumeRequest"))
	}
	n.seen += len(out)
	return strings.Join(out, " ")
}

func published(t *testing.T, n *csiNode) *csi.NodePublishVolumeRequest {
	t.Helper()
	var last *csi.NodePublishVolumeRequest
	for _, c := range n.driver.Calls() {
		if r, ok := c.(*csi.NodePublishVolumeRequest); ok {
			last = r
		}
	}
	if last == nil {
		t.Fatal("nothing was published")
	}
	return last
}

func (n *csiNode) clean() {
	n.t.Helper()
	if left := mounts.Below(n.root.Dir()); len(left) > 0 {
		n.t.Errorf("%v are still mounted", left)
	}
	err := filepath.WalkDir(filepath.Join(n.root.Plugins(), "kubernetes.io"), func(path string, d os.DirEntry, err error) error {
		if err == nil && (strings.Contains(path, "globalmount") || strings.Contains(path, "publish/") || !d.IsDir()) {
			n.t.Errorf("%s is left", path)
		}
		return nil
	})
	if err != nil {
		n.t.Error(err)
	}
}

var unattached = csidriver.Options{Unattached: true}

func notAttached() *storagev1.CSIDriverSpec {
	return &storagev1.CSIDriverSpec{AttachRequired: new(false)}
}

// TestAVolumeOfADriver: it is staged once for all pods of the node, published for each, at the kubelet's paths; data outlives pods and agents.
func TestAVolumeOfADriver(t *testing.T) {
	n, pod := newCSINode(t, unattached, notAttached())
	dir := setup(t, n.m, pod)
	if want := filepath.Join(n.root.Pods(), "uid/volumes/kubernetes.io~csi/pv/mount"); dir != want {
		t.Errorf("it is at %s, want %s", dir, want)
	}
	if got := n.steps(); got != "Stage Publish" {
		t.Errorf("the driver was told %s", got)
	}
	r := published(t, n)
	if !strings.HasPrefix(r.StagingTargetPath, "/var/lib/kubelet/plugins/kubernetes.io/csi/"+csidriver.Name+"/") || !strings.HasSuffix(r.StagingTargetPath, "/globalmount") ||
		r.TargetPath != "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/pv/mount" || r.VolumeCapability.AccessMode.Mode != csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER {
		t.Errorf("the request was %v", r)
	}
	var data map[string]string
	if text, err := os.ReadFile(filepath.Join(filepath.Dir(dir), "vol_data.json")); err != nil || json.Unmarshal(text, &data) != nil || data["driverName"] != csidriver.Name || data["specVolID"] != "pv" {
		t.Errorf("vol_data.json: %v, %v", data, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.restart() // the next process knows what is mounted
	if again := setup(t, n.m, pod); again != dir || n.steps() != "" {
		t.Errorf("after a restart it is at %s", again)
	}
	second := pod.DeepCopy()
	second.UID, second.Name = "uid-2", "q"
	if other := setup(t, n.m, second); read(t, filepath.Join(other, "f")) != "kept" {
		t.Error("the second pod does not see the data")
	}
	if got := n.steps(); got != "Stage Publish" { // the new process does not know that it is staged, which is idempotent
		t.Errorf("for the second pod the driver was told %s", got)
	}
	tearDown(t, n.m, "uid")
	if got := n.steps(); got != "Unpublish" {
		t.Errorf("at the end of the first pod the driver was told %s", got)
	}
	n.restart()
	tearDown(t, n.m, "uid-2")
	if got := n.steps(); got != "Unpublish Unstage" {
		t.Errorf("at the end of the last pod the driver was told %s", got)
	}
	n.clean()
	if dir = setup(t, n.m, pod); read(t, filepath.Join(dir, "f")) != "kept" {
		t.Error("the data has gone")
	}
	tearDown(t, n.m, "uid")
	n.clean()
}

// TestAVolumeIsMountedOnceItIsAttached: one version of the Node must say that it is in use and attached, and an old one does not count.
func TestAVolumeIsMountedOnceItIsAttached(t *testing.T) {
	n, pod := newCSINode(t, csidriver.Options{}, nil)
	name := volumes.UniqueName(csidriver.Name, n.shelf.volumes["pv"].Spec.CSI.VolumeHandle)
	change := func(inUse, attached bool) {
		next := n.node.DeepCopy()
		next.Status = corev1.NodeStatus{}
		if inUse {
			next.Status.VolumesInUse = []corev1.UniqueVolumeName{name}
		}
		if attached {
			next.Status.VolumesAttached = []corev1.AttachedVolume{{Name: name}}
		}
		n.mu.Lock()
		n.node = next
		n.mu.Unlock()
		n.m.NodeChanged()
	}
	type result struct {
		path string
		err  error
	}
	begin := func() chan result {
		out := make(chan result, 1)
		go func() {
			paths, err := n.m.Setup(context.Background(), pod, "", nil)
			out <- result{paths["v"], err}
		}()
		return out
	}
	inUse := func(want bool) {
		t.Helper()
		await.That(t, fmt.Sprintf("in use: %t", want), func() error {
			if got := n.m.InUse(); slices.Contains(got, name) != want {
				return fmt.Errorf("in use: %v", got)
			}
			return nil
		})
	}
	waiting := func(done chan result, when string) {
		t.Helper()
		select {
		case r := <-done:
			t.Fatalf("%s: %v", when, r)
		default:
		}
		if got := n.steps(); got != "" {
			t.Fatalf("%s: the driver was told %s", when, got)
		}
	}
	attach := func() {
		t.Helper()
		published, err := csidriver.Attach(n.options.Dir, n.shelf.volumes["pv"].Spec.CSI.VolumeHandle, n.options.NodeID)
		if err != nil {
			t.Fatal(err)
		}
		a := &storagev1.VolumeAttachment{Status: storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: published}}
		n.shelf.mu.Lock()
		n.shelf.attachments = map[string]*storagev1.VolumeAttachment{volumes.AttachmentName(csidriver.Name, n.shelf.volumes["pv"].Spec.CSI.VolumeHandle, "n1"): a}
		n.shelf.mu.Unlock()
	}
	done := begin()
	inUse(true)
	waiting(done, "before the Node says anything")
	change(false, true)
	waiting(done, "attached, but the masters do not know that it is in use")
	change(true, true)
	waiting(done, "without the attachment")
	attach()
	n.m.NodeChanged()
	if r := <-done; r.err != nil {
		t.Fatal(r.err)
	}
	if got := n.steps(); got != "Stage Publish" { // the driver has looked at publish_context
		t.Errorf("the driver was told %s", got)
	}
	tearDown(t, n.m, "uid")
	inUse(false)
	n.steps()
	// The next pod comes before the masters know that the volume was not in use: they may be detaching it.
	done = begin()
	inUse(false)
	waiting(done, "with a version of the Node from before")
	change(false, true)
	inUse(true)
	waiting(done, "in a version without it")
	change(true, true)
	if r := <-done; r.err != nil {
		t.Fatal(r.err)
	}
	tearDown(t, n.m, "uid")

	// The same after a restart of the agent, which remembers the old version.
	n.steps()
	n.restart()
	done = begin()
	inUse(false)
	waiting(done, "with a version of the Node from before the restart")
	tearDown(t, n.m, "uid") // while it waits
	if r := <-done; r.err == nil {
		t.Error("it was mounted")
	}
	if got := n.steps(); got != "" {
		t.Errorf("the driver was told %s", got)
	}
	n.clean()
}

// TestAPodIsRefusedIfTheNodeHasTooManyVolumes, if its driver says that this changes; otherwise it waits.
func TestAPodIsRefusedIfTheNodeHasTooManyVolumes(t *testing.T) {
	n, pod := newCSINode(t, csidriver.Options{}, nil)
	n.m.mountWait = time.Millisecond
	n.shelf.attachments = map[string]*storagev1.VolumeAttachment{volumes.AttachmentName(csidriver.Name, n.shelf.volumes["pv"].Spec.CSI.VolumeHandle, "n1"): {
		Status: storagev1.VolumeAttachmentStatus{AttachError: &storagev1.VolumeError{Message: "full", ErrorCode: new(int32(codes.ResourceExhausted))}}}}
	var waiting *NotReadyError
	if _, err := n.m.Setup(context.Background(), pod, "", nil); !errors.As(err, &waiting) {
		t.Errorf("the error is %v", err)
	}
	await.That(t, "the state", func() error {
		if len(n.m.InUse()) == 0 {
			return errors.New("it is not in use")
		}
		return nil
	})
	n.shelf.mu.Lock()
	n.shelf.drivers[csidriver.Name] = &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{NodeAllocatableUpdatePeriodSeconds: new(int64(60))}}
	n.shelf.mu.Unlock()
	var limit *AttachLimitError
	if _, err := n.m.Setup(context.Background(), pod, "", nil); !errors.As(err, &limit) || limit.Rejects() != "VolumeAttachmentLimitExceeded" {
		t.Errorf("the error is %v", err)
	}
	tearDown(t, n.m, "uid")
	n.clean()
}

// TestAVolumeWhoseDriverIsMissing: the pod waits and says why, and can be removed; what was mounted is unmounted when the driver is back.
func TestAVolumeWhoseDriverIsMissing(t *testing.T) {
	n, pod := newCSINode(t, unattached, notAttached())
	n.drivers.Deregister(itsPlugin())
	_, err := n.m.Setup(context.Background(), pod, "", nil)
	if err == nil || !strings.Contains(err.Error(), "driver name "+csidriver.Name+" not found in the list of registered CSI drivers") {
		t.Errorf("the error is %v", err)
	}
	tearDown(t, n.m, "uid")
	if err := n.drivers.Register(context.Background(), itsPlugin()); err != nil {
		t.Fatal(err)
	}
	setup(t, n.m, pod)
	n.drivers.Deregister(itsPlugin())
	if err := n.m.TearDown(context.Background(), "uid"); err == nil || !strings.Contains(err.Error(), "not found in the list") {
		t.Errorf("the error is %v", err)
	}
	if err := n.drivers.Register(context.Background(), itsPlugin()); err != nil {
		t.Fatal(err)
	}
	tearDown(t, n.m, "uid")
	n.clean()
}

// TestADriverThatFails: nothing is left of an attempt that failed at any step, also if the agent is killed meanwhile.
func TestADriverThatFails(t *testing.T) {
	n, pod := newCSINode(t, unattached, notAttached())
	failed := status.Error(codes.Internal, "no luck")
	n.driver.Fail(&csi.NodeStageVolumeRequest{}, failed)
	if _, err := n.m.Setup(context.Background(), pod, "", nil); err == nil || !strings.Contains(err.Error(), `MountVolume.SetUp failed for volume "pv"`) || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("the error is %v", err)
	}
	n.driver.Fail(&csi.NodeStageVolumeRequest{}, nil)
	n.driver.Fail(&csi.NodePublishVolumeRequest{}, failed)
	if _, err := n.m.Setup(context.Background(), pod, "", nil); err == nil {
		t.Error("it was published")
	}
	n.restart()
	n.driver.Fail(&csi.NodeUnstageVolumeRequest{}, failed)
	if err := n.m.TearDown(context.Background(), "uid"); err == nil {
		t.Error("it was unstaged")
	}
	n.driver.Fail(&csi.NodeUnstageVolumeRequest{}, nil)
	tearDown(t, n.m, "uid")
	n.clean()
}

// TestWhatADriverIsTold: Secrets, the pod, tokens, mount options, access modes, read-only, as the CSIDriver and the volume say.
func TestWhatADriverIsTold(t *testing.T) {
	n, pod := newCSINode(t, unattached, &storagev1.CSIDriverSpec{AttachRequired: new(false), PodInfoOnMount: new(true),
		TokenRequests: []storagev1.TokenRequest{{Audience: "vault", ExpirationSeconds: new(int64(3600))}, {}}})
	pv := n.shelf.volumes["pv"]
	pv.Spec.MountOptions = []string{"noatime"}
	pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
	pv.Spec.CSI.FSType = "ext4"
	pv.Spec.CSI.VolumeAttributes = map[string]string{"a": "b"}
	pv.Spec.CSI.NodeStageSecretRef = &corev1.SecretReference{Namespace: "kube-system", Name: "stage"}
	pv.Spec.CSI.NodePublishSecretRef = &corev1.SecretReference{Namespace: "kube-system", Name: "publish"}
	pod.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
	pod.Spec.ServiceAccountName = "sa"
	if _, err := n.m.Setup(context.Background(), pod, "", nil); err == nil || !strings.Contains(err.Error(), `fetching NodeStageSecretRef kube-system/stage failed: secrets "stage" not found`) {
		t.Errorf("without the Secret: %v", err)
	}
	n.secrets = map[string]*corev1.Secret{"stage": {Data: map[string][]byte{"key": []byte("s")}}, "publish": {Data: map[string][]byte{"key": []byte("p")}}}
	dir := setup(t, n.m, pod)
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("a write to a volume that is read-only: %v", err)
	}
	r := published(t, n)
	var tokens map[string]struct{ Token, ExpirationTimestamp string }
	if err := json.Unmarshal([]byte(r.VolumeContext["csi.storage.k8s.io/serviceAccount.tokens"]), &tokens); err != nil || len(tokens) != 2 || tokens["vault"].Token == "" || tokens["vault"].ExpirationTimestamp == "" {
		t.Errorf("the tokens are %v, %v", r.VolumeContext["csi.storage.k8s.io/serviceAccount.tokens"], err)
	}
	for k, v := range map[string]string{"a": "b", "csi.storage.k8s.io/pod.name": pod.Name, "csi.storage.k8s.io/pod.namespace": pod.Namespace, "csi.storage.k8s.io/pod.uid": "uid",
		"csi.storage.k8s.io/serviceAccount.name": "sa", "csi.storage.k8s.io/ephemeral": "false"} {
		if r.VolumeContext[k] != v {
			t.Errorf("%s is %q, want %q", k, r.VolumeContext[k], v)
		}
	}
	mount := r.VolumeCapability.GetMount()
	if !r.Readonly || r.Secrets["key"] != "p" || mount.GetFsType() != "ext4" || !slices.Equal(mount.GetMountFlags(), []string{"noatime"}) ||
		r.VolumeCapability.AccessMode.Mode != csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER {
		t.Errorf("the request was %v", r)
	}
	for _, c := range n.driver.Calls() {
		if s, ok := c.(*csi.NodeStageVolumeRequest); ok && (s.Secrets["key"] != "s" || s.VolumeContext["a"] != "b" || len(s.VolumeContext) != 1) {
			t.Errorf("it was staged with %v", s)
		}
	}
	if len(pv.Spec.CSI.VolumeAttributes) != 1 {
		t.Errorf("the object was changed: %v", pv.Spec.CSI.VolumeAttributes)
	}
	tearDown(t, n.m, "uid")
	n.clean()
}

// TestGroupsOfADriversVolumes: who gives a volume to the fsGroup (CSIDriver.spec.fsGroupPolicy, VOLUME_MOUNT_GROUP).
func TestGroupsOfADriversVolumes(t *testing.T) {
	for name, c := range map[string]struct {
		policy  *storagev1.FSGroupPolicy
		fsType  string
		mode    corev1.PersistentVolumeAccessMode
		driver  bool
		changed bool
	}{
		"by default":                {fsType: "ext4", mode: corev1.ReadWriteOnce, changed: true},
		"by default without a type": {mode: corev1.ReadWriteOnce},
		"by default of many nodes":  {fsType: "ext4", mode: corev1.ReadWriteMany},
		"always":                    {policy: new(storagev1.FileFSGroupPolicy), mode: corev1.ReadWriteMany, changed: true},
		"never":                     {policy: new(storagev1.NoneFSGroupPolicy), fsType: "ext4", mode: corev1.ReadWriteOnce},
		"by the driver":             {policy: new(storagev1.FileFSGroupPolicy), fsType: "ext4", mode: corev1.ReadWriteOnce, driver: true},
	} {
		t.Run(name, func(t *testing.T) {
			n, pod := newCSINode(t, csidriver.Options{Unattached: true, MountGroup: c.driver}, &storagev1.CSIDriverSpec{AttachRequired: new(false), FSGroupPolicy: c.policy})
			n.shelf.volumes["pv"].Spec.CSI.FSType = c.fsType
			n.shelf.volumes["pv"].Spec.AccessModes = []corev1.PersistentVolumeAccessMode{c.mode}
			pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(4321))}
			dir := setup(t, n.m, pod)
			var st unix.Stat_t
			if err := unix.Stat(dir, &st); err != nil || (st.Gid == 4321) != c.changed {
				t.Errorf("the group is %d, %v", st.Gid, err)
			}
			if group := published(t, n).VolumeCapability.GetMount().GetVolumeMountGroup(); (group == "4321") != c.driver {
				t.Errorf("the driver was told the group %q", group)
			}
			tearDown(t, n.m, "uid")
			n.clean()
		})
	}
}

// TestVolumesThatPodsDefineForADriver are made only if the CSIDriver says so.
func TestVolumesThatPodsDefineForADriver(t *testing.T) {
	n, _ := newCSINode(t, unattached, nil)
	pod := podWith(vol("v", corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: csidriver.Name, VolumeAttributes: map[string]string{"a": "b"}}}))
	refused := func(want string) {
		t.Helper()
		if _, err := n.m.Setup(context.Background(), pod, "", nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error is %v, want %s", err, want)
		}
	}
	refused(`volume mode "Ephemeral" not supported by driver ` + csidriver.Name + ` (no CSIDriver object)`)
	n.shelf.drivers[csidriver.Name] = &storagev1.CSIDriver{Spec: storagev1.CSIDriverSpec{VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}}}
	refused(`(only supports ["Persistent"])`)
	n.shelf.drivers[csidriver.Name].Spec = storagev1.CSIDriverSpec{PodInfoOnMount: new(true), VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}}
	dir := setup(t, n.m, pod)
	if read(t, filepath.Join(dir, "a")) != "b" || read(t, filepath.Join(dir, "pod.uid")) != "uid" {
		t.Error("the volume has not what the pod says")
	}
	if got := n.steps(); got != "Publish" {
		t.Errorf("the driver was told %s", got)
	}
	n.restart()
	tearDown(t, n.m, "uid")
	n.clean()
}

// TestADeviceOfADriver is published as a device, at the kubelet's path.
func TestADeviceOfADriver(t *testing.T) {
	n, pod := newCSINode(t, unattached, notAttached())
	n.shelf.volumes["pv"].Spec.VolumeMode = new(corev1.PersistentVolumeBlock)
	pod.Spec.Containers[0].VolumeMounts = nil
	pod.Spec.Containers[0].VolumeDevices = []corev1.VolumeDevice{{Name: "v", DevicePath: "/dev/x"}}
	path := setup(t, n.m, pod)
	if err := blockDevice(path); err != nil {
		t.Error(err)
	}
	if r := published(t, n); r.TargetPath != "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/publish/pv/uid" || r.StagingTargetPath != "/var/lib/kubelet/plugins/kubernetes.io/csi/volumeDevices/staging/pv" || r.VolumeCapability.GetBlock() == nil {
		t.Errorf("the request was %v", r)
	}
	n.restart()
	if again := setup(t, n.m, pod); again != path {
		t.Errorf("after a restart it is at %s", again)
	}
	tearDown(t, n.m, "uid")
	n.clean()
}
