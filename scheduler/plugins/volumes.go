package plugins

import (
	"context"
	"fmt"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// Volumes is the state of volumes as the scheduler sees it: that of the API, and on top of it the changes that have been decided but
// are not written yet. It belongs to the scheduler's loop, except for await.
type Volumes struct {
	Client *client.Client
	// The assumed versions of objects. One counts as long as the API has the version that it was made from.
	assumedPVs    map[string]*corev1.PersistentVolume
	assumedClaims map[string]*corev1.PersistentVolumeClaim

	mu      sync.Mutex
	waiters map[string]map[chan struct{}]struct{} // by the name of an object
}

// NewVolumes returns the state of the API.
func NewVolumes(c *client.Client) *Volumes {
	return &Volumes{Client: c, assumedPVs: map[string]*corev1.PersistentVolume{}, assumedClaims: map[string]*corev1.PersistentVolumeClaim{}, waiters: map[string]map[chan struct{}]struct{}{}}
}

// Changed tells those who wait for it that a volume or a claim has changed.
func (v *Volumes) Changed(obj client.Object) {
	name := volumeName(obj.GetName())
	if _, ok := obj.(*corev1.PersistentVolumeClaim); ok {
		name = claimKey(obj.GetNamespace(), obj.GetName())
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for waiter := range v.waiters[name] {
		select {
		case waiter <- struct{}{}:
		default:
		}
	}
}

// register adds a waiter for changes of some objects, or removes it.
func (v *Volumes) register(names []string, waiter chan struct{}, add bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, name := range names {
		if !add {
			if delete(v.waiters[name], waiter); len(v.waiters[name]) == 0 {
				delete(v.waiters, name)
			}
			continue
		}
		if v.waiters[name] == nil {
			v.waiters[name] = map[chan struct{}]struct{}{}
		}
		v.waiters[name][waiter] = struct{}{}
	}
}

// The names of a claim and of a volume. Neither is the other's, as claims have a namespace.
func claimKey(namespace, name string) string { return namespace + "/" + name }
func volumeName(name string) string          { return "/" + name }

// claim returns a claim with what was assumed of it.
func (v *Volumes) claim(view client.View, namespace, name string) (*corev1.PersistentVolumeClaim, bool) {
	stored, ok := client.Get[*corev1.PersistentVolumeClaim](view, namespace, name)
	key := claimKey(namespace, name)
	if assumed := v.assumedClaims[key]; assumed != nil {
		if ok && assumed.ResourceVersion == stored.ResourceVersion {
			return assumed, true
		}
		delete(v.assumedClaims, key)
	}
	return stored, ok
}

// pv returns a volume with what was assumed of it.
func (v *Volumes) pv(stored *corev1.PersistentVolume) *corev1.PersistentVolume {
	if assumed := v.assumedPVs[stored.Name]; assumed != nil {
		if assumed.ResourceVersion == stored.ResourceVersion {
			return assumed
		}
		delete(v.assumedPVs, stored.Name)
	}
	return stored
}

// claimNames calls visit with the name of the claim of each volume of a pod that has one.
func claimNames(pod *corev1.Pod, visit func(name string, ephemeral bool)) {
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			visit(v.PersistentVolumeClaim.ClaimName, false)
		case v.Ephemeral != nil:
			visit(ephemeral.VolumeClaimName(pod, v), true)
		}
	}
}

func hasClaims(pod *corev1.Pod) (has bool) {
	claimNames(pod, func(string, bool) { has = true })
	return has
}

// usesClaim says whether a pod uses a claim.
func usesClaim(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) (uses bool) {
	if pod.Namespace != claim.Namespace {
		return false
	}
	claimNames(pod, func(name string, _ bool) { uses = uses || name == claim.Name })
	return uses
}

// fullyBound says whether a claim's binding is complete.
func fullyBound(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted)
}

// waitsForConsumer says whether a claim is bound only when a pod that uses it is placed.
func waitsForConsumer(view client.View, claim *corev1.PersistentVolumeClaim) (bool, error) {
	name := volume.GetPersistentVolumeClaimClass(claim)
	class, ok := client.Get[*storagev1.StorageClass](view, "", name)
	switch {
	case name == "" || !ok:
		return false, nil
	case class.VolumeBindingMode == nil:
		return false, fmt.Errorf("VolumeBindingMode not set for StorageClass %q", name)
	default:
		return *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer, nil
	}
}

// await waits until a condition holds for the state of the API, which is tested again whenever one of the named objects changes.
func (v *Volumes) await(ctx context.Context, names []string, holds func(client.View) (bool, error)) error {
	changed := make(chan struct{}, 1)
	v.register(names, changed, true)
	defer v.register(names, changed, false)
	for {
		if ok, err := holds(v.Client.View()); ok || err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func metaOf(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// labelsChanged is a hint for a new node, or one whose labels changed.
func labelsChanged(_ *framework.PodInfo, e *framework.Event) bool {
	old, now := e.Nodes()
	return old == nil || now == nil || !maps.Equal(old.Labels, now.Labels)
}
