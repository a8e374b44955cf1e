package pods

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	helper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

// Limits of local storage are enforced by measuring: a container can write more, but then its pod is evicted. The limits are those
// of an emptyDir on disk, of a container's own files and log, and of all of a pod's together.

// storagePeriod is how often a pod with such limits is measured.
const storagePeriod = 10 * time.Second

// limitsStorage says whether a pod has limits of local storage.
func limitsStorage(pod *corev1.Pod) bool {
	for c := range podspec.Containers(pod) {
		if !c.Resources.Limits.StorageEphemeral().IsZero() {
			return true
		}
	}
	for i := range pod.Spec.Volumes {
		if _, limited := diskLimit(&pod.Spec.Volumes[i]); limited {
			return true
		}
	}
	return false
}

// diskLimit returns the limit of an emptyDir on disk.
func diskLimit(v *corev1.Volume) (int64, bool) {
	e := v.EmptyDir
	if e == nil || e.Medium != corev1.StorageMediumDefault || e.SizeLimit == nil || e.SizeLimit.IsZero() {
		return 0, false
	}
	return e.SizeLimit.Value(), true
}

// watchStorage measures the pod's local storage when that is due, concurrently with the worker, and returns when it is next due.
// System critical pods are not evicted.
func (w *worker) watchStorage(pod *corev1.Pod, o observed) time.Duration {
	if !limitsStorage(pod) || pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical {
		return 0
	}
	if w.measuring.Load() {
		return storagePeriod
	}
	if left := time.Until(w.storageAt); left > 0 {
		return left
	}
	// A pod with very many files is measured less often.
	w.storageAt = time.Now().Add(max(storagePeriod, 20*time.Duration(w.measured.Load())))
	w.measuring.Store(true)
	volumes := w.volumes
	w.m.wg.Go(func() {
		defer w.measuring.Store(false)
		select { // one pod at a time
		case w.m.measures <- struct{}{}:
			defer func() { <-w.m.measures }()
		case <-w.m.ctx.Done():
			return
		}
		began := time.Now()
		defer func() { w.measured.Store(int64(time.Since(began))) }()
		err := contain.Run(func() error {
			message, err := w.storageExceeded(w.m.ctx, pod, o, volumes)
			if message != "" {
				now := leastPodGrace
				w.event("", corev1.EventTypeWarning, "Evicted", message)
				w.m.Stop(w.uid, Stop{Reason: "Evicted", Message: message, Grace: &now})
			}
			return err
		})
		if err != nil && w.m.ctx.Err() == nil {
			w.log.Warn("local storage of a pod", "err", err, "stack", contain.Stack(err))
		}
	})
	return storagePeriod
}

// systemCritical is the lowest priority of system critical pods.
const systemCritical = 2_000_000_000

// storageExceeded returns a message about the limit that a pod exceeds, "" for none; the message is the kubelet's.
func (w *worker) storageExceeded(ctx context.Context, pod *corev1.Pod, o observed, volumes map[string]string) (string, error) {
	total, limited := helper.PodLimits(pod, helper.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]
	var sum int64
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		limit, own := diskLimit(v)
		if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault || !own && !limited || volumes[v.Name] == "" {
			continue
		}
		most := total.Value()
		if own {
			most = limit
		}
		used, err := diskUse(ctx, volumes[v.Name], most)
		if err != nil {
			return "", err
		}
		if own && used > limit {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String()), nil
		}
		sum += used
	}
	if !limited {
		return "", nil
	}
	for c := range podspec.Containers(pod) {
		l := o.latest(c.Name)
		if l == nil || l.State != runtime.StateRunning {
			continue
		}
		s, err := w.m.c.Runtime.Stats(ctx, l.ID)
		if err != nil {
			continue // it has ended meanwhile
		}
		used := int64(s.RootfsBytes + s.LogBytes)
		if limit := c.Resources.Limits.StorageEphemeral(); !limit.IsZero() && used > limit.Value() {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String()), nil
		}
		sum += used
	}
	if sum > total.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", total.String()), nil
	}
	return "", nil
}

// errEnough ends a walk whose sum has exceeded the limit.
var errEnough = errors.New("enough")

// diskUse returns how many bytes on disk the files of a directory occupy; it stops at the first sum above most. The pod may change
// the directory concurrently, so links are not followed.
func diskUse(ctx context.Context, dir string, most int64) (int64, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return 0, err
	}
	defer root.Close()
	var sum int64
	linked := map[uint64]bool{} // inodes with several hard links
	err = fs.WalkDir(root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil // it was removed meanwhile
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !linked[st.Ino] {
			if !d.IsDir() && st.Nlink > 1 {
				linked[st.Ino] = true
			}
			sum += st.Blocks * 512
		}
		if sum > most {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return sum, err
}
