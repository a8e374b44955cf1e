package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/tree"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

// Limits of local storage are enforced by measuring: a container can write more, but then its pod is evicted. The limits are those
// of an emptyDir on disk, of a container's own files and log, and of all of a pod's together, with the files that the agent mounts
// into the containers.

const (
	// storagePeriod is how often a pod with such limits is measured.
	storagePeriod = 10 * time.Second
	// ownFilesPeriod is how often the files of the agent in another pod are measured.
	ownFilesPeriod = time.Minute
)

// limitsStorage says whether a pod has limits of local storage.
func limitsStorage(pod *corev1.Pod) bool {
	if _, limited := helper.PodLimits(pod, helper.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]; limited {
		return true
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { _, limited := diskLimit(&v); return limited })
}

// diskLimit returns the limit of an emptyDir on disk.
func diskLimit(v *corev1.Volume) (int64, bool) {
	e := v.EmptyDir
	if e == nil || e.Medium != corev1.StorageMediumDefault || e.SizeLimit == nil || e.SizeLimit.IsZero() {
		return 0, false
	}
	return amount.Value(e.SizeLimit), true
}

// measureLimits bound the measuring of one pod. A pod that exceeds them several times in a row is evicted if its storage is limited,
// because otherwise it would escape its limits with very many files.
type measureLimits struct {
	trees tree.Limits   // of each directory
	time  time.Duration // of all together
}

var defaultMeasureLimits = measureLimits{trees: tree.Limits{Entries: 2 << 20, Linked: 1 << 19}, time: 30 * time.Second}

const (
	// measuresAtOnce is the number of pods that are measured concurrently. A slow one delays another for the time limit at most.
	measuresAtOnce = 4
	// maxUnmeasured is the number of measures in a row that may fail.
	maxUnmeasured = 3
	// unmeasuredPeriod is the longest time between them.
	unmeasuredPeriod = time.Minute
)

// maxOwnFiles is how much the files that the agent mounts into containers may occupy: /etc/hosts, /etc/hostname, /etc/resolv.conf
// and the termination messages. Containers can write to them, so this holds for pods without limits, too.
const maxOwnFiles = 16 << 20

// watchStorage measures the pod's local storage when that is due, concurrently with the worker, and returns when it is next due.
// Critical pods are not evicted.
func (w *worker) watchStorage(pod *corev1.Pod, o observed) time.Duration {
	if w.m.critical(pod) {
		return 0
	}
	if w.measuring.Load() {
		return storagePeriod
	}
	if left := time.Until(w.storageAt); left > 0 {
		return left
	}
	// A pod with very many files is measured less often.
	period := storagePeriod
	if !limitsStorage(pod) {
		period = ownFilesPeriod
	}
	period = max(period, 20*time.Duration(w.measured.Load()))
	if w.unmeasured.Load() > 0 {
		period = min(period, unmeasuredPeriod)
	}
	w.storageAt = time.Now().Add(period)
	w.measuring.Store(true)
	volumes := w.volumes
	w.m.wg.Go(func() {
		defer w.measuring.Store(false)
		select {
		case w.m.measures <- struct{}{}:
			defer func() { <-w.m.measures }()
		case <-w.m.ctx.Done():
			return
		}
		began := time.Now()
		defer func() { w.measured.Store(int64(time.Since(began))) }()
		ctx, cancel := context.WithTimeout(w.m.ctx, w.m.measuring.time)
		defer cancel()
		err := contain.Run(func() error {
			message, err := w.storageExceeded(ctx, pod, o, volumes)
			if message != "" {
				w.evictForStorage(message)
			}
			return err
		})
		switch {
		case w.m.ctx.Err() != nil:
		case err == nil:
			w.unmeasured.Store(0)
		default:
			n := w.unmeasured.Add(1)
			w.log.Warn("local storage of a pod could not be measured", "times", n, "err", err, "stack", contain.Stack(err))
			if n >= maxUnmeasured && (errors.Is(err, tree.ErrTooMany) || errors.Is(err, tree.ErrMoved) || errors.Is(err, context.DeadlineExceeded)) {
				w.evictForStorage(fmt.Sprintf("Pod local storage is limited but could not be measured %d times in a row: %v. ", n, err))
			}
		}
	})
	return period
}

func (w *worker) evictForStorage(message string) {
	now := leastPodGrace
	w.event("", corev1.EventTypeWarning, "Evicted", message)
	w.m.Stop(w.uid, Stop{Reason: "Evicted", Message: message, Grace: &now})
}

// systemCritical is the lowest priority of system critical pods.
const systemCritical = 2_000_000_000

// storageExceeded returns a message about the limit that a pod exceeds, "" for none; the message is the kubelet's.
func (w *worker) storageExceeded(ctx context.Context, pod *corev1.Pod, o observed, volumes map[string]string) (string, error) {
	total, limited := helper.PodLimits(pod, helper.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]
	sum, err := w.ownFiles(ctx, pod)
	if err != nil {
		return "", err
	}
	if sum > maxOwnFiles {
		return fmt.Sprintf("Usage of the pod's /etc/hosts, /etc/hostname, /etc/resolv.conf and termination message files exceeds the limit %q. ",
			resource.NewQuantity(maxOwnFiles, resource.BinarySI)), nil
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		limit, own := diskLimit(v)
		if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault || !own && !limited || volumes[v.Name] == "" {
			continue
		}
		most := amount.Value(&total)
		if own {
			most = limit
		}
		used, err := w.m.diskUse(ctx, volumes[v.Name], most)
		if err != nil {
			return "", fmt.Errorf("volume %q: %w", v.Name, err)
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
		if s.RootfsErr != nil {
			return "", fmt.Errorf("container %s: %w", c.Name, s.RootfsErr)
		}
		used := int64(s.RootfsBytes + s.LogBytes)
		if limit := c.Resources.Limits.StorageEphemeral(); !limit.IsZero() && used > amount.Value(limit) {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String()), nil
		}
		sum += used
	}
	if sum > amount.Value(&total) {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", total.String()), nil
	}
	return "", nil
}

// ownFiles returns how much the files of the agent that the pod's containers can write to occupy on disk.
func (w *worker) ownFiles(ctx context.Context, pod *corev1.Pod) (int64, error) {
	var sum int64
	for _, name := range []string{"etc", "containers"} {
		used, err := w.m.diskUse(ctx, filepath.Join(w.m.podDir(pod.UID), name), maxOwnFiles)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

// diskUse returns how many bytes on disk a directory occupies; it stops at the first sum above most.
func (m *Manager) diskUse(ctx context.Context, dir string, most int64) (int64, error) {
	l := m.measuring.trees
	l.Enough = most
	used, err := tree.Measure(ctx, dir, l)
	return used.Bytes, err
}
