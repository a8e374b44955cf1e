// Package kubeletroot knows the kubelet's folder, in which the plugins of vendors and the agent meet: CSI drivers, drivers of devices (DRA)
// and device plugins. Vendors' manifests name it /var/lib/kubelet. An agent may have another folder in its place, as the workers of
// `kontiki dev` do, which share a host: then a pod's hostPath volume at or below /var/lib/kubelet leads into the agent's own folder (Real),
// and plugins are told paths as their containers see them (Seen). So manifests work unchanged wherever the folder is.
package kubeletroot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/beneath"
)

// Default is the folder's name in vendors' manifests.
const Default = "/var/lib/kubelet"

// Root is the kubelet's folder of one agent. Its methods are safe for concurrent use.
type Root struct{ dir string }

// New returns the folder at a path; "" means Default. Nothing is created before Prepare.
func New(dir string) (*Root, error) {
	if dir == "" {
		dir = Default
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("kubelet root: %w", err)
	}
	return &Root{resolve(dir)}, nil
}

// resolve returns the real path of a folder, of which a part may not exist yet: the kernel names mounts by their real paths.
func resolve(dir string) string {
	if real, err := filepath.EvalSymlinks(dir); err == nil || dir == "/" {
		return real
	}
	return filepath.Join(resolve(filepath.Dir(dir)), filepath.Base(dir))
}

// Dir is the folder on the host.
func (r *Root) Dir() string { return r.dir }

// Pods has a folder for each pod, named by its UID.
func (r *Root) Pods() string { return filepath.Join(r.dir, "pods") }

// Plugins has the sockets and the staged volumes of CSI drivers, and the sockets of drivers of devices.
func (r *Root) Plugins() string { return filepath.Join(r.dir, "plugins") }

// Registry has the sockets by which plugins register.
func (r *Root) Registry() string { return filepath.Join(r.dir, "plugins_registry") }

// DevicePlugins has the sockets of device plugins.
func (r *Root) DevicePlugins() string { return filepath.Join(r.dir, "device-plugins") }

// Real returns where a path leads that a pod or a plugin names: one at or below Default is the same path in this folder, any other is itself.
func (r *Root) Real(path string) string { return move(path, Default, r.dir) }

// Seen returns the path by which plugins know a path on the host, the reverse of Real.
func (r *Root) Seen(path string) string { return move(path, r.dir, Default) }

func move(path, from, to string) string {
	path = filepath.Clean(path)
	if rest, ok := strings.CutPrefix(path, from); ok && (rest == "" || rest[0] == '/') {
		return to + rest
	}
	return path
}

// owner is a file in the folder that says that the agent of this node has it.
const owner = ".kontiki"

// Prepare creates the folder and those in it, and makes it a shared mount, so that what a driver's container mounts there is mounted on the
// host too, and the reverse. systemd makes the whole host so; elsewhere the folder is bind-mounted at itself.
//
// earlier is where the agent had its pods before it had a folder like a kubelet's; they are moved. A folder with the pods of another kubelet is
// refused, since pods that the agent does not know are removed.
func (r *Root) Prepare(earlier string) error {
	if err := os.MkdirAll(r.dir, 0o750); err != nil {
		return fmt.Errorf("kubelet root: %w", err)
	}
	if err := r.own(); err != nil {
		return err
	}
	// Whether there is anything to move is looked up first: between two mounts, the kernel refuses a rename also of what does not exist.
	if _, err := os.Lstat(earlier); err == nil {
		os.Remove(r.Pods()) // an empty folder; one with pods stays
		if _, err := os.Lstat(r.Pods()); errors.Is(err, os.ErrNotExist) {
			if err := os.Rename(earlier, r.Pods()); err != nil {
				return fmt.Errorf("kubelet root: the pods cannot be moved from %s; set --kubelet-root to a folder of the same file system: %w", earlier, err)
			}
		}
	}
	for _, dir := range []string{r.Pods(), r.Plugins(), r.Registry(), r.DevicePlugins()} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("kubelet root: %w", err)
		}
	}
	if resolved, err := filepath.EvalSymlinks(r.dir); err != nil || resolved != r.dir {
		return fmt.Errorf("kubelet root: %s leads through a symbolic link since the agent has started (%w)", r.dir, err)
	}
	return share(r.dir)
}

// own marks the folder as the agent's, unless it has pods of another.
func (r *Root) own() error {
	mark := filepath.Join(r.dir, owner)
	if _, err := os.Lstat(mark); err == nil {
		return nil
	}
	if pods, err := os.ReadDir(r.Pods()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("kubelet root: %w", err)
	} else if len(pods) > 0 {
		return fmt.Errorf("kubelet root: %s has pods of another kubelet: remove that kubelet with its pods from this host, or set --kubelet-root", r.dir)
	}
	if err := os.WriteFile(mark, []byte("This folder is that of Kontiki's agent: pods in it that the agent does not know are removed.\n"), 0o600); err != nil {
		return fmt.Errorf("kubelet root: %w", err)
	}
	return nil
}

// share makes a folder part of a shared mount.
func share(dir string) error {
	point, shared, err := mountOf(dir)
	if err != nil || shared {
		return err
	}
	if point != dir {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("kubelet root: bind %s at itself: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("kubelet root: share the mount at %s: %w", dir, err)
	}
	return nil
}

// mountOf returns the mount point of the mount that a folder is in, and whether it is shared.
func mountOf(dir string) (point string, shared bool, err error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", false, fmt.Errorf("kubelet root: %w", err)
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 7 {
			continue
		}
		p := unescape.Replace(f[4])
		if inside := p == "/" || p == dir || strings.HasPrefix(dir, p+"/"); !inside || len(p) < len(point) {
			continue
		}
		point, shared = p, false // a later mount at the same path hides an earlier one
		for _, option := range f[6:] {
			if option == "-" {
				break
			}
			shared = shared || strings.HasPrefix(option, "shared:")
		}
	}
	if point == "" {
		return "", false, errors.New("kubelet root: no mount has it")
	}
	return point, shared, nil
}

// ErrNotSocket means that a plugin's path leads to something else than a socket.
var ErrNotSocket = errors.New("not a socket")

// Dial connects to a plugin's socket, whose path is as plugins name it. The socket must be in the folder, and no part of its path below the
// folder may be a symbolic link. The length of the path is not limited by that of a socket's address.
func (r *Root) Dial(ctx context.Context, path string) (net.Conn, error) {
	below, err := filepath.Rel(r.dir, r.Real(path))
	if err != nil || !filepath.IsLocal(below) {
		return nil, fmt.Errorf("socket %s is not in the kubelet's folder %s", path, Default)
	}
	h, err := beneath.Handle(r.dir, below, beneath.Refuse)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	st, err := h.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode().Type() != os.ModeSocket {
		return nil, fmt.Errorf("%s: %w", path, ErrNotSocket)
	}
	return (&net.Dialer{}).DialContext(ctx, "unix", beneath.Path(h))
}
