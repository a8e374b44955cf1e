// Package fsgroup gives the files of volumes to the groups of pods (securityContext.fsGroup).
package fsgroup

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"os"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/beneath"
	"github.com/kontiki/kontiki/internal/tree"
)

// Of returns the fsGroup of a pod, -1 if it has none.
func Of(pod *corev1.Pod) int {
	if s := pod.Spec.SecurityContext; s != nil && s.FSGroup != nil {
		return int(*s.FSGroup)
	}
	return -1
}

// The bits that the group of a volume gets at least, of files and of folders.
const (
	groupFile   = 0o660
	groupFolder = groupFile | 0o110 | unix.S_ISGID
)

// Set gives everything in a volume to the pod's fsGroup, if there is one, and lets that group read and write it. Links are neither
// followed nor do they lead anywhere if they appear meanwhile: another pod may be writing to the volume.
func Set(ctx context.Context, dir string, pod *corev1.Pod) error {
	gid := Of(pod)
	if gid < 0 {
		return nil
	}
	if p := pod.Spec.SecurityContext.FSGroupChangePolicy; p != nil && *p == corev1.FSGroupChangeOnRootMismatch {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err == nil && st.Gid == uint32(gid) && st.Mode&groupFolder == groupFolder {
			return nil
		}
	}
	var top unix.Stat_t
	err := tree.Each(ctx, dir, math.MaxInt, func(fd int, name string, st *unix.Stat_t) error {
		if name == "" && top.Ino == 0 {
			top = *st // it is last: its group says that everything else was done
			return nil
		}
		if err := giveTo(fd, name, st, gid); err != nil && !errors.Is(err, unix.ENOENT) {
			slog.Warn("the group of a file in a volume could not be set", "volume", dir, "err", err) // like the kubelet
		}
		return nil
	})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return giveTo(int(f.Fd()), "", &top, gid)
}

// giveTo changes the group and the mode of a folder, which is open as fd, or of its entry name.
func giveTo(fd int, name string, st *unix.Stat_t, gid int) error {
	if name == "" {
		if err := unix.Fchown(fd, -1, gid); err != nil {
			return err
		}
		return unix.Fchmod(fd, st.Mode&0o7777|groupFolder)
	}
	h, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(h), name)
	defer file.Close()
	if err := unix.Fstat(h, st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return nil // it has replaced a file; as a folder it may be a mount
	}
	if err := unix.Fchownat(h, "", -1, gid, unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil // it has no mode
	}
	return unix.Chmod(beneath.Path(file), st.Mode&0o7777|groupFile)
}
