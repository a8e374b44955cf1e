package statefulset

import (
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/client"
)

// create creates a pod, after its claims.
func (u *update) create(pod *corev1.Pod, ordinal int) error {
	if err := u.createClaims(pod, ordinal); err != nil {
		u.tellPod("Create", pod.Name, err)
		return err
	}
	name := pod.Name
	created, err := client.Create(u.ctx, u.client, pod)
	if apierrors.IsAlreadyExists(err) {
		return err // a pod that is not the set's has the name: its end enqueues nothing, so this is tried again
	}
	if err == nil {
		u.count(created)
		if err := u.retainClaims(created, ordinal); err != nil {
			u.tellPod("Update", name, err)
			return err
		}
	}
	u.tellPod("Create", name, err)
	return err
}

// mend restores a pod's identity and its claims.
func (u *update) mend(pod *corev1.Pod, ordinal int) error {
	changed := pod.DeepCopy()
	dirty := false
	if !identified(pod) {
		identify(changed, ordinal)
		dirty = true
	}
	if !usesClaims(u.set, pod, ordinal) {
		useClaims(u.set, changed, ordinal)
		dirty = true
		if err := u.createClaims(pod, ordinal); err != nil {
			u.tellPod("Update", pod.Name, err)
			return err
		}
	}
	if err := u.retainClaims(pod, ordinal); err != nil {
		u.tellPod("Update", pod.Name, err)
		return err
	}
	if !dirty {
		return nil
	}
	_, err := client.Update(u.ctx, u.client, changed)
	u.tellPod("Update", pod.Name, err)
	return err
}

func (u *update) delete(pod *corev1.Pod) error {
	err := u.client.Delete(u.ctx, pod, client.IfUID(pod.UID))
	if apierrors.IsNotFound(err) {
		err = nil
	}
	if err == nil {
		u.discount(pod)
	}
	u.tellPod("Delete", pod.Name, err)
	return err
}

// tellPod records what was done to a pod.
func (u *update) tellPod(verb, name string, err error) {
	switch {
	case err == nil:
		u.tell("Successful"+verb, "%s Pod %s in StatefulSet %s successful", verb, name, u.set.Name)
	case endsWithNamespace(err) != nil:
		u.warn("Failed"+verb, "%s Pod %s in StatefulSet %s failed error: %s", verb, name, u.set.Name, err)
	}
}

func (u *update) tell(reason, format string, args ...any) {
	u.recorder.Eventf(u.set, corev1.EventTypeNormal, reason, format, args...)
}

func (u *update) warn(reason, format string, args ...any) {
	u.recorder.Eventf(u.set, corev1.EventTypeWarning, reason, format, args...)
}
