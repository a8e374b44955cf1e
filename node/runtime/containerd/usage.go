package containerd

import (
	"context"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/kontiki/kontiki/internal/tree"
)

// rootfsLimits bound the measuring of a container's files.
var rootfsLimits = tree.Limits{Entries: 2 << 20, Linked: 1 << 19}

// rootfsUsage returns what a container has written to its root file system. On overlayfs that is measured here: containerd walks it
// by path, and so fails for directories deeper than the longest path, and whenever the container removes a file at the same time.
func (r *Runtime) rootfsUsage(ctx context.Context, id string) (tree.Usage, error) {
	sn := r.client.SnapshotService(r.c.Snapshotter)
	mounts, err := sn.Mounts(r.ns(ctx), id)
	if err != nil {
		return tree.Usage{}, classify(err)
	}
	if dir, ok := upperDir(mounts); ok {
		return tree.Measure(ctx, dir, rootfsLimits)
	}
	u, err := sn.Usage(r.ns(ctx), id)
	return tree.Usage{Bytes: u.Size, Inodes: u.Inodes}, classify(err)
}

// upperDir returns the directory with what was written to an overlayfs.
func upperDir(mounts []mount.Mount) (string, bool) {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return "", false
	}
	for _, o := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			return dir, true
		}
	}
	return "", false
}
