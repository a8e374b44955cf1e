package volume

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The files of a volume are in a folder of their own, "..TIME". The symbolic link "..data" names the folder, and each
// file that users see is a link through "..data". An update writes a new folder and renames a new link over "..data", so
// that all files of an update appear at once.
const dataLink = "..data"

// write brings the volume's folder to what was collected, and answers it.
func (p *projector) write(plugin string) (string, error) {
	dir := p.m.dir(p.pod, plugin, p.volume)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if plugin == "secret" || plugin == "projected" {
		if err := inMemory(dir); err != nil {
			return "", err
		}
	}
	gid := fsGroup(p.pod)
	if gid >= 0 {
		for path, f := range p.files {
			f.mode |= 0o440
			p.files[path] = f
		}
	}
	return dir, writeAtomically(dir, p.files, gid)
}

// inMemory puts a volume with secrets on a file system in memory, so that no disk keeps them.
func inMemory(dir string) error {
	var own, parent unix.Stat_t
	if err := errors.Join(unix.Stat(dir, &own), unix.Stat(filepath.Dir(dir), &parent)); err != nil {
		return err
	}
	if own.Dev != parent.Dev || os.Getuid() != 0 {
		return nil
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	return nil
}

func writeAtomically(dir string, files map[string]file, gid int) error {
	old, _ := os.Readlink(filepath.Join(dir, dataLink))
	if old != "" && same(filepath.Join(dir, old), files) {
		return links(dir, files)
	}
	next, err := os.MkdirTemp(dir, ".."+time.Now().UTC().Format("2006_01_02_15_04_05")+".")
	if err != nil {
		return err
	}
	if err := fill(next, files, gid); err != nil {
		os.RemoveAll(next)
		return err
	}
	tmp := filepath.Join(dir, "..data_tmp")
	os.Remove(tmp)
	if err := os.Symlink(filepath.Base(next), tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	if err := links(dir, files); err != nil {
		return err
	}
	// Also what a crash left behind.
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() && strings.HasPrefix(e.Name(), "..") && e.Name() != filepath.Base(next) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

func fill(dir string, files map[string]file, gid int) error {
	mode := os.FileMode(0o755)
	if gid >= 0 {
		mode |= os.ModeSetgid
	}
	if err := os.Chmod(dir, mode); err != nil {
		return err
	}
	if gid >= 0 {
		if err := os.Chown(dir, -1, gid); err != nil {
			return err
		}
	}
	for path, f := range files {
		full := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, f.data, 0o600); err != nil {
			return err
		}
		if gid >= 0 || f.uid >= 0 {
			if err := os.Chown(full, f.uid, gid); err != nil {
				return err
			}
		}
		if err := os.Chmod(full, os.FileMode(f.mode)&os.ModePerm); err != nil { // after chown, and whatever the umask
			return err
		}
	}
	return nil
}

// same says whether a folder holds exactly these files.
func same(dir string, files map[string]file) bool {
	n := 0
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, ok := files[rel]
		if !ok {
			return errDiffers
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(b, f.data) || st.Mode().Perm() != os.FileMode(f.mode).Perm() {
			return errDiffers
		}
		n++
		return nil
	})
	return err == nil && n == len(files)
}

var errDiffers = errors.New("differs")

// links makes the names that users see, and removes those of files that are gone.
func links(dir string, files map[string]file) error {
	want := map[string]bool{}
	for path := range files {
		first, _, _ := strings.Cut(path, "/")
		want[first] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if !want[e.Name()] {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
			continue
		}
		have[e.Name()] = true
	}
	for name := range want {
		if !have[name] {
			if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("link %s: %w", name, err)
			}
		}
	}
	return nil
}
