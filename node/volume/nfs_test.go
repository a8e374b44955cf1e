package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/localpath"
	"github.com/kontiki/kontiki/node/volume/mounts"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// mountProgram puts a program of that content in the place of mount.nfs, with the arguments SOURCE DIR [-o OPTIONS].
func mountProgram(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mount.nfs"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// fakeShare makes mount.nfs mount a folder of the host in the place of a share, and returns the folder.
func fakeShare(t *testing.T) string {
	t.Helper()
	share := t.TempDir()
	mountProgram(t, fmt.Sprintf(`echo "$@" >> %[1]s.args; mount --bind %[1]s${1##*:} "$2" && case "$4" in *ro*) mount -o remount,bind,ro "$2";; esac`, share))
	t.Cleanup(func() { os.Remove(share + ".args") })
	return share
}

func nfsVolume(server, path string) *corev1.NFSVolumeSource {
	return &corev1.NFSVolumeSource{Server: server, Path: path}
}

func TestNFSVolumesAreMountedAndUnmounted(t *testing.T) {
	share := fakeShare(t)
	if err := os.Mkdir(filepath.Join(share, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, pod := claimed(corev1.PersistentVolumeSource{NFS: nfsVolume("fd00::1", "/data")})
	s.volumes["pv"].Spec.MountOptions = []string{"nfsvers=4.2", "noatime"}
	inline := vol("inline", corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "nas.example.com", Path: "/", ReadOnly: true}})
	pod.Spec.Volumes = append(pod.Spec.Volumes, inline)
	m := manager(t, s)
	paths, err := m.Setup(context.Background(), pod, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(paths["v"], "f"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(paths["inline"], "g"), nil, 0o600); err == nil {
		t.Error("a read-only volume can be written to")
	}
	if got, want := read(t, share+".args"), fmt.Sprintf("[fd00::1]:/data %s -o nfsvers=4.2,noatime\nnas.example.com:/ %s -o ro\n", paths["v"], paths["inline"]); got != want {
		t.Errorf("mount.nfs was called with\n%swant\n%s", got, want)
	}
	after := New(Config{RootDir: m.c.RootDir, Objects: &shelf{}}) // another process
	tearDown(t, after, "uid")
	if left := mounts.Below(m.podDir("uid")); len(left) > 0 {
		t.Errorf("%v are still mounted", left)
	}
	if read(t, filepath.Join(share, "data", "f")) != "kept" {
		t.Error("the data has changed")
	}
}

func TestNFSVolumesThatCannotBeMountedSayWhy(t *testing.T) {
	mountProgram(t, "echo mount.nfs: access denied by server >&2; exit 32")
	for _, c := range []struct {
		source *corev1.NFSVolumeSource
		option string
		want   string
	}{
		{nfsVolume("nas", "/data"), "", "mount failed: exit status 32\nMounting command: "},
		{nfsVolume("nas", "/data"), "", "Output: mount.nfs: access denied by server"},
		{nfsVolume("-oremount", "/data"), "", `invalid NFS server "-oremount"`},
		{nfsVolume("nas -o x", "/data"), "", `invalid NFS server "nas -o x"`},
		{nfsVolume("nas", "/data/../etc"), "", `invalid NFS path "/data/../etc"`},
		{nfsVolume("nas", "data"), "", `invalid NFS path "data"`},
		{nfsVolume("nas", "/data"), "a\nb", `invalid mount option "a\nb"`},
	} {
		s, pod := claimed(corev1.PersistentVolumeSource{NFS: c.source})
		s.volumes["pv"].Spec.MountOptions = []string{c.option}
		m := manager(t, s)
		if _, err := m.Setup(context.Background(), pod, "", nil); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), `MountVolume.SetUp failed for volume "pv" : `) {
			t.Errorf("%+v: %v, want %s", c.source, err, c.want)
		}
	}
}

// TestAServerThatDoesNotAnswerEndsWithThePod: a mount that does not return is ended when the pod is, with all that it has started.
func TestAServerThatDoesNotAnswerEndsWithThePod(t *testing.T) {
	begun := filepath.Join(t.TempDir(), "begun")
	if err := unix.Mkfifo(begun, 0o600); err != nil {
		t.Fatal(err)
	}
	mountProgram(t, fmt.Sprintf("echo $$ > %s; sleep 1000 & wait", begun))
	s, pod := claimed(corev1.PersistentVolumeSource{NFS: nfsVolume("nas", "/data")})
	m := manager(t, s)
	ctx, cancel := context.WithCancel(context.Background())
	var pid int
	go func() {
		defer cancel()
		fmt.Sscan(read(t, begun), &pid)
	}()
	if _, err := m.Setup(ctx, pod, "", nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	tearDown(t, m, "uid")
	if pid == 0 {
		t.Fatal("mount.nfs was not begun")
	}
	for deadline := time.Now().Add(time.Minute); unix.Kill(-pid, 0) == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("what mount.nfs has started still runs")
		}
	}
}

// TestADeadServersVolumeIsTakenAway: whatever hangs on the file system of a server that does not answer any more ends with the unmount. The
// server is a FUSE file system that nobody serves, since what the kernel does then is the same.
func TestADeadServersVolumeIsTakenAway(t *testing.T) {
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no FUSE: %v", err)
	}
	t.Cleanup(func() { server.Close() })
	s, pod := claimed(corev1.PersistentVolumeSource{NFS: nfsVolume("nas", "/data")})
	m := manager(t, s)
	for i := range m.plugins {
		if p := &m.plugins[i]; p.name == "nfs" {
			p.mount = func(_ context.Context, r *request) (string, error) {
				if err := os.MkdirAll(r.dir, 0o750); err != nil {
					return "", err
				}
				return r.dir, unix.Mount("nas:/data", r.dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40755,user_id=0,group_id=0,allow_other", server.Fd()))
			}
		}
	}
	dir := setup(t, m, pod)
	hung := make(chan error, 1)
	go func() {
		_, err := os.ReadDir(dir)
		hung <- err
	}()
	other := podWith(vol("v", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	other.UID = "other"
	setup(t, m, other) // is not affected
	tearDown(t, m, "other")
	tearDown(t, m, "uid")
	if left := mounts.Below(m.podDir("uid")); len(left) > 0 {
		t.Errorf("%v are still mounted", left)
	}
	select {
	case err := <-hung:
		if err == nil {
			t.Error("a server that does not answer has answered")
		}
	case <-time.After(time.Minute):
		t.Error("a reader still hangs")
	}
}

// TestFoldersOfAShare: one is made for the first pod, and reported; and removed when the volume is released, with nothing else.
func TestFoldersOfAShare(t *testing.T) {
	share := fakeShare(t)
	m, s, pod, f := folder(t)
	pv := s.volumes["pv"]
	pv.Spec.PersistentVolumeSource = corev1.PersistentVolumeSource{NFS: nfsVolume("nas", "/team/ns/data")}
	pv.Annotations = map[string]string{localpath.ProvisionedBy: localpath.NFS, localpath.Share: "/team"}
	outside := filepath.Join(share, "outside")
	for _, dir := range []string{filepath.Join(share, "team"), outside} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Somebody has put a link in the place of a folder.
	if err := os.Symlink("../outside", filepath.Join(share, "team", "ns")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Setup(context.Background(), pod, "", nil); err == nil {
		t.Fatal("a link is followed")
	}
	if left, _ := os.ReadDir(outside); len(left) > 0 {
		t.Errorf("outside there is %v", left)
	}
	if err := os.Remove(filepath.Join(share, "team", "ns")); err != nil {
		t.Fatal(err)
	}
	dir := setup(t, m, pod)
	if len(f.reports) != 1 || f.reports[0] != nodev1.ReportVolumeRequest_STATE_MADE {
		t.Errorf("reported: %v", f.reports)
	}
	for _, err := range []error{os.WriteFile(filepath.Join(dir, "f"), nil, 0o600), os.Symlink(outside, filepath.Join(dir, "link")),
		os.WriteFile(filepath.Join(outside, "kept"), nil, 0o600), os.Mkdir(filepath.Join(share, "team", "ns", "other"), 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	pv.Annotations[localpath.State] = localpath.Made
	pv.Status.Phase = corev1.VolumeReleased
	pv.Annotations[localpath.Node] = "n2"
	if err := m.syncShareFolder(context.Background(), pv); err != nil {
		t.Error(err)
	}
	pv.Annotations[localpath.Node] = "n1"
	if err := m.syncShareFolder(context.Background(), pv); !errors.Is(err, errInUse) {
		t.Errorf("a pod still uses it: %v", err)
	}
	tearDown(t, m, "uid")
	if len(f.reports) != 1 {
		t.Errorf("reported: %v", f.reports)
	}
	for deadline := time.Now().Add(time.Minute); ; {
		err := m.syncShareFolder(context.Background(), pv)
		if err == nil {
			break
		}
		if !errors.Is(err, errBusy) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if len(f.reports) != 2 || f.reports[1] != nodev1.ReportVolumeRequest_STATE_REMOVED {
		t.Errorf("reported: %v", f.reports)
	}
	if left, err := os.ReadDir(filepath.Join(share, "team", "ns")); err != nil || len(left) != 1 || left[0].Name() != "other" {
		t.Errorf("left: %v, %v", left, err)
	}
	if left, err := os.ReadDir(filepath.Join(share, "team")); err != nil || len(left) != 1 {
		t.Errorf("left in the share: %v, %v", left, err)
	}
	read(t, filepath.Join(outside, "kept"))
	if left := mounts.Below(m.c.FolderRoot); len(left) > 0 {
		t.Errorf("%v are still mounted", left)
	}
}

// TestNoFolderLeadsOutOfItsShare: a volume may say anything (CVE-2026-3864).
func TestNoFolderLeadsOutOfItsShare(t *testing.T) {
	for _, at := range []string{"/team/../x", "/team/a/../../x", "/team", "/team/", "/teams/x", "/x", "/team/.kontiki-removed-x", "/team//x", "/team/x/"} {
		pv := &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: corev1.PersistentVolumeSource{NFS: nfsVolume("nas", at)}}}
		pv.Annotations = map[string]string{localpath.ProvisionedBy: localpath.NFS, localpath.Share: "/team"}
		if _, folder, ok := shareFolder(pv); ok {
			t.Errorf("%s: %s", at, folder)
		}
	}
}
