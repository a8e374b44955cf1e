package selinux

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/beneath"
	"github.com/kontiki/kontiki/internal/tree"
)

// attribute is where file systems keep the label of a file.
const attribute = "security.selinux"

// Relabel gives a file, or everything in a directory and then the directory, a label. Links below path are labelled themselves; nothing
// leads out of the tree, even while a container is changing it. What is mounted in it keeps its labels, and a file system that
// is read-only or has no labels is not an error.
func Relabel(ctx context.Context, path, label string) error {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = tree.Each(ctx, path, math.MaxInt, func(fd int, name string, _ *unix.Stat_t) error { return relabelEntry(fd, name, label) })
	}
	if err == nil {
		err = write(beneath.Path(f), label)
	}
	if err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EROFS) {
		return fmt.Errorf("give %s the SELinux label %s: %w", filepath.Base(path), label, err)
	}
	return nil
}

// relabelEntry labels the open directory fd, or its entry name.
func relabelEntry(fd int, name, label string) error {
	if name == "" {
		return write(fmt.Sprintf("/proc/self/fd/%d", fd), label)
	}
	h, err := unix.Openat(fd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil // it is gone
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(h), name)
	defer f.Close()
	return write(beneath.Path(f), label)
}

// write sets a label that is not set yet, so that what has it already is only read.
func write(path, label string) error {
	b := make([]byte, len(label)+2)
	if n, err := unix.Getxattr(path, attribute, b); err == nil && (string(b[:n]) == label || string(b[:n]) == label+"\x00") {
		return nil
	}
	return unix.Setxattr(path, attribute, []byte(label), 0)
}
