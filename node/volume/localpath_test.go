package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kontiki/kontiki/internal/localpath"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// master takes reports about folders, and writes them into the volume like the masters do.
type master struct {
	mu      sync.Mutex
	fail    error
	reports []nodev1.ReportVolumeRequest_State
	quota   string
	changed chan struct{}
}

func (f *master) report(_ context.Context, r *nodev1.ReportVolumeRequest) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	f.reports, f.quota = append(f.reports, r.State), r.Quota
	select {
	case f.changed <- struct{}{}:
	default:
	}
	return nil
}

// folder returns a manager on the node n1 with a pod whose claim has a volume of the local-path provisioner.
func folder(t *testing.T) (*Manager, *shelf, *corev1.Pod, *master) {
	t.Helper()
	s, pod := claimed(local(""))
	f := &master{changed: make(chan struct{}, 1)}
	root := t.TempDir()
	pv := s.volumes["pv"]
	pv.UID = "pv-uid"
	pv.Annotations = map[string]string{localpath.ProvisionedBy: localpath.Provisioner, localpath.Node: "n1"}
	pv.Spec.Local.Path = filepath.Join(root, "local-path", "pv")
	pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimDelete
	pv.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}
	m := New(Config{RootDir: filepath.Join(root, "pods"), FolderRoot: filepath.Join(root, "local-path"), NodeName: "n1", Objects: s, ReportVolume: f.report})
	t.Cleanup(func() { tearDown(t, m, "uid") })
	return m, s, pod, f
}

// TestAFolderIsMadeOnceAndReported: a folder that has vanished is not replaced by an empty one.
func TestAFolderIsMadeOnceAndReported(t *testing.T) {
	m, s, pod, f := folder(t)
	f.fail = errors.New("no session")
	if _, err := m.Setup(context.Background(), pod, "", nil); err == nil || !strings.Contains(err.Error(), "no session") {
		t.Fatalf("the pod gets a folder that no master knows: %v", err)
	}
	f.fail = nil
	dir := setup(t, m, pod)
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if len(f.reports) != 1 || f.reports[0] != nodev1.ReportVolumeRequest_STATE_MADE || f.quota != localpath.QuotaEnforced && !strings.HasPrefix(f.quota, localpath.QuotaMissing) {
		t.Errorf("reported: %v, %q", f.reports, f.quota)
	}
	tearDown(t, m, "uid")
	pv := s.volumes["pv"]
	pv.Annotations[localpath.State] = localpath.Made
	if read(t, filepath.Join(setup(t, m, pod), "f")) != "kept" || len(f.reports) != 1 {
		t.Errorf("after the second mount: %v", f.reports)
	}
	tearDown(t, m, "uid")
	if err := os.RemoveAll(pv.Spec.Local.Path); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Setup(context.Background(), pod, "", nil); err == nil || !strings.Contains(err.Error(), "its disk is not mounted, or its data is lost") {
		t.Errorf("the pod gets an empty folder instead of its data: %v", err)
	}
}

// TestAReleasedFolderIsRemoved: after its last pod, without following links, and also if an earlier process was interrupted.
func TestAReleasedFolderIsRemoved(t *testing.T) {
	m, s, pod, f := folder(t)
	dir := setup(t, m, pod)
	outside := filepath.Join(t.TempDir(), "kept")
	for _, err := range []error{os.WriteFile(outside, nil, 0o600), os.Symlink(filepath.Dir(outside), filepath.Join(dir, "link")), os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	pv := s.volumes["pv"]
	pv.Annotations[localpath.State] = localpath.Made
	pv.Status.Phase = corev1.VolumeReleased
	if err := m.syncFolder(context.Background(), pv); !errors.Is(err, errInUse) {
		t.Fatalf("a pod still uses it: %v", err)
	}
	tearDown(t, m, "uid")
	interrupted := filepath.Join(m.c.FolderRoot, removedPrefix+"other")
	if err := os.MkdirAll(filepath.Join(interrupted, "a"), 0o700); err != nil {
		t.Fatal(err)
	}
	<-f.changed // that it was made
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- m.RunFolders(ctx) }()
	select {
	case <-f.changed:
	case <-time.After(time.Minute):
		t.Fatal("nothing is reported")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if f.reports[1] != nodev1.ReportVolumeRequest_STATE_REMOVED {
		t.Errorf("reported: %v", f.reports)
	}
	if left, err := os.ReadDir(m.c.FolderRoot); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(outside); err != nil {
		t.Error(err)
	}
	if _, err := m.Setup(context.Background(), pod, "", nil); err == nil {
		t.Error("a volume that is being removed is mounted")
	}
}

// TestOnlyOnesOwnFoldersAreTouched: a volume may say anything.
func TestOnlyOnesOwnFoldersAreTouched(t *testing.T) {
	for name, change := range map[string]func(pv *corev1.PersistentVolume){
		"another folder": func(pv *corev1.PersistentVolume) { pv.Spec.Local.Path = "/etc" },
		"the root":       func(pv *corev1.PersistentVolume) { pv.Name, pv.Spec.Local.Path = ".", filepath.Dir(pv.Spec.Local.Path) },
		"above the root": func(pv *corev1.PersistentVolume) {
			pv.Name, pv.Spec.Local.Path = "..", filepath.Dir(filepath.Dir(pv.Spec.Local.Path))
		},
		"another node":   func(pv *corev1.PersistentVolume) { pv.Annotations[localpath.Node] = "n2" },
		"no provisioner": func(pv *corev1.PersistentVolume) { delete(pv.Annotations, localpath.ProvisionedBy) },
		"another's folder": func(pv *corev1.PersistentVolume) {
			pv.Spec.Local.Path = filepath.Join(filepath.Dir(pv.Spec.Local.Path), "other")
		},
	} {
		m, s, _, _ := folder(t)
		if pv := s.volumes["pv"]; !m.isFolder(pv) {
			t.Fatal("it is one")
		} else if change(pv); m.isFolder(pv) {
			t.Errorf("%s: %+v", name, pv)
		}
	}
}
