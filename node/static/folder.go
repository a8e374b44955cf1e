package static

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/beneath"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/eintr"
)

const (
	// maxFiles limits the files in the folder; if there are more, nothing changes until there are fewer.
	maxFiles = 256
	// maxEntries limits the entries that are looked at, with those that are ignored because of their names.
	maxEntries = 4096
	// maxFile limits a file in bytes: no object in the API is larger.
	maxFile = 512 << 10
	// period is how often the folder is read in case a change was not noticed, as the kubelet's fileCheckFrequency.
	period = 20 * time.Second
	// settle is how long a change waits for the next one, so that a file that is being written is rarely read.
	settle = 100 * time.Millisecond
)

// folder is the place that has the files: a folder, or a single file.
type folder struct {
	path, node string
	files      map[string]*file // by the name in the folder
	problem    string           // with the folder itself, as it was last logged
}

// file is a file as it was last read.
type file struct {
	print   fingerprint
	pod     *corev1.Pod // the last valid one; nil for none
	problem string      // why the present content describes no pod
}

// fingerprint changes when a file's content may have changed.
type fingerprint struct {
	device, inode         uint64
	size                  int64
	modified, inodeChange unix.Timespec
}

// read reads the files that have changed. After an error, everything is as it was.
func (f *folder) read() error {
	dir, names, err := f.list()
	if err != nil {
		return err
	}
	for name := range f.files {
		if !slices.Contains(names, name) {
			delete(f.files, name)
		}
	}
	for _, name := range names {
		old := f.files[name]
		if old == nil {
			old = &file{}
			f.files[name] = old
		}
		print, err := look(dir, name)
		if errors.Is(err, fs.ErrNotExist) { // removed since it was listed
			delete(f.files, name)
			continue
		}
		if err == nil && print == old.print {
			continue
		}
		next := &file{print: print}
		if err == nil {
			var data []byte
			if data, err = beneath.ReadFile(dir, name, beneath.Follow, maxFile); err == nil {
				var warning string
				err = contain.Run(func() (err error) {
					next.pod, warning, err = decode(filepath.Join(dir, name), data, f.node)
					return err
				})
				if err == nil && warning != "" {
					slog.Warn("a static pod's file has fields that are not known; they have no effect", "file", filepath.Join(dir, name), "err", warning)
				}
			}
		}
		if errors.Is(err, unix.EXDEV) {
			err = errors.New("it is a link that leads out of the folder")
		}
		if err != nil {
			next.pod, next.problem = old.pod, err.Error()
			if next.problem != old.problem {
				slog.Error("a file describes no static pod", "file", filepath.Join(dir, name), "err", err, "goes on", next.pod != nil)
			}
		}
		f.files[name] = next
	}
	return nil
}

// list returns the names of the files, sorted, and the folder that has them. A folder that does not exist has none.
func (f *folder) list() (dir string, names []string, err error) {
	st, err := os.Stat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return f.path, nil, nil
	}
	if err != nil {
		return "", nil, err
	}
	if !st.IsDir() {
		return filepath.Dir(f.path), []string{filepath.Base(f.path)}, nil
	}
	d, err := os.Open(f.path)
	if err != nil {
		return "", nil, err
	}
	defer d.Close()
	all, err := d.Readdirnames(maxEntries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", nil, err
	}
	for _, name := range all {
		if !strings.HasPrefix(name, ".") {
			names = append(names, name)
		}
	}
	if len(all) > maxEntries || len(names) > maxFiles {
		return "", nil, fmt.Errorf("there are more than %d files; the pods stay as they are until there are fewer", maxFiles)
	}
	slices.Sort(names)
	return f.path, names, nil
}

func look(dir, name string) (fingerprint, error) {
	h, err := beneath.Handle(dir, name, beneath.Follow)
	if err != nil {
		return fingerprint{}, err
	}
	defer h.Close()
	var st unix.Stat_t
	if err := eintr.Retry(func() error { return unix.Fstat(int(h.Fd()), &st) }); err != nil {
		return fingerprint{}, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fingerprint{}, beneath.ErrNotRegular
	}
	return fingerprint{uint64(st.Dev), st.Ino, st.Size, st.Mtim, st.Ctim}, nil
}

// pods returns the pods that the files describe, by namespace and name. Of two files that describe pods of one name, the first counts.
func (f *folder) pods() map[string]described {
	names := make([]string, 0, len(f.files))
	for name := range f.files {
		names = append(names, name)
	}
	slices.Sort(names)
	out := map[string]described{}
	for _, name := range names {
		entry := f.files[name]
		if entry.pod == nil {
			continue
		}
		key := keyOf(entry.pod)
		if first, taken := out[key]; taken {
			if problem := fmt.Sprintf("the pod %s is described by %s already", key, first.file); entry.problem != problem {
				entry.problem = problem
				slog.Error("a file describes no static pod", "file", name, "err", problem)
			}
			continue
		}
		out[key] = described{name, entry.pod}
	}
	return out
}

type described struct {
	file string
	pod  *corev1.Pod
}

func keyOf(pod *corev1.Pod) string { return pod.Namespace + "/" + pod.Name }

// watch calls changed whenever the folder may have changed, and periodically, until ctx ends.
func (f *folder) watch(ctx context.Context, changed func()) error {
	tick := time.NewTicker(period)
	defer tick.Stop()
	wait := time.NewTimer(time.Hour)
	wait.Stop()
	defer wait.Stop()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		slog.Warn("changes of the folder of static pods are noticed late", "path", f.path, "err", err)
		watcher = &fsnotify.Watcher{}
	} else {
		defer watcher.Close()
	}
	var observed string
	for {
		if err == nil {
			// The folder may have been made or replaced. What happened in it before it was observed is yet to be read.
			if now := f.observe(watcher); now != observed {
				observed = now
				wait.Reset(settle)
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-watcher.Events:
			if e.Name == f.path || filepath.Dir(e.Name) == f.path {
				wait.Reset(settle)
			}
			continue
		case <-watcher.Errors: // such as an overflow
		case <-tick.C:
		case <-wait.C:
		}
		changed()
	}
}

// observe watches the folder, and the one above it as the folder may appear or be replaced. It returns which folders these are.
func (f *folder) observe(w *fsnotify.Watcher) (which string) {
	for _, path := range []string{filepath.Dir(f.path), f.path} {
		var st unix.Stat_t
		if err := eintr.Retry(func() error { return unix.Stat(path, &st) }); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			which += fmt.Sprintln(st.Dev, st.Ino)
			_ = w.Add(path) // otherwise it is read periodically
		}
	}
	return which
}
