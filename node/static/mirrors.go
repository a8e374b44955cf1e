package static

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/internal/contain"
)

// Mirrors is the API's side of mirror pods.
type Mirrors interface {
	// List returns the node's pods that are mirror pods, as far as this node knows them. They are read-only.
	List() []*corev1.Pod
	Create(ctx context.Context, pod *corev1.Pod) error
	// Delete deletes a mirror pod at once. It is not an error if it does not exist any more.
	Delete(ctx context.Context, mirror *corev1.Pod) error
}

// IsMirror says whether a pod in the API is a mirror pod, which no node runs.
func IsMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[mirrorAnnotation]
	return ok
}

const (
	// firstRetry is the time after which a mirror pod that was refused is tried again; it doubles up to longestRetry.
	firstRetry, longestRetry = time.Second, time.Minute
	// callTimeout limits a call to a master.
	callTimeout = 10 * time.Second
)

// MirrorsChanged reports that mirror pods of the node may have changed, or that a session with a master has begun. It never blocks.
func (p *Pods) MirrorsChanged() { signal(p.mirror) }

// keepMirrors keeps the mirror pods until ctx ends.
func (p *Pods) keepMirrors(ctx context.Context) error {
	retry := time.NewTimer(0)
	defer retry.Stop()
	// An error is logged when it comes twice: the first may be that of a mirror pod that exists, of which the node has not been told yet.
	delay, last, said := firstRetry, "", ""
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.mirror:
		case <-retry.C:
		}
		err := contain.Run(func() error { return p.mirrors(ctx) })
		switch {
		case ctx.Err() != nil:
		case err == nil:
			delay, last, said = firstRetry, "", ""
		default:
			text := err.Error()
			if text == last && text != said {
				said = text
				slog.Warn("the mirror pods of static pods could not be brought up to date", "err", err)
			}
			last = text
			retry.Reset(delay)
			delay = min(2*delay, longestRetry)
		}
	}
}

// mirrors compares the mirror pods with the static pods, and changes what differs.
func (p *Pods) mirrors(ctx context.Context) error {
	var errs []error
	call := func(what string, mirror *corev1.Pod, f func(ctx context.Context, pod *corev1.Pod) error) {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if err := f(ctx, mirror); err != nil {
			errs = append(errs, fmt.Errorf("%s the mirror pod %s: %w", what, keyOf(mirror), err))
		}
	}
	missing := map[string]*corev1.Pod{}
	hash := map[string]string{}
	p.mu.Lock()
	for _, r := range p.running {
		key := keyOf(r.pod)
		hash[key] = string(r.pod.UID)
		if ended := r.status != nil && (r.status.Phase == corev1.PodSucceeded || r.status.Phase == corev1.PodFailed); !ended && !r.ending {
			missing[key] = r.pod
		}
	}
	p.mu.Unlock()
	for _, mirror := range p.c.Mirrors.List() {
		key := keyOf(mirror)
		delete(missing, key) // a deleted one is made again when it is gone
		if mirror.Annotations[mirrorAnnotation] != hash[key] || mirror.DeletionTimestamp != nil {
			call("delete", mirror, p.c.Mirrors.Delete)
			continue
		}
		p.show(mirror)
	}
	if len(missing) > 0 {
		owner := p.c.Owner()
		if owner == nil || owner.UID == "" {
			return errors.Join(errs...) // MirrorsChanged is called when the node is known
		}
		for _, pod := range missing {
			call("create", mirrorOf(pod, owner), p.c.Mirrors.Create)
		}
	}
	return errors.Join(errs...)
}

// mirrorOf returns the mirror pod of a static pod.
func mirrorOf(pod *corev1.Pod, owner *corev1.Node) *corev1.Pod {
	controller := true
	mirror := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, Labels: pod.Labels, Annotations: maps.Clone(pod.Annotations),
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: owner.Name, UID: owner.UID, Controller: &controller}}}, Spec: *pod.Spec.DeepCopy()}
	mirror.Annotations[mirrorAnnotation] = string(pod.UID)
	return mirror
}

// show gives a mirror pod the status of its static pod, unless it was given that already.
func (p *Pods) show(mirror *corev1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for uid, r := range p.running {
		if string(uid) != mirror.Annotations[mirrorAnnotation] || r.status == nil || r.shown == mirror.UID {
			continue
		}
		r.shown = mirror.UID
		status := *r.status
		status.ObservedGeneration = mirror.Generation
		status.Conditions = append([]corev1.PodCondition(nil), status.Conditions...)
		for i := range status.Conditions {
			status.Conditions[i].ObservedGeneration = mirror.Generation
		}
		p.c.Report(mirror, status)
	}
}
