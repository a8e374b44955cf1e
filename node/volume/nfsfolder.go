package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/localpath"
	"github.com/kontiki/kontiki/internal/tree"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Volumes of the provisioner kontiki.io/nfs are folders of a share. A node mounts the share at a folder of its own, which no pod sees, to make
// or remove such a folder. What pods have written there is hostile: the folder is looked up beneath the share, and links are not followed.

const (
	sharePrefix = ".share-"
	// shareRemovedPrefix is that of the names that folders have in the share while they are removed. No volume's folder begins with a dot.
	shareRemovedPrefix = ".kontiki-removed-"
	// removalWait is how long other folders wait for one on a server.
	removalWait = 100 * time.Millisecond
)

// shareFolder returns the share and the folder in it of a volume of the provisioner; ok is false if it is none.
func shareFolder(pv *corev1.PersistentVolume) (share, folder string, ok bool) {
	share = pv.Annotations[localpath.Share]
	if pv.Annotations[localpath.ProvisionedBy] != localpath.NFS || pv.Spec.NFS == nil || !path.IsAbs(share) {
		return "", "", false
	}
	folder, ok = strings.CutPrefix(pv.Spec.NFS.Path, strings.TrimSuffix(share, "/")+"/")
	if !ok || path.Clean(folder) != folder || !filepath.IsLocal(folder) {
		return "", "", false
	}
	for part := range strings.SplitSeq(folder, "/") {
		if strings.HasPrefix(part, ".") {
			return "", "", false
		}
	}
	return share, folder, true
}

// withShare calls f with the folder at which the share of a volume is mounted meanwhile. When ctx ends, the mount is taken away, so that f does
// not hang on a server that does not answer.
func (m *Manager) withShare(ctx context.Context, pv *corev1.PersistentVolume, share, purpose string, f func(dir string) error) (err error) {
	dir := filepath.Join(m.c.FolderRoot, sharePrefix+string(pv.UID)+"-"+purpose)
	if err := os.MkdirAll(m.c.FolderRoot, 0o711); err != nil {
		return err
	}
	if err := mountShare(ctx, pv.Spec.NFS.Server, share, dir, (&source{pv: pv}).mountOptions(), false); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = unmount(dir, unix.MNT_FORCE) })
	defer func() {
		stop()
		err = errors.Join(err, unmountShare(context.WithoutCancel(ctx), dir))
	}()
	return f(dir)
}

// makeShareFolder makes the folder of a volume in its share, if it is of the provisioner and was not made before.
func (m *Manager) makeShareFolder(ctx context.Context, r *request) error {
	share, folder, ok := shareFolder(r.pv)
	if !ok || r.pv.Annotations[localpath.State] == localpath.Made {
		return nil
	}
	if m.c.FolderRoot == "" {
		return errors.New("the node has no folder for volumes")
	}
	err := m.withShare(ctx, r.pv, share, string(r.pod.UID), func(dir string) error { return makeBeneath(dir, folder) })
	if err != nil {
		return fmt.Errorf("make the folder %s in the share %s: %w", folder, share, err)
	}
	return m.reportFolder(ctx, r.pv, nodev1.ReportVolumeRequest_STATE_MADE, "")
}

// makeBeneath makes a folder and those above it. None of them may be a link.
func makeBeneath(dir, folder string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	at := ""
	for part := range strings.SplitSeq(folder, "/") {
		at = path.Join(at, part)
		if err := root.Mkdir(at, 0o755); err == nil && at == folder {
			if err := root.Chmod(at, 0o777); err != nil { // regardless of the umask: containers have any user
				return err
			}
		} else if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		st, err := root.Lstat(at)
		if err != nil {
			return err
		}
		if !st.IsDir() {
			return fmt.Errorf("%s is not a directory", at)
		}
	}
	return nil
}

// syncShareFolder removes a folder in a share if this node is asked to. It is done in the background.
func (m *Manager) syncShareFolder(ctx context.Context, pv *corev1.PersistentVolume) error {
	share, folder, ok := shareFolder(pv)
	if !ok || pv.Annotations[localpath.Node] != m.c.NodeName || pv.Annotations[localpath.State] != localpath.Made ||
		!localpath.ToRemove(string(pv.Spec.PersistentVolumeReclaimPolicy), string(pv.Status.Phase), pv.DeletionTimestamp != nil) {
		return nil
	}
	if m.usedBy(pv.Name, "") > 0 {
		return errInUse
	}
	_, err := m.within(ctx, operationKey{"", "remove " + pv.Name}, removalWait, func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, nfsMountTime+removeTime)
		defer cancel()
		err := m.withShare(ctx, pv, share, "removal", func(dir string) error { return removeBeneath(ctx, dir, folder, shareRemovedPrefix+string(pv.UID)) })
		if err != nil {
			return "", fmt.Errorf("remove the folder %s of the share %s: %w", folder, share, err)
		}
		return "", m.reportFolder(ctx, pv, nodev1.ReportVolumeRequest_STATE_REMOVED, "")
	})
	return err
}

// removeBeneath renames a folder and removes it. The folders above it stay.
func removeBeneath(ctx context.Context, dir, folder, removed string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	above := path.Dir(folder)
	for at := above; at != "."; at = path.Dir(at) {
		if st, err := root.Lstat(at); errors.Is(err, fs.ErrNotExist) {
			return tree.RemoveAll(ctx, filepath.Join(dir, removed))
		} else if err != nil {
			return err
		} else if !st.IsDir() {
			return fmt.Errorf("%s is not a directory", at)
		}
	}
	if err := tree.RemoveAll(ctx, filepath.Join(dir, removed)); err != nil {
		return err
	}
	if err := root.Rename(folder, removed); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return tree.RemoveAll(ctx, filepath.Join(dir, removed))
}

// unmountShares takes away what a previous process has mounted for making and removing folders.
func (m *Manager) unmountShares() {
	entries, err := os.ReadDir(m.c.FolderRoot)
	if err != nil {
		return // it has made none
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), sharePrefix) {
			_ = unmount(filepath.Join(m.c.FolderRoot, e.Name()), unix.MNT_FORCE)
		}
	}
}
