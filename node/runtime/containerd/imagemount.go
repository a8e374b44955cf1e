package containerd

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"

	"github.com/kontiki/kontiki/node/runtime"
)

// An image mounted for a pod is a view of its snapshot. The view's key is written to the sandbox's directory before the view is
// created, so that it is removed with the sandbox whatever happens in between.

func (r *Runtime) imageViews(uid string) string { return filepath.Join(r.sandboxDir(uid), "images") }

// MountImage implements runtime.Images.
func (r *Runtime) MountImage(ctx context.Context, podUID, ref, target string) error {
	ctx = r.ns(ctx)
	defer r.lock("sandbox/" + podUID)()
	if _, err := os.Stat(r.sandboxDir(podUID)); err != nil {
		return fmt.Errorf("sandbox %s: %w", podUID, runtime.ErrNotFound)
	}
	if isMountPoint(target) {
		return nil
	}
	img, err := r.findImage(ctx, ref)
	if err != nil {
		return err
	}
	if err := r.unpack(ctx, img); err != nil {
		return err
	}
	diffs, err := img.RootFS(ctx)
	if err != nil {
		return fmt.Errorf("read image %s: %w", ref, classify(err))
	}
	// If the caller gave up, a mount would be left that the agent does not know of.
	ctx, cancel := detached(ctx)
	defer cancel()
	sum := sha256.Sum256([]byte(target))
	key := "kontiki-image-" + hex.EncodeToString(sum[:16])
	if err := os.MkdirAll(r.imageViews(podUID), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(r.imageViews(podUID), key), nil, 0o600); err != nil {
		return err
	}
	sn := r.client.SnapshotService(r.c.Snapshotter)
	// Nothing in containerd refers to the view: without this label it would be garbage collected.
	mounts, err := sn.View(ctx, key, identity.ChainID(diffs).String(), snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}))
	if errdefs.IsAlreadyExists(err) { // the mount was lost, as after a reboot
		mounts, err = sn.Mounts(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("view of image %s: %w", ref, classify(err))
	}
	for i := range mounts {
		mounts[i].Options = append(mounts[i].Options, "nosuid", "nodev")
	}
	mounts = readonly(mounts)
	labels, err := r.labelsOfSandbox(podUID)
	if err != nil {
		return err
	}
	if labels.File != "" {
		for i := range mounts {
			if mounts[i].Type == "overlay" { // a bind mount of a single layer has the labels of that
				mounts[i].Options = append(mounts[i].Options, labelOption(labels.File))
			}
		}
	}
	if users := r.usersOf(podUID); users != nil {
		if len(mounts) != 1 {
			return fmt.Errorf("mount image %s in a user namespace: it has %d mounts", ref, len(mounts))
		}
		err = r.mountView(podUID, users, mounts[0], target)
	} else {
		err = mount.All(mounts, target)
	}
	if err != nil {
		unmountAll(target)
		return fmt.Errorf("mount image %s: %w", ref, err)
	}
	return nil
}

// readonly makes all mounts read-only: a view of one layer is a bind mount of it.
func readonly(mounts []mount.Mount) []mount.Mount {
	out := make([]mount.Mount, len(mounts))
	for i, m := range mounts {
		options := []string{"ro"}
		for _, o := range m.Options {
			if o != "ro" && o != "rw" {
				options = append(options, o)
			}
		}
		m.Options = options
		out[i] = m
	}
	return out
}

// removeImageViews removes the views that were created for a pod.
func (r *Runtime) removeImageViews(ctx context.Context, uid string) error {
	entries, err := os.ReadDir(r.imageViews(uid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	sn := r.client.SnapshotService(r.c.Snapshotter)
	for _, e := range entries {
		if err := sn.Remove(r.ns(ctx), e.Name()); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("view of an image: %w", classify(err))
		}
	}
	return nil
}
