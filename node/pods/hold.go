package pods

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/node/runtime"
)

// Enforce makes the pods be looked at of which nothing may run now (Config.Hold).
func (m *Manager) Enforce() {
	m.mu.Lock()
	ctx := m.ctx
	workers := make([]*worker, 0, len(m.workers))
	for _, w := range m.workers {
		workers = append(workers, w)
	}
	m.mu.Unlock()
	if ctx == nil {
		return // they are looked at when they start
	}
	for _, w := range workers {
		w.mu.Lock()
		pod := w.pod
		w.mu.Unlock()
		if !w.held(ctx, pod) {
			continue
		}
		w.mu.Lock()
		if w.cancelSync != nil {
			w.cancelSync()
		}
		w.mu.Unlock()
		w.poke()
	}
}

func (w *worker) held(ctx context.Context, pod *corev1.Pod) bool {
	return w.m.c.Hold != nil && w.m.c.Hold(ctx, pod)
}

// holdAgain is when a pod that is held is looked at again, without an event.
const holdAgain = time.Second

// hold kills what is running of a pod, without a grace period: whoever holds it has given it all the time that there is.
func (w *worker) hold(ctx context.Context, pod *corev1.Pod) time.Duration {
	o, err := w.look(ctx)
	if err != nil {
		w.log.Warn("listing containers", "err", err)
		return holdAgain
	}
	var wg sync.WaitGroup
	killed := false
	for _, containers := range o.byName {
		for _, c := range containers {
			if c.State != runtime.StateRunning {
				continue
			}
			killed = true
			wg.Go(func() {
				if err := contain.Run(func() error { return w.m.c.Runtime.KillContainer(ctx, c.ID) }); err != nil && ctx.Err() == nil {
					w.log.Warn("killing a container that may not run now", "container", c.Name, "err", err)
				}
			})
		}
	}
	wg.Wait()
	if killed {
		w.log.Warn("the pod's containers were killed: this node has no lease for its volumes")
		w.event("", corev1.EventTypeWarning, "VolumeLeaseExpired", "Containers were killed: the node was not in contact with the cluster for too long to go on using volumes that are for one node at a time")
		w.flush()
		if o, err = w.look(ctx); err != nil {
			return holdAgain
		}
	}
	w.publish(pod, o)
	return holdAgain
}

// flushTimeout limits how long writing to the volumes' disks is waited for.
const flushTimeout = 3 * time.Second

// flush lets the kernel write what is still in its memory of a pod's volumes, as it must not do so later, when another node uses them.
func (w *worker) flush() {
	done := make(chan struct{})
	paths := make([]string, 0, len(w.volumes))
	for _, path := range w.volumes {
		paths = append(paths, path)
	}
	go func() { // it ends when the storage answers, or the volume is forcibly unmounted
		defer close(done)
		for _, path := range paths {
			if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
				_ = unix.Syncfs(fd)
				unix.Close(fd)
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(flushTimeout):
		w.log.Warn("the pod's volumes could not be written to disk in time")
	}
}
