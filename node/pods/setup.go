package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/timeline"
)

// setup creates volumes, sandbox and network. Once all exist, only volumes are updated, when objects changed.
func (w *worker) setup(ctx context.Context, pod *corev1.Pod) (retry time.Duration, err error) {
	w.mu.Lock()
	changed, retrying, stale := w.objects, w.retry, w.stale
	w.objects, w.retry, w.stale = false, false, nil
	w.mu.Unlock()
	if w.ready && !changed {
		if len(stale) == 0 {
			return 0, nil
		}
		if err := w.m.c.Volumes.Refresh(ctx, pod, stale, w.m.c.NodeIP.String(), w.podIPs); err != nil {
			w.log.Warn("refreshing volumes", "volumes", stale, "err", err) // the pod keeps the old content
			w.markStale(stale)
			return 10 * time.Second, nil
		}
		return 0, nil
	}
	if left := time.Until(w.setupAt); left > 0 && !changed && !retrying {
		return left, errNotYet
	}
	fail := func(reason string, err error) (time.Duration, error) {
		if ctx.Err() == nil {
			if awaited := isAwaited(err); !awaited && w.setupTries == 0 || (!awaited || w.setupTries >= quietTries) && !changed && !retrying {
				w.event("", corev1.EventTypeWarning, reason, err.Error())
			}
			w.log.Debug("pod not set up", "err", err)
		}
		delay := min(500*time.Millisecond<<min(w.setupTries, 10), 2*time.Minute)
		w.setupTries++
		w.setupAt = time.Now().Add(delay)
		return delay, err
	}
	began := time.Now()
	if w.setupTries == 0 {
		w.setupBegan = began
	}
	dir := w.m.podDir(pod.UID)
	for _, d := range []string{dir, w.m.podLogDir(pod)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fail("FailedMakePodDataDirectories", fmt.Errorf("error making pod data directories: %w", err))
		}
	}
	volumes, err := w.m.c.Volumes.Setup(ctx, pod, w.m.c.NodeIP.String(), w.podIPs)
	if err != nil {
		if w.ready {
			w.log.Warn("refreshing volumes", "err", err) // the pod keeps the old content
			w.mu.Lock()
			w.objects = true
			w.mu.Unlock()
			return 10 * time.Second, nil
		}
		var rejection interface{ Rejects() string }
		if errors.As(err, &rejection) {
			w.event("", corev1.EventTypeWarning, rejection.Rejects(), err.Error())
			w.m.Stop(pod.UID, Stop{Reason: rejection.Rejects(), Message: "Pod was rejected: " + err.Error()})
			return 0, err
		}
		return fail("FailedMount", err)
	}
	w.volumes = volumes
	w.mu.Lock()
	w.mounted = volumes
	w.mu.Unlock()
	if w.ready {
		return 0, nil
	}
	w.took(pod, timeline.Volumes, "", w.setupBegan, w.triesSaid(), nil)
	if w.m.c.Hardware != nil {
		began := time.Now()
		if err := w.m.c.Hardware.Prepare(ctx, pod); err != nil {
			return fail("FailedPrepareDynamicResources", fmt.Errorf("Failed to prepare dynamic resources: %w", err))
		}
		if len(pod.Spec.ResourceClaims) > 0 {
			w.took(pod, timeline.Devices, "", began, "", nil)
		}
	}
	config, err := w.sandboxConfig(pod)
	if err != nil {
		return fail("FailedCreatePodSandBox", fmt.Errorf("Failed to create pod sandbox: %w", err))
	}
	if w.m.c.Hardware != nil && w.m.c.Hardware.NoCPUQuota(pod.UID) {
		config.Resources.CPUQuota, config.Resources.CPUPeriod = 0, 0
	}
	began = time.Now() // with the wait for a slot
	release, err := w.m.slot(ctx)
	if err != nil {
		return 0, err
	}
	defer release()
	box, err := w.m.c.Runtime.EnsureSandbox(ctx, config)
	if err != nil {
		return fail("FailedCreatePodSandBox", fmt.Errorf("Failed to create pod sandbox: %w", err))
	}
	w.sandbox = box.Generation
	w.took(pod, timeline.Sandbox, "", began, "", nil)
	if !pod.Spec.HostNetwork {
		began := time.Now()
		addr, err := w.m.c.Network.AddPod(ctx, podNetwork(pod, box.NetNS))
		if err != nil {
			return fail("FailedCreatePodSandBox", fmt.Errorf("Failed to create pod sandbox: failed to setup network for sandbox %q: %w", pod.UID, err))
		}
		w.podIPs = []string{addr.String()}
		w.took(pod, timeline.Network, "", began, addr.String(), nil)
	} else {
		w.podIPs = []string{w.m.c.NodeIP.String()}
	}
	if err := w.writeFiles(pod, config.Hostname); err != nil {
		return fail("FailedCreatePodSandBox", fmt.Errorf("Failed to create pod sandbox: %w", err))
	}
	w.ready, w.setupTries = true, 0
	return 0, nil
}

// quietTries is how often a pod waits for what other parts of the cluster are about to do, such as the binding of its claims, until an event
// says so. The kubelet says it after two minutes.
const quietTries = 4

// isAwaited says whether an error is that something has not happened yet that others are to do.
func isAwaited(err error) bool {
	var e interface{ Awaited() bool }
	return errors.As(err, &e) && e.Awaited()
}

var errNotYet = errors.New("not yet")
