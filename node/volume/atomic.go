package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/beneath"
	"github.com/kontiki/kontiki/internal/tree"
	"github.com/kontiki/kontiki/node/volume/fsgroup"
)

// The files of a volume are in a directory named "..TIME". The symbolic link "..data" points to that directory, and each file that
// users see is a link through "..data". An update writes a new directory and renames a new link over "..data", so that all files of
// an update appear at once.
//
// Containers get these volumes read-only, but a container that may mount can undo that. So all functions below work through a
// descriptor of the volume's directory (os.Root), which links cannot lead out of, and read only regular files.
const dataLink = "..data"

// write updates the volume's directory to the collected files.
func (p *projector) write(secret bool) error {
	dir := p.dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if secret {
		if err := inMemory(dir); err != nil {
			return err
		}
	}
	gid := fsgroup.Of(p.pod)
	if gid >= 0 {
		for path, f := range p.files {
			f.mode |= 0o440
			p.files[path] = f
		}
	}
	return writeAtomically(p.ctx, dir, p.files, gid)
}

// inMemory mounts a tmpfs for a volume with Secrets, so that they are not written to a disk.
func inMemory(dir string) error {
	var own, parent unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &own), unix.Stat(filepath.Dir(dir), &parent)); err != nil {
		return err
	}
	if own.Dev != parent.Dev || os.Getuid() != 0 {
		return nil
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
		return err // all of the worker's directory is in memory
	}
	return mountMemory(dir, unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
}

func writeAtomically(ctx context.Context, dir string, files map[string]file, gid int) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	old, _ := root.Readlink(dataLink)
	if isPayload(old) && same(root, old, files) {
		return links(ctx, root, files)
	}
	next := fmt.Sprintf("..%s.%08x", time.Now().UTC().Format("2006_01_02_15_04_05"), rand.Uint32())
	if err := root.Mkdir(next, 0o700); err != nil {
		return err
	}
	if err := fill(root, next, files, gid); err != nil {
		_ = removeIn(ctx, root, next)
		return err
	}
	const tmp = "..data_tmp"
	if err := removeIn(ctx, root, tmp); err != nil {
		return err
	}
	if err := root.Symlink(next, tmp); err != nil {
		return err
	}
	if err := root.Rename(tmp, dataLink); err != nil {
		return err
	}
	if err := links(ctx, root, files); err != nil {
		return err
	}
	// Also removes what a crash left behind.
	var errs []error
	err = eachEntry(root, func(name string, dir bool) error {
		if dir && isPayload(name) && name != next {
			errs = append(errs, removeIn(ctx, root, name))
		}
		return nil
	})
	return errors.Join(append(errs, err)...)
}

// removeIn removes an entry of a volume with everything below it.
func removeIn(ctx context.Context, root *os.Root, name string) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	return tree.RemoveIn(ctx, dir, name)
}

// eachEntry calls f for each entry of a volume, of which there may be very many, until f fails.
func eachEntry(root *os.Root, f func(name string, dir bool) error) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(256)
		for _, e := range entries {
			if err := f(e.Name(), e.IsDir()); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// isPayload says whether a name may be that of a directory with the files of one update.
func isPayload(name string) bool {
	return len(name) > 2 && strings.HasPrefix(name, "..") && !strings.Contains(name, "/")
}

// fill writes an update's files into a new directory.
func fill(root *os.Root, dir string, files map[string]file, gid int) error {
	mode := os.FileMode(0o755)
	if gid >= 0 {
		mode |= os.ModeSetgid
		if err := root.Chown(dir, -1, gid); err != nil {
			return err
		}
	}
	if err := root.Chmod(dir, mode); err != nil {
		return err
	}
	for path, f := range files {
		full := filepath.Join(dir, path)
		if err := root.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := writeNew(root, full, f, gid); err != nil {
			return err
		}
	}
	return nil
}

// writeNew creates one file. Owner and mode are set through its descriptor.
func writeNew(root *os.Root, path string, f file, gid int) error {
	w, err := root.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := w.Write(f.data); err != nil {
		return err
	}
	if gid >= 0 || f.uid >= 0 {
		if err := w.Chown(f.uid, gid); err != nil {
			return err
		}
	}
	if err := w.Chmod(os.FileMode(f.mode) & os.ModePerm); err != nil { // after chown, and regardless of the umask
		return err
	}
	return w.Close()
}

// same says whether a directory contains exactly these files.
func same(root *os.Root, dir string, files map[string]file) bool {
	dirs := map[string]bool{dir: true}
	for path := range files {
		for parent := filepath.Dir(path); parent != "."; parent = filepath.Dir(parent) {
			dirs[filepath.Join(dir, parent)] = true
		}
	}
	n := 0
	err := fs.WalkDir(root.FS(), dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if !dirs[path] { // not entered: it may be very deep
				return errDiffers
			}
			return nil
		}
		f, ok := files[strings.TrimPrefix(path, dir+"/")]
		if !ok {
			return errDiffers
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if !st.Mode().IsRegular() || st.Size() != int64(len(f.data)) || st.Mode().Perm() != os.FileMode(f.mode).Perm() {
			return errDiffers
		}
		b, err := beneath.ReadFile(root.Name(), path, beneath.Refuse, st.Size())
		if err != nil {
			return err
		}
		if !bytes.Equal(b, f.data) {
			return errDiffers
		}
		n++
		return nil
	})
	return err == nil && n == len(files)
}

var errDiffers = errors.New("differs")

// links creates the names that users see, and removes those of files that no longer exist.
func links(ctx context.Context, root *os.Root, files map[string]file) error {
	want := map[string]bool{}
	for path := range files {
		first, _, _ := strings.Cut(path, "/")
		want[first] = true
	}
	have := map[string]bool{}
	err := eachEntry(root, func(name string, _ bool) error {
		if strings.HasPrefix(name, "..") {
			return nil
		}
		if target, _ := root.Readlink(name); !want[name] || target != filepath.Join(dataLink, name) {
			return removeIn(ctx, root, name)
		}
		have[name] = true
		return nil
	})
	if err != nil {
		return err
	}
	for name := range want {
		if !have[name] {
			if err := root.Symlink(filepath.Join(dataLink, name), name); err != nil {
				return fmt.Errorf("link %s: %w", name, err)
			}
		}
	}
	return nil
}
