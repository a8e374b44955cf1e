// Package plugins is the kubelet's registration of plugins (k8s.io/kubelet/pkg/apis/pluginregistration/v1, KEP-595): a plugin, or the registrar
// beside it, makes a socket in /var/lib/kubelet/plugins_registry and serves Registration there. The Watcher asks each socket what it is (GetInfo),
// passes it to the Handler of its type and tells it the result (NotifyRegistrationStatus). When the socket goes, the plugin is deregistered; when it
// is replaced, it is registered anew. What fails is tried again with growing pauses.
//
// Plugins are not trusted: no link is followed, and messages, counts and times are bounded.
package plugins

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/kubeletroot"
)

// Plugin is what a plugin says of itself.
type Plugin struct {
	// Type is CSIPlugin, DRAPlugin or DevicePlugin.
	Type string
	// Name is unique among the plugins of a type, but not among sockets: while a DaemonSet is updated, two may serve one name.
	Name string
	// Endpoint is the socket of the plugin's service, as plugins name it; it is Socket if the plugin has not named another.
	Endpoint string
	// Socket is the socket of the registration, as plugins name it.
	Socket   string
	Versions []string
}

// Handler is told about the plugins of one type. Calls for one socket do not overlap; those for different sockets do.
type Handler interface {
	// Register takes a plugin into use. An error is told to the plugin, and the registration is tried again later. ctx ends when the socket goes,
	// and after registerTime.
	Register(ctx context.Context, p Plugin) error
	// Deregister is called once for each successful Register when the socket has gone or was replaced. It is not called when the agent stops.
	Deregister(p Plugin)
}

const (
	// maxSockets and maxEntries bound what is looked at in the folder, and maxDepth the folders in it.
	maxSockets, maxEntries, maxDepth = 256, 4096, 4
	// rescan is how often the folder is read although no change was noticed.
	rescan = time.Minute
	// settle is how long further changes are awaited before the folder is read.
	settle = 10 * time.Millisecond
	// firstPause and lastPause bound the pause before a failed registration is tried again.
	firstPause, lastPause = 500 * time.Millisecond, 2 * time.Minute
)

// Watcher registers the plugins of a node.
type Watcher struct {
	root     *kubeletroot.Root
	handlers map[string]Handler
	known    map[string]*registration // by path; only Run's goroutine uses it
	running  sync.WaitGroup
	full     bool // whether it was said that there are too many sockets
}

// NewWatcher returns a Watcher of the plugins in a kubelet's folder, with the handler of each type of plugin.
func NewWatcher(root *kubeletroot.Root, handlers map[string]Handler) *Watcher {
	return &Watcher{root: root, handlers: handlers, known: map[string]*registration{}}
}

// Run registers plugins until ctx ends, and returns then when no call to a handler is running. The folder must exist (kubeletroot.Root.Prepare).
func (w *Watcher) Run(ctx context.Context) error {
	defer w.running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var changes <-chan fsnotify.Event
	var failures <-chan error
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		slog.Warn("changes in the folder of plugins are not noticed at once", "err", err)
	} else {
		defer notify.Close()
		changes, failures = notify.Events, notify.Errors
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	soon := false
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			soon = false
			w.look(ctx, notify)
			timer.Reset(rescan)
		case _, ok := <-changes:
			if !ok {
				changes = nil
			} else if !soon {
				soon = true
				timer.Reset(settle)
			}
		case err, ok := <-failures:
			if !ok {
				failures = nil
				continue
			}
			slog.Warn("watch the folder of plugins", "err", err)
			timer.Reset(settle)
		}
	}
}

// look starts and ends registrations after the sockets that there are.
func (w *Watcher) look(ctx context.Context, notify *fsnotify.Watcher) {
	found, err := w.scan(notify)
	if err != nil {
		slog.Warn("read the folder of plugins", "err", err)
		return // it is not known what has gone
	}
	for path, r := range w.known {
		if id, ok := found[path]; !ok || id != r.id {
			r.end(errGone)
			delete(w.known, path)
			if ok {
				w.start(ctx, path, id, r)
			}
		}
	}
	for path, id := range found {
		if w.known[path] != nil {
			continue
		}
		if len(w.known) >= maxSockets {
			if !w.full {
				slog.Error("there are too many sockets of plugins: some are not registered", "folder", w.root.Registry(), "limit", maxSockets)
			}
			w.full = true
			return
		}
		w.start(ctx, path, id, nil)
	}
	w.full = false
}

// start begins a registration, after the end of the one before at the same path.
func (w *Watcher) start(ctx context.Context, path string, id identity, before *registration) {
	own, end := context.WithCancelCause(ctx)
	r := &registration{w: w, socket: w.root.Seen(path), id: id, end: end, done: make(chan struct{})}
	w.known[path] = r
	w.running.Go(func() {
		defer close(r.done)
		if before != nil {
			<-before.done
		}
		r.run(own)
	})
}

// identity tells a socket from another one that replaces it at the same path.
type identity struct {
	device, inode uint64
	made          unix.StatxTimestamp
}

// scan returns the sockets in the folder, and has its folders watched.
func (w *Watcher) scan(notify *fsnotify.Watcher) (map[string]identity, error) {
	out := map[string]identity{}
	entries := 0
	top := w.root.Registry()
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && path != top && errors.Is(err, os.ErrNotExist):
			return nil // it has gone meanwhile
		case err != nil:
			return err
		}
		if entries++; entries > maxEntries {
			return fmt.Errorf("%s has over %d entries", top, maxEntries)
		}
		if path != top && strings.HasPrefix(d.Name(), ".") { // a plugin makes its socket under such a name and renames it when it listens
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			if below, _ := filepath.Rel(top, path); strings.Count(below, "/") >= maxDepth {
				return fs.SkipDir
			}
			if notify != nil {
				if err := notify.Add(path); err != nil && !errors.Is(err, os.ErrNotExist) {
					slog.Warn("watch a folder of plugins", "path", path, "err", err)
				}
			}
			return nil
		}
		if d.Type() != fs.ModeSocket {
			return nil
		}
		if id, ok := identify(path); ok {
			out[path] = id
		}
		return nil
	})
	return out, err
}

// identify returns the identity of a socket, false if it has gone.
func identify(path string) (identity, bool) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME|unix.STATX_CTIME, &st); err != nil {
		return identity{}, false
	}
	id := identity{device: unix.Mkdev(st.Dev_major, st.Dev_minor), inode: st.Ino, made: st.Ctime}
	if st.Mask&unix.STATX_BTIME != 0 {
		id.made = st.Btime
	}
	return id, true
}
