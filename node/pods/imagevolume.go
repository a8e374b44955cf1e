package pods

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// imageVolumes mounts the images that a container uses as volumes. Each is pulled according to its policy when it is mounted, and
// does not change during the pod's life.
func (w *worker) imageVolumes(ctx context.Context, pod *corev1.Pod, c *corev1.Container) (retry time.Duration, err error) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Image == nil || w.imageMounts[v.Name] || !mountsVolume(c, v.Name) {
			continue
		}
		img, retry, err := w.image(ctx, pod, c, wanted{image: v.Image.Reference, policy: v.Image.PullPolicy, volume: v.Name})
		if err != nil {
			return retry, err
		}
		if err := w.m.c.Runtime.MountImage(ctx, string(pod.UID), img.ID, w.volumes[v.Name]); err != nil {
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			err = fmt.Errorf("failed to mount image volume %q: %w", v.Name, err)
			w.waits[c.Name] = waiting{errCreate, err.Error()}
			w.containerEvent(pod, c, corev1.EventTypeWarning, "Failed", "Error: "+err.Error())
			return 10 * time.Second, err
		}
		if w.imageMounts == nil {
			w.imageMounts = map[string]bool{}
		}
		w.imageMounts[v.Name] = true
	}
	return 0, nil
}

func mountsVolume(c *corev1.Container, name string) bool {
	for i := range c.VolumeMounts {
		if c.VolumeMounts[i].Name == name {
			return true
		}
	}
	return false
}
