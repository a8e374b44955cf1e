package pods

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/node/runtime"
)

// pullState is a pull that runs concurrently with the worker. result receives one value when it has ended.
type pullState struct {
	done chan struct{}
	err  error
	img  runtime.Image
	took time.Duration
}

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
	if bad := unfitVariable(cfg.Env); bad != "" {
		return refuse(errCreate, fmt.Errorf("environment variable %q: its value is not valid UTF-8 or contains a NUL byte", bad))
	}
	release, err := w.m.slot(ctx)
	if err != nil {
		return 0, err
	}
	release = sync.OnceFunc(release)
	defer release()
	id, err := w.m.c.Runtime.CreateContainer(ctx, cfg)
	if errors.Is(err, runtime.ErrRunAsRoot) || errors.Is(err, runtime.ErrNonRootUnknown) {
		return refuse(errCreateConfig, fmt.Errorf("%w (pod: %q, container: %s)", err, PodFullName(pod), c.Name))
	}
	if err != nil {
		return refuse(errCreate, err)
	}
	w.linkLog(pod, c.Name, id, cfg.LogPath)
	w.containerEvent(pod, c, corev1.EventTypeNormal, "Created", "Container created")
	if err := w.m.c.Runtime.StartContainer(ctx, id); err != nil {
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
		w.during(ctx, func() { err = w.hook(ctx, pod, c, id, c.Lifecycle.PostStart) })
		if err != nil && ctx.Err() == nil {
			w.containerEvent(pod, c, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
			w.during(ctx, func() { w.killForRestart(ctx, pod, kill{id: id, container: c, message: "FailedPostStartHook"}) })
			w.waits[c.Name] = waiting{errPostStartHook, "PostStart handler: " + err.Error()}
			return again, err
		}
	}
	return 0, nil
}

var errPulling = errors.New("image is being pulled")

// wanted is an image that a container needs: its own, or a volume's.
type wanted struct {
	image  string
	policy corev1.PullPolicy
	volume string // "" for the container's own image
}

// image returns a local image that a container needs, or starts pulling it and returns errPulling.
func (w *worker) image(ctx context.Context, pod *corev1.Pod, c *corev1.Container, want wanted) (runtime.Image, time.Duration, error) {
	rt := w.m.c.Runtime
	said := "Container image"
	if want.volume != "" {
		said = "Image volume image"
	}
	fail := func(class error, message string, retry time.Duration) (runtime.Image, time.Duration, error) {
		if ctx.Err() != nil {
			return runtime.Image{}, 0, ctx.Err()
		}
		w.waits[c.Name] = waiting{class, message}
		return runtime.Image{}, retry, class
	}
	key := c.Name + "\x00" + want.volume + "\x00" + want.image
	if p := w.pulling[key]; p != nil {
		select {
		case <-p.done:
		default:
			return runtime.Image{}, 0, errPulling
		}
		delete(w.pulling, key)
		if p.err != nil {
			if img, ok := w.imported(ctx, want.image, p.err); ok {
				w.pulls.reset(key)
				w.containerEvent(pod, c, corev1.EventTypeNormal, "Pulled", fmt.Sprintf(said+" %q was imported on this machine; its registry cannot be reached: %v", want.image, p.err))
				return img, 0, nil
			}
			w.pulls.next(key, time.Now(), time.Now())
			msg := p.err.Error()
			w.containerEvent(pod, c, corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", want.image, msg))
			w.containerEvent(pod, c, corev1.EventTypeWarning, "Failed", "Error: "+errImagePull.Error())
			w.pullFailed(key, msg)
			return fail(errImagePull, msg, min(w.pulls.waits(key, time.Now(), time.Now()), showBackOff))
		}
		w.pulls.reset(key)
		took := p.took.Round(time.Millisecond)
		w.containerEvent(pod, c, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.", want.image, took, took, p.img.Size))
		return p.img, 0, nil
	}
	img, err := rt.GetImage(ctx, want.image)
	switch {
	case errors.Is(err, runtime.ErrInvalidImageName):
		w.containerEvent(pod, c, corev1.EventTypeWarning, "InspectFailed", fmt.Sprintf("Failed to apply default image tag %q: %v", want.image, err))
		w.containerEvent(pod, c, corev1.EventTypeWarning, "Failed", "Error: "+errInvalidName.Error())
		return fail(errInvalidName, fmt.Sprintf("Failed to apply default image tag %q: %v", want.image, err), 20*time.Second)
	case err != nil && !errors.Is(err, runtime.ErrNotFound):
		return fail(errImageInspect, fmt.Sprintf("Failed to inspect image %q: %v", want.image, err), time.Second)
	}
	present := err == nil
	policy := want.policy
	if policy == "" {
		policy = corev1.PullIfNotPresent
	}
	if present && policy != corev1.PullAlways {
		w.containerEvent(pod, c, corev1.EventTypeNormal, "Pulled", fmt.Sprintf(said+" %q already present on machine", want.image))
		return img, 0, nil
	}
	if policy == corev1.PullNever {
		msg := fmt.Sprintf(said+" %q is not present with pull policy of Never", want.image)
		w.containerEvent(pod, c, corev1.EventTypeWarning, errNeverPull.Error(), msg)
		w.containerEvent(pod, c, corev1.EventTypeWarning, "Failed", "Error: "+errNeverPull.Error())
		return fail(errNeverPull, msg, 20*time.Second)
	}
	if last, ok := w.lastPull[key]; ok {
		if left := w.pulls.waits(key, last.at, time.Now()); left > 0 {
			msg := fmt.Sprintf("Back-off pulling image %q", want.image)
			if _, before := w.backOffSaid[key]; !before || !w.backOffSaid[key].Equal(last.at) {
				w.backOffSaid[key] = last.at
				w.containerEvent(pod, c, corev1.EventTypeNormal, "BackOff", msg)
				w.containerEvent(pod, c, corev1.EventTypeWarning, "Failed", "Error: "+errImageBackOff.Error())
			}
			return fail(errImageBackOff, fmt.Sprintf("%s: %s: %s", msg, errImagePull, last.message), left)
		}
	}
	w.containerEvent(pod, c, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", want.image))
	p := &pullState{done: make(chan struct{})}
	w.pulling[key] = p
	auth := w.pullSecrets(pod, want.image)
	w.m.wg.Go(func() {
		began := time.Now()
		p.err = contain.Run(func() (err error) {
			p.img, err = rt.PullImage(w.m.ctx, want.image, auth)
			return err
		})
		p.took = time.Since(began)
		close(p.done)
		w.poke()
	})
	return runtime.Image{}, 0, errPulling
}

// imported returns the image that an administrator imported under a name, which is used if the registry cannot be reached: so
// machines without a registry can run pods whose policy is to always pull, as it is by default for images with the tag latest. If
// the registry responds, its response is decisive, and an image that was pulled is not used without it.
func (w *worker) imported(ctx context.Context, name string, failed error) (runtime.Image, bool) {
	if !errors.Is(failed, runtime.ErrRegistryUnreachable) {
		return runtime.Image{}, false
	}
	img, err := w.m.c.Runtime.GetImage(ctx, name)
	return img, err == nil && img.Imported
}

// showBackOff is how long a failed pull is shown as such before it is shown as waiting for the next attempt.
const showBackOff = 3 * time.Second

type pullError struct {
	at      time.Time
	message string
}

func (w *worker) pullFailed(key, message string) {
	if w.lastPull == nil {
		w.lastPull = map[string]pullError{}
	}
	w.lastPull[key] = pullError{time.Now(), message}
}
