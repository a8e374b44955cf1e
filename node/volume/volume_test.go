package volume

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/kubeletroot"
	"github.com/kontiki/kontiki/node/volume/mounts"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// shelf implements Objects, and issues tokens.
type shelf struct {
	mu      sync.Mutex
	configs map[string]*corev1.ConfigMap
	secrets map[string]*corev1.Secret
	bundles []*certificatesv1.ClusterTrustBundle
	claims  map[string]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
	issued  int
	refuse  error
	// drivers and attachments are by their names.
	drivers     map[string]*storagev1.CSIDriver
	attachments map[string]*storagev1.VolumeAttachment

	// certify decides about certificate requests; asked are those that were made.
	decide func(r *nodev1.CertifyPodRequest) (*nodev1.CertifyPodResponse, error)
	asked  []*nodev1.CertifyPodRequest
}

func (s *shelf) certify(_ context.Context, r *nodev1.CertifyPodRequest) (*nodev1.CertifyPodResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, r)
	return s.decide(r)
}

func (s *shelf) ConfigMap(_, name string) (*corev1.ConfigMap, bool) {
	c, ok := s.configs[name]
	return c, ok
}

func (s *shelf) Secret(_, name string) (*corev1.Secret, bool) {
	c, ok := s.secrets[name]
	return c, ok
}

func (s *shelf) PersistentVolumeClaim(_, name string) (*corev1.PersistentVolumeClaim, bool) {
	c, ok := s.claims[name]
	return c, ok
}

func (s *shelf) PersistentVolume(name string) (*corev1.PersistentVolume, bool) {
	v, ok := s.volumes[name]
	return v, ok
}

func (s *shelf) CSIDriver(name string) (*storagev1.CSIDriver, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.drivers[name]
	return d, ok
}

func (s *shelf) VolumeAttachment(name string) (*storagev1.VolumeAttachment, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.attachments[name]
	return a, ok
}

func (s *shelf) PersistentVolumes() []*corev1.PersistentVolume {
	return slices.Collect(maps.Values(s.volumes))
}

func (s *shelf) TrustBundles() []*certificatesv1.ClusterTrustBundle { return s.bundles }

func (s *shelf) token(_ context.Context, r *nodev1.CreateTokenRequest) (*nodev1.CreateTokenResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return nil, s.refuse
	}
	s.issued++
	now := time.Now()
	claims := fmt.Sprintf(`{"iat":%d,"exp":%d,"n":%d}`, now.Unix(), now.Unix()+r.ExpirationSeconds, s.issued)
	return &nodev1.CreateTokenResponse{Token: "h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s", ExpiresAt: now.Unix() + r.ExpirationSeconds}, nil
}

func manager(t *testing.T, s *shelf) *Manager {
	m := New(Config{RootDir: t.TempDir(), Objects: s, Token: s.token, Certify: s.certify})
	t.Cleanup(func() {
		if err := m.TearDown(context.Background(), "uid"); err != nil {
			t.Error(err)
		}
	})
	return m
}

func podWith(volumes ...corev1.Volume) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "uid", Labels: map[string]string{"a": "1"}}}
	p.Spec.Volumes = volumes
	p.Spec.ServiceAccountName = "robot"
	p.Spec.Containers = []corev1.Container{{Name: "c"}}
	return p
}

func vol(name string, s corev1.VolumeSource) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: s}
}

func configVolume(items ...corev1.KeyToPath) corev1.Volume {
	return vol("v", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Items: items}})
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestConfigMapUpdatesAtOnce(t *testing.T) {
	s := &shelf{configs: map[string]*corev1.ConfigMap{"cm": {Data: map[string]string{"a": "1", "b": "1"}, BinaryData: map[string][]byte{"bin": {0, 1}}}}}
	m := manager(t, s)
	p := podWith(configVolume())
	paths, err := m.Setup(context.Background(), p, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := paths["v"]
	if read(t, filepath.Join(dir, "a")) != "1" || read(t, filepath.Join(dir, "bin")) != "\x00\x01" {
		t.Error("wrong content")
	}
	before, _ := os.Readlink(filepath.Join(dir, "..data"))
	if _, err := m.Setup(context.Background(), p, "", nil); err != nil {
		t.Fatal(err)
	}
	if again, _ := os.Readlink(filepath.Join(dir, "..data")); again != before {
		t.Error("an unchanged volume was written anew")
	}

	// A reader that reads by ..data never sees one file of an update without the other.
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			target, err := os.Readlink(filepath.Join(dir, "..data"))
			if err != nil {
				t.Error(err)
				return
			}
			a, errA := os.ReadFile(filepath.Join(dir, target, "a"))
			b, errB := os.ReadFile(filepath.Join(dir, target, "b"))
			if errA == nil && errB == nil && string(a) != string(b) {
				t.Errorf("half of an update: %q, %q", a, b)
				return
			}
		}
	})
	for i := range 200 {
		v := fmt.Sprint(i)
		s.configs["cm"] = &corev1.ConfigMap{Data: map[string]string{"a": v, "b": v}}
		if _, err := m.Setup(context.Background(), p, "", nil); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
	if _, err := os.Lstat(filepath.Join(dir, "bin")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a key that is gone: %v", err)
	}
	entries, _ := os.ReadDir(dir)
	hidden := 0
	for _, e := range entries {
		if e.IsDir() {
			hidden++
		}
	}
	if hidden != 1 {
		t.Errorf("%d versions are kept", hidden)
	}
}

func TestItemsModesAndOptional(t *testing.T) {
	s := &shelf{configs: map[string]*corev1.ConfigMap{"cm": {Data: map[string]string{"a": "1"}}}}
	m := manager(t, s)
	mode := int32(0o600)
	paths, err := m.Setup(context.Background(), podWith(configVolume(corev1.KeyToPath{Key: "a", Path: "x/y/z", Mode: &mode})), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(filepath.Join(paths["v"], "x/y/z"))
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	yes := true
	for _, c := range []struct {
		name string
		v    corev1.Volume
		want string
	}{
		{"missing key", configVolume(corev1.KeyToPath{Key: "none", Path: "x"}), `MountVolume.SetUp failed for volume "v" : configmap references non-existent config key: none`},
		{"path that leads out", configVolume(corev1.KeyToPath{Key: "a", Path: "../x"}), `MountVolume.SetUp failed for volume "v" : invalid path "../x"`},
		{"missing secret", vol("v", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}), `MountVolume.SetUp failed for volume "v" : secret "s" not found`},
		{"missing optional secret", vol("v", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s", Optional: &yes}}), ""},
		{"unsupported", vol("v", corev1.VolumeSource{RBD: &corev1.RBDVolumeSource{}}), `MountVolume.SetUp failed for volume "v" : volume kind is not supported: rbd`},
	} {
		_, err := m.Setup(context.Background(), podWith(c.v), "", nil)
		if got := fmt.Sprint(err); c.want == "" && err != nil || c.want != "" && got != c.want {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestHostPathTypes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		kind corev1.HostPathType
		want string
	}{
		{dir, corev1.HostPathDirectory, ""},
		{file, corev1.HostPathDirectory, "hostPath type check failed: " + file + " is not a directory"},
		{file, corev1.HostPathFile, ""},
		{dir, corev1.HostPathFile, "hostPath type check failed: " + dir + " is not a file"},
		{filepath.Join(dir, "none"), corev1.HostPathDirectory, "hostPath type check failed: " + filepath.Join(dir, "none") + " is not a directory"},
		{filepath.Join(dir, "made"), corev1.HostPathDirectoryOrCreate, ""},
		{filepath.Join(dir, "madefile"), corev1.HostPathFileOrCreate, ""},
		{"/dev/null", corev1.HostPathCharDev, ""},
		{"/dev/null", corev1.HostPathSocket, "hostPath type check failed: /dev/null is not a socket"},
		{"/dev/null", corev1.HostPathBlockDev, "hostPath type check failed: /dev/null is not a block device"},
	} {
		_, err := hostPath(&corev1.HostPathVolumeSource{Path: c.path, Type: &c.kind})
		if got := fmt.Sprint(err); c.want == "" && err != nil || c.want != "" && got != c.want {
			t.Errorf("%s as %s: %v, want %q", c.path, c.kind, err, c.want)
		}
	}
}

// TestThePathOfTheKubeletLeadsIntoTheAgentsOwn: for a pod's hostPath volume, as vendors' DaemonSets have them.
func TestThePathOfTheKubeletLeadsIntoTheAgentsOwn(t *testing.T) {
	root, err := kubeletroot.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	m := New(Config{RootDir: root.Pods(), Kubelet: root, Objects: &shelf{}})
	kind := corev1.HostPathDirectoryOrCreate
	pod := podWith(vol("v", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/var/lib/kubelet/plugins/driver", Type: &kind}}))
	if path := setup(t, m, pod); path != filepath.Join(root.Plugins(), "driver") {
		t.Errorf("the volume is %s", path)
	}
	if st, err := os.Stat(filepath.Join(root.Plugins(), "driver")); err != nil || !st.IsDir() {
		t.Errorf("the folder: %v", err)
	}
}

func TestSubPathStaysInside(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	m := manager(t, &shelf{})
	p := podWith(vol("v", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	paths, err := m.Setup(context.Background(), p, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	root := paths["v"]
	if err := os.Symlink("/etc", filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"out", "out/passwd", "../..", "a/../../x"} {
		if got, err := m.SubPath(p, "c", 0, root, sub); err == nil {
			t.Errorf("subPath %q was led out, to %s", sub, got)
		}
	}
	target, err := m.SubPath(p, "c", 1, root, "new/deep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(target, "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if read(t, filepath.Join(root, "new/deep/f")) != "x" {
		t.Error("not the same folder")
	}
	// A pod that can write to the volume cannot move the mount afterwards.
	if err := os.RemoveAll(filepath.Join(root, "new")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(root, "new")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(target, "passwd")); err == nil {
		t.Error("the mount follows a link put there later")
	}
	if err := m.TearDown(context.Background(), "uid"); err != nil {
		t.Fatal(err)
	}
	if left := mounts.Below(m.podDir("uid")); len(left) > 0 {
		t.Errorf("still mounted: %v", left)
	}
	if _, err := os.Stat("/etc/passwd"); err != nil {
		t.Error(err)
	}
}

func TestMemoryVolumeAndGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	m := manager(t, &shelf{})
	p := podWith(vol("v", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}))
	gid := int64(1234)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &gid}
	for range 2 { // the second time it is there
		paths, err := m.Setup(context.Background(), p, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(paths["v"], &fs); err != nil || fs.Type != unix.TMPFS_MAGIC {
			t.Errorf("type %x, %v", fs.Type, err)
		}
		st, err := os.Stat(paths["v"])
		if err != nil || st.Sys().(*syscall.Stat_t).Gid != 1234 || st.Mode()&os.ModeSetgid == 0 || st.Mode().Perm() != 0o777 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
		if n := len(mounts.Below(m.podDir("uid"))); n != 1 {
			t.Errorf("%d mounts", n)
		}
	}
}

func TestTokenIsRenewed(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() {
		if err := New(Config{RootDir: dir}).TearDown(context.Background(), "uid"); err != nil {
			t.Error(err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{}
		m := New(Config{RootDir: dir, Objects: s, Token: s.token, Certify: s.certify})
		seconds := int64(1000)
		p := podWith(vol("v", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &seconds}}}}}))
		setup := func() string {
			t.Helper()
			paths, err := m.Setup(context.Background(), p, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			return read(t, filepath.Join(paths["v"], "token"))
		}
		var calls atomic.Int32
		m.OnExpiry(func(uid types.UID, volumes []string) {
			calls.Add(1)
			if uid != p.UID || !slices.Equal(volumes, []string{"v"}) {
				t.Errorf("asked to refresh volumes %q of pod %s", volumes, uid)
			}
			if err := m.Refresh(context.Background(), p, volumes, "", nil); err != nil {
				t.Error(err)
			}
		})
		issued := func() int {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.issued
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { _ = m.Run(ctx); close(done) }()
		first := setup()
		time.Sleep(790 * time.Second)
		if setup() != first || issued() != 1 {
			t.Errorf("renewed early: %d issued", issued())
		}
		time.Sleep(20 * time.Second) // past 80 % of its life
		synctest.Wait()
		second := setup()
		if second == first || issued() != 2 || calls.Load() == 0 {
			t.Errorf("not renewed: %d issued, %d calls", issued(), calls.Load())
		}
		// Without a master the last token stays, and a new one is requested again later.
		s.mu.Lock()
		s.refuse = errors.New("no master")
		s.mu.Unlock()
		time.Sleep(850 * time.Second)
		if setup() != second {
			t.Error("the last token is gone")
		}
		s.mu.Lock()
		s.refuse = nil
		s.mu.Unlock()
		time.Sleep(15 * time.Second)
		synctest.Wait()
		third := setup()
		if third == second {
			t.Error("not renewed after the master came back")
		}
		cancel()
		<-done
		// A restarted agent reads the token from the file.
		last := issued()
		m = New(Config{RootDir: dir, Objects: s, Token: s.token, Certify: s.certify})
		if setup() != third || issued() != last {
			t.Error("a restart asked for a new token")
		}
	})
}

func TestDownwardVolume(t *testing.T) {
	m := manager(t, &shelf{})
	p := podWith(vol("v", corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
		{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
		{Path: "one", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['a']"}},
		{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}},
	}}}))
	paths, err := m.Setup(context.Background(), p, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	for f, want := range map[string]string{"labels": `a="1"`, "one": "1", "name": "pod"} {
		if got := read(t, filepath.Join(paths["v"], f)); got != want {
			t.Errorf("%s = %q, want %q", f, got, want)
		}
	}
	p.Labels = map[string]string{"a": "2", "b": "3"}
	if _, err := m.Setup(context.Background(), p, "", nil); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(paths["v"], "labels")); !strings.Contains(got, "b=\"3\"") {
		t.Errorf("after a change: %q", got)
	}
}

// TestAVolumeThatIsNotMadeIsNamed checks the names of volumes that are not supported, as manifests spell them.
func TestAVolumeThatIsNotMadeIsNamed(t *testing.T) {
	for want, source := range map[string]corev1.VolumeSource{
		"rbd":    {RBD: &corev1.RBDVolumeSource{}},
		"cephfs": {CephFS: &corev1.CephFSVolumeSource{Monitors: []string{"m"}}},
	} {
		m := manager(t, &shelf{})
		_, err := m.Setup(context.Background(), podWith(vol("v", source)), "", nil)
		if !errors.Is(err, ErrUnsupported) || !strings.HasSuffix(err.Error(), "not supported: "+want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
