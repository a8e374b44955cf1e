package pods

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/node/environ"
	"github.com/kontiki/kontiki/node/runtime"
)

// start starts one container, unless it has to wait. retry says when to try again, 0 if an event will trigger that.
func (w *worker) start(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (retry time.Duration, err error) {
	o, err := w.look(ctx)
	if err != nil {
		return time.Second, err
	}
	now := time.Now()
	attempt := 0
	if l := o.newest(c.Name); l != nil {
		attempt = l.Attempt + 1
		if l.State == runtime.StateCreated { // left by a previous agent
			if err := w.m.c.Runtime.RemoveContainer(ctx, l.ID); err != nil {
				return time.Second, err
			}
			w.unlinkLog(pod, l.Name, l.ID)
			attempt = l.Attempt
		}
	} else if old := w.oldStatus(c.Name); old != nil {
		attempt = int(old.RestartCount)
	}
	key, failed := restartKey(c), lastFailure(o, c)
	if !failed.IsZero() {
		if left := w.restarts.waits(key, failed, now); left > 0 {
			delay := w.restarts.delay(key)
			w.waits[c.Name] = waiting{errCrashLoop, fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", delay, c.Name, PodFullName(pod))}
			if said := w.backOffSaid[c.Name]; !said.Equal(failed) {
				w.backOffSaid[c.Name] = failed
				w.containerEvent(pod, c, corev1.EventTypeWarning, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, PodFullName(pod)))
			}
			return left, errCrashLoop
		}
	}
	if _, retry, err := w.image(ctx, pod, c, wanted{image: c.Image, policy: c.ImagePullPolicy}); err != nil {
		return retry, err
	}
	if retry, err := w.imageVolumes(ctx, pod, c); err != nil {
		return retry, err
	}
	delete(w.waits, c.Name)
	if !failed.IsZero() {
		w.restarts.next(key, failed, now)
	}
	refuse := func(class error, err error) (time.Duration, error) {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		w.waits[c.Name] = waiting{class, err.Error()}
		w.containerEvent(pod, c, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		return 10 * time.Second, err
	}
	cfg, err := w.containerConfig(pod, c, o, attempt)
	if err != nil {
		return refuse(errCreateConfig, err)
	}
	if w.m.c.Hardware != nil {
		edits, err := w.m.c.Hardware.Container(ctx, pod, c.Name)
		if err != nil {
			return refuse(errCreateConfig, err)
		}
		cfg.Apply(edits)
	}
	if bad := environ.Unfit(cfg.Env); bad != "" {
		return refuse(errCreate, fmt.Errorf("environment variable %q: its value is not valid UTF-8 or contains a NUL byte", bad))
	}
	first := attempt == 0
	step := func(name string, began time.Time, err error) {
		if first && ctx.Err() == nil { // restarts are not part of the pod's start
			w.took(pod, name, c.Name, began, "", err)
		}
	}
	began := time.Now() // with the wait for a slot
	release, err := w.m.slot(ctx)
	if err != nil {
		return 0, err
	}
	release = sync.OnceFunc(release)
	defer release()
	id, err := w.m.c.Runtime.CreateContainer(ctx, cfg)
	step(timeline.Create, began, err)
	if errors.Is(err, runtime.ErrRunAsRoot) || errors.Is(err, runtime.ErrNonRootUnknown) {
		return refuse(errCreateConfig, fmt.Errorf("%w (pod: %q, container: %s)", err, PodFullName(pod), c.Name))
	}
	if err != nil {
		return refuse(errCreate, err)
	}
	w.linkLog(pod, c.Name, id, cfg.LogPath)
	w.containerEvent(pod, c, corev1.EventTypeNormal, "Created", "Container created")
	began = time.Now()
	err = w.m.c.Runtime.StartContainer(ctx, id)
	step(timeline.Start, began, err)
	if err != nil {
		// The container is now an exited one, so back-off determines the next attempt.
		if ctx.Err() == nil {
			w.waits[c.Name] = waiting{errRun, err.Error()}
			w.containerEvent(pod, c, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
		}
		return again, err
	}
	release() // hooks and probes may take long
	w.containerEvent(pod, c, corev1.EventTypeNormal, "Started", "Container started")
	if o, err := w.look(ctx); err == nil {
		w.publish(pod, o)
		w.probes.ensure(pod, o)
	}
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		var err error
		began := time.Now()
		w.during(ctx, func() { err = w.hook(ctx, pod, c, id, c.Lifecycle.PostStart) })
		step(timeline.PostStart, began, err)
		if err != nil && ctx.Err() == nil {
			w.containerEvent(pod, c, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
			w.during(ctx, func() { w.killForRestart(ctx, pod, kill{id: id, container: c, message: "FailedPostStartHook"}) })
			w.waits[c.Name] = waiting{errPostStartHook, "PostStart handler: " + err.Error()}
			return again, err
		}
	}
	return 0, nil
}
