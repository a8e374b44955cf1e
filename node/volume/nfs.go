package volume

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/volume/mounts"
)

const (
	// nfsMountTime limits one attempt to mount an NFS volume, in which mount.nfs itself tries several times.
	nfsMountTime = 90 * time.Second
	// nfsUnmountTime is how long an unmount may write back what the server does not have yet. After that it is forced: what is not written
	// then is lost, as the server has not answered.
	nfsUnmountTime = 8 * time.Second
	// maxOutput limits in bytes what is shown of the output of a program.
	maxOutput = 2 << 10
)

// nfs returns where an NFS volume is; nil if it is none.
func (s *source) nfs() *corev1.NFSVolumeSource {
	if s.pv != nil {
		return s.pv.Spec.NFS
	}
	return s.volume.NFS
}

// hostName matches names of servers. They begin with no character that a program could take for an option.
var hostName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$`)

// nfsSource returns what mount.nfs calls a share.
func nfsSource(server, share string) (string, error) {
	if ip, err := netip.ParseAddr(server); err == nil {
		if ip.Is6() {
			server = "[" + server + "]"
		}
	} else if !hostName.MatchString(server) {
		return "", fmt.Errorf("invalid NFS server %q", server)
	}
	if !path.IsAbs(share) || slices.Contains(strings.Split(share, "/"), "..") || strings.ContainsFunc(share, func(c rune) bool { return c < ' ' || c == 0x7f }) {
		return "", fmt.Errorf("invalid NFS path %q: it must be absolute, without '..'", share)
	}
	return server + ":" + share, nil
}

// nfsOptions returns the mount options as one argument.
func nfsOptions(options []string, readOnly bool) (string, error) {
	var out []string
	for _, o := range options {
		if strings.ContainsFunc(o, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return "", fmt.Errorf("invalid mount option %q", o)
		}
		if o != "" {
			out = append(out, o)
		}
	}
	if readOnly {
		out = append(out, "ro")
	}
	return strings.Join(out, ","), nil
}

// mountNFS mounts an NFS volume in the pod's folder, by the host's mount.nfs. Only the root of the mount is looked at before the pod has it.
func (m *Manager) mountNFS(ctx context.Context, r *request) (string, error) {
	s := r.nfs()
	if r.block {
		return "", fmt.Errorf("%w: an NFS volume as a device", ErrUnsupported)
	}
	if r.pv != nil {
		if err := m.makeShareFolder(ctx, r); err != nil {
			return "", err
		}
	}
	readOnly := r.readOnly || r.pv == nil && s.ReadOnly
	return r.dir, mountShare(ctx, s.Server, s.Path, r.dir, r.mountOptions(), readOnly)
}

// mountShare mounts a share at a folder, which it creates. What a previous attempt mounted there is unmounted first.
func mountShare(ctx context.Context, server, share, dir string, options []string, readOnly bool) error {
	source, err := nfsSource(server, share)
	if err != nil {
		return err
	}
	joined, err := nfsOptions(options, readOnly)
	if err != nil {
		return err
	}
	if err := unmountShare(ctx, dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	program, err := exec.LookPath("mount.nfs")
	if err != nil {
		return errors.New("mount.nfs is not installed on the node (on Debian it is in the package nfs-common)")
	}
	args := []string{source, dir}
	if joined != "" {
		args = append(args, "-o", joined)
	}
	if err := runLimited(ctx, nfsMountTime, program, args...); err != nil {
		return errors.Join(err, unmountShare(context.WithoutCancel(ctx), dir))
	}
	if !mounts.At(dir) {
		return fmt.Errorf("%s has mounted nothing at %s", program, dir)
	}
	return nil
}

// runLimited runs a mount program. It is killed, with what it has started, when ctx or its time ends, and when this process ends. The error
// has the form of the kubelet's.
func runLimited(ctx context.Context, limit time.Duration, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var output limitedBuffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &output, &output
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	runtime.LockOSThread() // the kernel sends the signal when the thread that started the program ends
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return fmt.Errorf("mount failed: %w\nMounting command: %s\nMounting arguments: %s\nOutput: %s", err, program, strings.Join(args, " "), output.data)
}

// limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct{ data []byte }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.data = append(b.data, p[:min(len(p), maxOutput-len(b.data))]...)
	return len(p), nil
}

func (m *Manager) unmountNFS(ctx context.Context, _ string, s *State) error {
	return unmountShare(ctx, s.Dir)
}

// unmountShare unmounts what is mounted at a folder, and removes the folder. First the kernel may write back what the server does not have
// yet. If the server does not answer, what hangs on the mount is aborted and the mount is taken away.
func unmountShare(ctx context.Context, dir string) error {
	if mounts.At(dir) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
		}()
		timer := time.NewTimer(nfsUnmountTime)
		defer timer.Stop()
		select {
		case <-done:
		case <-timer.C:
		case <-ctx.Done():
		}
		if mounts.At(dir) {
			// This aborts the requests to the server, of the unmount above too; it fails if the mount is in use.
			_ = unix.Unmount(dir, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW)
		}
	}
	return unmount(dir, unix.MNT_FORCE)
}
