package pods

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/node/pulls"
	"github.com/kontiki/kontiki/node/runtime"
)

// pullState is a pull that runs concurrently with the worker. result receives one value when it has ended.
type pullState struct {
	done    chan struct{}
	began   time.Time
	missing []string // Secrets
	err     error
	img     runtime.Image
	took    time.Duration // without waiting for a slot
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
		w.took(pod, timeline.PullImage, c.Name, p.began, want.image, p.err)
		if p.err != nil {
			if img, ok := w.imported(ctx, want.image, p.err); ok {
				w.pulls.reset(key)
				w.containerEvent(pod, c, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q was imported on this machine; its registry cannot be reached: %v", want.image, p.err))
				return img, 0, nil
			}
			w.pulls.next(key, time.Now(), time.Now())
			msg := p.err.Error()
			w.containerEvent(pod, c, corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", want.image, msg))
			w.containerEvent(pod, c, corev1.EventTypeWarning, "Failed", "Error: "+errImagePull.Error())
			w.missingSecrets(p.missing)
			w.pullFailed(key, msg)
			return fail(errImagePull, msg, min(w.pulls.waits(key, time.Now(), time.Now()), showBackOff))
		}
		w.pulls.reset(key)
		w.containerEvent(pod, c, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.", want.image,
			p.took.Truncate(time.Millisecond), time.Since(p.began).Truncate(time.Millisecond), p.img.Size))
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
	var credentials []credential
	var missing []string
	lookup := sync.OnceValue(func() (err error) { credentials, missing, err = w.credentials(pod, want.image); return err })
	if present && policy != corev1.PullAlways {
		usable := !w.m.pulled.MustPull(want.image, img, func() []pulls.Secret {
			if lookup() != nil {
				return nil
			}
			return secretsOf(credentials)
		})
		if usable {
			w.containerEvent(pod, c, corev1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", want.image))
			return img, 0, nil
		}
	}
	if policy == corev1.PullNever { // that an image is there is not told to pods that may not use it
		msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", want.image)
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
	if err := lookup(); err != nil {
		return fail(errImagePull, err.Error(), 20*time.Second)
	}
	w.containerEvent(pod, c, corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q", want.image))
	p := &pullState{done: make(chan struct{}), began: time.Now(), missing: missing}
	w.pulling[key] = p
	w.m.wg.Go(func() {
		defer w.poke()
		defer close(p.done)
		p.err = contain.Run(func() (err error) {
			p.img, p.took, err = w.m.pull(w.m.ctx, want.image, append(credentials, w.m.ofNode(w.m.ctx, want.image)...))
			return err
		})
	})
	return runtime.Image{}, 0, errPulling
}

func secretsOf(list []credential) []pulls.Secret {
	var out []pulls.Secret
	for _, c := range list {
		out = append(out, *c.secret)
	}
	return out
}

// pull pulls an image with the first credentials that the registry accepts, and records them. It waits while too many others are pulled;
// took does not include that.
func (m *Manager) pull(ctx context.Context, image string, credentials []credential) (img runtime.Image, took time.Duration, err error) {
	if err := m.pulled.Begin(image); err != nil {
		return img, 0, err
	}
	succeeded := false
	defer func() {
		if !succeeded {
			m.pulled.Failed(image)
		}
	}()
	select {
	case m.pulls <- struct{}{}:
		defer func() { <-m.pulls }()
	case <-ctx.Done():
		return img, 0, ctx.Err()
	}
	began := time.Now()
	if len(credentials) == 0 {
		if img, err = m.c.Runtime.PullImage(ctx, image, runtime.Auth{}); err == nil {
			succeeded = true
			m.pulled.Succeeded(image, img.ID, nil)
		}
		return img, time.Since(began), err
	}
	var errs []error
	for _, c := range credentials {
		if img, err = m.c.Runtime.PullImage(ctx, image, c.auth); err == nil {
			succeeded = true
			m.pulled.Succeeded(image, img.ID, c.secret)
			return img, time.Since(began), nil
		}
		errs = append(errs, err)
	}
	return runtime.Image{}, time.Since(began), utilerrors.NewAggregate(errs)
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
