package volume

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/localpath"
	"github.com/kontiki/kontiki/internal/tree"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Folders of volumes of the provisioner kontiki.io/local-path are in one folder, named like their volumes. Such a folder is made when the
// volume is mounted for the first time, before any pod gets it, and the masters are told; when the volume is to be removed it is renamed,
// so that nothing finds it half empty, and then removed.

const (
	// removedPrefix is that of the names of folders that are being removed.
	removedPrefix = ".removed-"
	// removeTime limits how long one folder keeps others waiting that are to be removed; it is continued later.
	removeTime = time.Minute
	// folderRetry is when what failed is tried again.
	folderRetry = 5 * time.Second
	// reportTime limits a report to a master.
	reportTime = 10 * time.Second
)

// isFolder says whether a volume is a folder that this node makes and removes. Whatever a volume says, nothing outside of the one folder
// is touched.
func (m *Manager) isFolder(pv *corev1.PersistentVolume) bool {
	return m.c.FolderRoot != "" && pv.Spec.Local != nil && localpath.NodeOf(pv.Annotations) == m.c.NodeName &&
		filepath.IsLocal(pv.Name) && filepath.Base(pv.Name) == pv.Name && !strings.HasPrefix(pv.Name, ".") &&
		pv.Spec.Local.Path == filepath.Join(m.c.FolderRoot, pv.Name)
}

// makeFolder makes the folder of a volume, unless it was made before: then it must be there.
func (m *Manager) makeFolder(ctx context.Context, pv *corev1.PersistentVolume) error {
	path := pv.Spec.Local.Path
	made := pv.Annotations[localpath.State] == localpath.Made
	switch st, err := os.Lstat(path); {
	case err == nil && !st.IsDir():
		return fmt.Errorf("%s is not a directory", path)
	case err == nil:
	case !errors.Is(err, os.ErrNotExist):
		return err
	case pv.Annotations[localpath.State] == localpath.Removed || localpath.ToRemove(string(pv.Spec.PersistentVolumeReclaimPolicy), string(pv.Status.Phase), pv.DeletionTimestamp != nil):
		return fmt.Errorf("the volume is being removed")
	case made:
		return fmt.Errorf("the folder %s is gone: its disk is not mounted, or its data is lost", path)
	default:
		if err := durable.MakeDir(m.c.FolderRoot, 0o711); err != nil {
			return err
		}
		if err := os.Mkdir(path, 0o777); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o777); err != nil { // regardless of the umask: containers have any user
			return err
		}
		if err := durable.SyncDir(m.c.FolderRoot); err != nil {
			return err
		}
	}
	if made {
		return nil
	}
	quota := m.limitFolder(pv)
	return m.reportFolder(ctx, pv, nodev1.ReportVolumeRequest_STATE_MADE, quota)
}

// limitFolder limits a folder to its volume's capacity, and returns what to tell about that.
func (m *Manager) limitFolder(pv *corev1.PersistentVolume) string {
	capacity := pv.Spec.Capacity[corev1.ResourceStorage]
	if err := limitTree(pv.Spec.Local.Path, m.c.FolderRoot, amount.Value(&capacity)); err != nil {
		return shorten(localpath.QuotaMissing+err.Error(), maxQuotaText)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limits[pv.UID] = amount.Value(&capacity)
	return localpath.QuotaEnforced
}

// maxQuotaText limits in bytes what is told about a quota.
const maxQuotaText = 256

func shorten(text string, most int) string {
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "")
	}
	return text
}

func (m *Manager) reportFolder(ctx context.Context, pv *corev1.PersistentVolume, state nodev1.ReportVolumeRequest_State, quota string) error {
	ctx, cancel := context.WithTimeout(ctx, reportTime)
	defer cancel()
	if err := m.c.ReportVolume(ctx, &nodev1.ReportVolumeRequest{Name: pv.Name, Uid: string(pv.UID), State: state, Quota: quota}); err != nil {
		return fmt.Errorf("report the folder of volume %q: %w", pv.Name, err)
	}
	return nil
}

// PokeFolders notes that volumes whose folders are here may have changed. It never blocks.
func (m *Manager) PokeFolders() {
	select {
	case m.folders <- struct{}{}:
	default:
	}
}

// RunFolders removes the folders of volumes that are to be removed, and adapts quotas, until ctx ends.
func (m *Manager) RunFolders(ctx context.Context) error {
	if m.c.FolderRoot == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := m.sweepFolders(ctx); err != nil && ctx.Err() == nil {
		slog.Warn("what is left of removed volumes could not be removed", "err", err)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.folders:
		case <-timer.C:
		}
		again := false
		if err := m.releaseDevices(ctx); err != nil && ctx.Err() == nil {
			again = true
			slog.Warn("file systems of volumes could not be unmounted", "err", err)
		}
		for _, pv := range m.c.Objects.PersistentVolumes() {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			sync := m.syncShareFolder
			if m.isFolder(pv) {
				sync = m.syncFolder
			}
			if err := contain.Run(func() error { return sync(ctx, pv) }); err != nil && ctx.Err() == nil {
				again = true
				if !errors.Is(err, errInUse) && !errors.Is(err, errBusy) {
					slog.Warn("folder of a volume", "volume", pv.Name, "err", err, "stack", contain.Stack(err))
				}
			}
		}
		if timer.Stop(); again {
			timer.Reset(folderRetry)
		}
	}
}

// errInUse means that a volume that is to be removed is still mounted.
var errInUse = errors.New("the volume is still mounted")

// syncFolder removes a folder, or adapts its quota.
func (m *Manager) syncFolder(ctx context.Context, pv *corev1.PersistentVolume) error {
	if !localpath.ToRemove(string(pv.Spec.PersistentVolumeReclaimPolicy), string(pv.Status.Phase), pv.DeletionTimestamp != nil) {
		capacity := pv.Spec.Capacity[corev1.ResourceStorage]
		m.mu.Lock()
		same := m.limits[pv.UID] == amount.Value(&capacity)
		m.mu.Unlock()
		if pv.Annotations[localpath.State] != localpath.Made || pv.Annotations[localpath.Quota] != localpath.QuotaEnforced || same {
			return nil
		}
		if quota := m.limitFolder(pv); quota != localpath.QuotaEnforced {
			return errors.New(quota)
		}
		return nil
	}
	if pv.Annotations[localpath.State] == localpath.Removed {
		return nil // the masters remove the object
	}
	if m.usedBy(pv.Name, "") > 0 {
		return errInUse
	}
	if err := m.removeFolder(ctx, pv); err != nil {
		return err
	}
	return m.reportFolder(ctx, pv, nodev1.ReportVolumeRequest_STATE_REMOVED, "")
}

// removeFolder removes a folder. After a crash it is either still complete, or sweepFolders or the next attempt goes on.
func (m *Manager) removeFolder(ctx context.Context, pv *corev1.PersistentVolume) error {
	path := pv.Spec.Local.Path
	removed := filepath.Join(m.c.FolderRoot, removedPrefix+string(pv.UID))
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	if err := tree.RemoveAll(ctx, removed); err != nil {
		return err
	}
	if err := durable.Rename(path, removed); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return tree.RemoveAll(ctx, removed)
}

// sweepFolders goes on with removals that a previous process began.
func (m *Manager) sweepFolders(ctx context.Context) error {
	entries, err := os.ReadDir(m.c.FolderRoot)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), removedPrefix) {
			errs = append(errs, m.sweepFolder(ctx, e.Name()))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) sweepFolder(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	return tree.RemoveAll(ctx, filepath.Join(m.c.FolderRoot, name))
}
