package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/node/volume/mounts"
)

// claimed returns a shelf with a claim "data" that is bound to a volume "pv", and a pod that uses it.
func claimed(source corev1.PersistentVolumeSource) (*shelf, *corev1.Pod) {
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", UID: "claim"},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound}}
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: source,
		ClaimRef: &corev1.ObjectReference{Namespace: "ns", Name: "data", UID: "claim"}}}
	s := &shelf{claims: map[string]*corev1.PersistentVolumeClaim{"data": claim}, volumes: map[string]*corev1.PersistentVolume{"pv": pv}}
	pod := podWith(vol("v", corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}))
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/data"}}
	return s, pod
}

func local(path string) corev1.PersistentVolumeSource {
	return corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}}
}

func setup(t *testing.T, m *Manager, pod *corev1.Pod) string {
	t.Helper()
	paths, err := m.Setup(context.Background(), pod, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	return paths["v"]
}

func tearDown(t *testing.T, m *Manager, uid string) {
	t.Helper()
	if err := m.TearDown(context.Background(), uid); err != nil {
		t.Fatal(err)
	}
}

// TestLocalVolumesOutliveTheirPods: what a pod writes is in the folder afterwards, and nothing is left of the mount.
func TestLocalVolumesOutliveTheirPods(t *testing.T) {
	disk := t.TempDir()
	s, pod := claimed(local(disk))
	m := manager(t, s)
	dir := setup(t, m, pod)
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := setup(t, m, pod); again != dir {
		t.Errorf("mounted at %s, then at %s", dir, again)
	}
	if n := len(mounts.Below(m.podDir("uid"))); n != 1 {
		t.Errorf("%d mounts", n)
	}
	tearDown(t, m, "uid")
	if left := mounts.Below(m.podDir("uid")); len(left) > 0 {
		t.Errorf("%v are still mounted", left)
	}
	if read(t, filepath.Join(disk, "f")) != "kept" {
		t.Error("the data has changed")
	}
	if _, err := os.Stat(filepath.Join(m.podDir("uid"), stateDir)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the state is still there: %v", err)
	}
}

// TestVolumesOfMovedPodsAreUnmounted: the folder of all pods was moved, as it is when an agent gets a kubelet's folder.
func TestVolumesOfMovedPodsAreUnmounted(t *testing.T) {
	disk, top := t.TempDir(), t.TempDir()
	s, pod := claimed(local(disk))
	dir := setup(t, New(Config{RootDir: filepath.Join(top, "old", "pods"), Objects: s}), pod)
	if err := os.Rename(filepath.Join(top, "old"), filepath.Join(top, "new")); err != nil {
		t.Fatal(err)
	}
	m := New(Config{RootDir: filepath.Join(top, "new", "pods"), Objects: s})
	if again := setup(t, m, pod); again != strings.Replace(dir, "/old/", "/new/", 1) || len(mounts.Below(top)) != 1 {
		t.Errorf("it was at %s and is at %s; mounts: %v", dir, again, mounts.Below(top))
	}
	tearDown(t, m, "uid")
	if left := mounts.Below(top); len(left) > 0 {
		t.Errorf("%v are still mounted", left)
	}
}

// TestAnotherProcessUnmounts: the state file is enough, the pod and its objects are gone.
func TestAnotherProcessUnmounts(t *testing.T) {
	disk := t.TempDir()
	if err := os.WriteFile(filepath.Join(disk, "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, pod := claimed(local(disk))
	m := manager(t, s)
	dir := setup(t, m, pod)

	after := New(Config{RootDir: m.c.RootDir, Objects: &shelf{}})
	if path := setup(t, after, pod); path != dir { // its claim is gone, and its containers run
		t.Errorf("the volume is at %s, before at %s", path, dir)
	}
	tearDown(t, New(Config{RootDir: m.c.RootDir, Objects: &shelf{}}), "uid")
	if left := mounts.Below(m.podDir("uid")); len(left) > 0 {
		t.Errorf("%v are still mounted", left)
	}
	if read(t, filepath.Join(disk, "f")) != "kept" {
		t.Error("the data has changed")
	}
}

// TestVolumesAreMountedAgainAfterTheHostWasStartedAnew: state files are still there, mounts are not.
func TestVolumesAreMountedAgainAfterTheHostWasStartedAnew(t *testing.T) {
	s, pod := claimed(local(t.TempDir()))
	m := manager(t, s)
	dir := setup(t, m, pod)
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	after := New(Config{RootDir: m.c.RootDir, Objects: s})
	if setup(t, after, pod); !mounts.At(dir) {
		t.Error("the volume is not mounted")
	}
}

func TestClaimsThatCannotBeMountedSayWhy(t *testing.T) {
	const prefix = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], failed to process volumes=[v]: "
	now := metav1.Now()
	block := corev1.PersistentVolumeBlock
	for _, c := range []struct {
		name   string
		change func(s *shelf, pod *corev1.Pod)
		want   string
	}{
		{"no claim", func(s *shelf, _ *corev1.Pod) { delete(s.claims, "data") },
			prefix + `error processing PVC ns/data: failed to fetch PVC from API server: persistentvolumeclaims "data" not found`},
		{"unbound", func(s *shelf, _ *corev1.Pod) { s.claims["data"].Status.Phase = corev1.ClaimPending }, prefix + "error processing PVC ns/data: PVC is not bound"},
		{"deleted", func(s *shelf, _ *corev1.Pod) { s.claims["data"].DeletionTimestamp = &now }, prefix + "error processing PVC ns/data: PVC is being deleted"},
		{"another's volume", func(s *shelf, _ *corev1.Pod) { s.volumes["pv"].Spec.ClaimRef.UID = "other" },
			prefix + "error processing PVC ns/data: found PV object pv but its pv.Spec.ClaimRef.UID other does not point to claim.UID claim"},
		{"a device as a folder", func(s *shelf, _ *corev1.Pod) { s.volumes["pv"].Spec.VolumeMode = &block },
			prefix + "volume v has volumeMode Block, but is specified in volumeMounts"},
		{"a folder as a device", func(_ *shelf, pod *corev1.Pod) {
			pod.Spec.Containers[0].VolumeMounts, pod.Spec.Containers[0].VolumeDevices = nil, []corev1.VolumeDevice{{Name: "v", DevicePath: "/dev/x"}}
		}, prefix + "volume v has volumeMode Filesystem, but is specified in volumeDevices"},
		{"an ephemeral volume of another pod", func(s *shelf, pod *corev1.Pod) {
			pod.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}
			s.claims["pod-v"] = s.claims["data"]
		}, prefix + "PVC ns/data was not created for pod ns/pod (pod is not owner)"},
		{"another node", func(s *shelf, _ *corev1.Pod) {
			s.volumes["pv"].Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"other"}}}}}}}
		}, prefix + `NodeAffinity check failed for volume "pv" : no matching NodeSelectorTerms`},
		{"no kind that is known", func(s *shelf, _ *corev1.Pod) {
			s.volumes["pv"].Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{ISCSI: &corev1.ISCSIPersistentVolumeSource{}}
		}, `MountVolume.SetUp failed for volume "pv" : volume kind is not supported: a persistent volume of type iscsi`},
		{"an unknown mount option", func(s *shelf, _ *corev1.Pod) { s.volumes["pv"].Spec.MountOptions = []string{"loud"} },
			`MountVolume.SetUp failed for volume "pv" : mount option "loud" is not supported for a folder of the host`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, pod := claimed(local(t.TempDir()))
			c.change(s, pod)
			m := New(Config{RootDir: t.TempDir(), Objects: s, Labels: func() map[string]string { return map[string]string{corev1.LabelHostname: "here"} }})
			t.Cleanup(func() { tearDown(t, m, "uid") })
			if _, err := m.Setup(context.Background(), pod, "", nil); err == nil || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestMountOptionsAndReadOnlyOfLocalVolumes(t *testing.T) {
	s, pod := claimed(local(t.TempDir()))
	s.volumes["pv"].Spec.MountOptions = []string{"noexec", "noatime"}
	pod.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
	m := manager(t, s)
	dir := setup(t, m, pod)
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	if want := int64(unix.ST_NOEXEC | unix.ST_NOATIME | unix.ST_RDONLY); st.Flags&want != want {
		t.Errorf("the flags are %#x, want %#x", st.Flags, want)
	}
}

// TestTheGroupOfAVolume: everything in it belongs to the group, whatever links are in it lead to is left alone.
func TestTheGroupOfAVolume(t *testing.T) {
	disk, outside := t.TempDir(), t.TempDir()
	secret := filepath.Join(outside, "secret")
	for _, err := range []error{
		os.WriteFile(secret, nil, 0o600), os.MkdirAll(filepath.Join(disk, "a", "b"), 0o700), os.WriteFile(filepath.Join(disk, "a", "b", "f"), nil, 0o600),
		os.Symlink(secret, filepath.Join(disk, "link")), os.Symlink(outside, filepath.Join(disk, "a", "folder")), unix.Mkfifo(filepath.Join(disk, "fifo"), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s, pod := claimed(local(disk))
	gid := int64(1234)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &gid}
	m := manager(t, s)
	setup(t, m, pod)
	look := func(path string) string {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%d %o", st.Gid, st.Mode&0o7777)
	}
	for name, want := range map[string]string{"": "1234 2775", "a": "1234 2770", "a/b": "1234 2770", "a/b/f": "1234 660", "fifo": "1234 660", "link": "1234 777", "a/folder": "1234 777"} {
		if got := look(filepath.Join(disk, name)); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
	if got := look(secret); got != "0 600" {
		t.Errorf("what a link leads to has become %s", got)
	}
	if got := look(outside); !strings.HasPrefix(got, "0 ") {
		t.Errorf("the folder that a link leads to has become %s", got)
	}

	// A volume whose top folder has the group already is not walked if the pod says so.
	if err := os.Chown(filepath.Join(disk, "a", "b", "f"), -1, 0); err != nil {
		t.Fatal(err)
	}
	tearDown(t, m, "uid")
	policy := corev1.FSGroupChangeOnRootMismatch
	pod.Spec.SecurityContext.FSGroupChangePolicy = &policy
	setup(t, m, pod)
	if got := look(filepath.Join(disk, "a", "b", "f")); got != "0 660" {
		t.Errorf("the file has become %s", got)
	}
}

// loop returns a device, and the file that has its content.
func loop(t *testing.T, size int) (device, image string) {
	t.Helper()
	image = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", image).Output()
	if err != nil {
		t.Skipf("no loop device: %v", err)
	}
	device = strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() })
	return device, image
}

// TestTheFileSystemOfADevice is made once, mounted for several pods, and unmounted after the last, also by another process.
func TestTheFileSystemOfADevice(t *testing.T) {
	device, _ := loop(t, 16<<20)
	s, pod := claimed(local(device))
	s.volumes["pv"].Spec.MountOptions = []string{"noatime"}
	m := New(Config{RootDir: filepath.Join(t.TempDir(), "pods"), Objects: s})
	second := pod.DeepCopy()
	second.UID = "second"
	t.Cleanup(func() { tearDown(t, m, "uid"); tearDown(t, m, "second") })
	for round := range 2 {
		dir, other := setup(t, m, pod), setup(t, m, second)
		if round == 0 {
			if err := os.WriteFile(filepath.Join(dir, "f"), []byte("kept"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if read(t, filepath.Join(other, "f")) != "kept" {
			t.Error("the pods see different file systems")
		}
		tearDown(t, m, "uid")
		if read(t, filepath.Join(other, "f")) != "kept" || !mounts.At(filepath.Join(m.c.DeviceRoot, "pv")) {
			t.Error("the file system was unmounted too early")
		}
		tearDown(t, New(Config{RootDir: m.c.RootDir, Objects: &shelf{}}), "second")
		m = New(m.c)
		if left := mounts.Below(filepath.Dir(m.c.RootDir)); len(left) > 0 {
			t.Errorf("%v are still mounted", left)
		}
	}
}

// TestBlockVolumes hands a device to the pod.
func TestBlockVolumes(t *testing.T) {
	device, image := loop(t, 1<<20)
	block := corev1.PersistentVolumeBlock
	for _, c := range []struct {
		source corev1.PersistentVolumeSource
		want   string // the error
	}{
		{local(device), ""},
		{corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: device}}, ""},
		{local(image), "is not a block device"},
	} {
		s, pod := claimed(c.source)
		s.volumes["pv"].Spec.VolumeMode = &block
		pod.Spec.Containers[0].VolumeMounts, pod.Spec.Containers[0].VolumeDevices = nil, []corev1.VolumeDevice{{Name: "v", DevicePath: "/dev/x"}}
		m := manager(t, s)
		paths, err := m.Setup(context.Background(), pod, "", nil)
		if c.want == "" && (err != nil || paths["v"] != device) {
			t.Errorf("%v, %v", paths, err)
		}
		if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

// TestAHungVolumeHoldsUpNobody: an operation that does not end is waited for with a limit, once only, and joined later.
func TestAHungVolumeHoldsUpNobody(t *testing.T) {
	s, pod := claimed(local(t.TempDir()))
	m := New(Config{RootDir: t.TempDir(), Objects: s})
	hung, begun := make(chan struct{}), make(chan struct{}, 10)
	for i := range m.plugins {
		if p := &m.plugins[i]; p.name == "local-volume" {
			p.mount = func(ctx context.Context, r *request) (string, error) {
				begun <- struct{}{}
				<-hung // whatever becomes of the context, like a system call
				return r.dir, os.MkdirAll(r.dir, 0o755)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-begun; cancel() }()
	if _, err := m.Setup(ctx, pod, "", nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := m.within(context.Background(), operationKey{"uid", "v"}, time.Millisecond, nil); !errors.Is(err, errBusy) {
		t.Fatal(err)
	}
	ended, stop := context.WithCancel(context.Background())
	stop()
	if err := m.TearDown(ended, "uid"); !errors.Is(err, errBusy) {
		t.Fatalf("the pod's folders may be removed while something is being mounted in them: %v", err)
	}
	close(hung)
	tearDown(t, m, "uid")
	if len(begun) != 0 || len(m.operations) != 0 {
		t.Errorf("%d more operations were begun, %d are left", len(begun), len(m.operations))
	}
	if _, err := os.Stat(filepath.Join(m.podDir("uid"), "volumes")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// TestReadWriteOncePod: the second pod on the node gets the volume when the first has ended.
func TestReadWriteOncePod(t *testing.T) {
	dir := t.TempDir()
	for _, source := range []corev1.PersistentVolumeSource{local(dir), {HostPath: &corev1.HostPathVolumeSource{Path: dir}}} {
		s, pod := claimed(source)
		s.volumes["pv"].Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
		m := manager(t, s)
		second := pod.DeepCopy()
		second.UID = "second"
		setup(t, m, pod)
		_, err := m.Setup(context.Background(), second, "", nil)
		if want := `MountVolume.SetUp failed for volume "pv" : volume uses the ReadWriteOncePod access mode and is already in use by another pod`; err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		if again := setup(t, m, pod); again == "" {
			t.Error("the first pod has lost it")
		}
		tearDown(t, m, "uid")
		setup(t, m, second)
		tearDown(t, m, "second")
	}
}
