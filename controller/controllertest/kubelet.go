package controllertest

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Kubelet acts as scheduler and as all workers: it binds pods, makes them ready, ends those that are to end, and removes those that
// are deleted.
type Kubelet struct {
	client *client.Client
	mu     sync.Mutex
	// bad pods do not become ready; kept ones are not removed when they are deleted.
	bad, keep func(*corev1.Pod) bool
	node      func(*corev1.Pod) string
	end       func(*corev1.Pod) (exitCode int32, ended bool)
}

// Option changes how a kubelet behaves.
type Option func(*Kubelet)

// Bad selects pods that do not become ready.
func Bad(bad func(*corev1.Pod) bool) Option { return func(k *Kubelet) { k.bad = bad } }

// Keep selects pods that are not removed when they are deleted.
func Keep(keep func(*corev1.Pod) bool) Option { return func(k *Kubelet) { k.keep = keep } }

// OnNode chooses the pods' nodes; without it all pods are bound to n1.
func OnNode(node func(*corev1.Pod) string) Option { return func(k *Kubelet) { k.node = node } }

// End chooses the running pods that end, and how; without it none do.
func End(end func(*corev1.Pod) (exitCode int32, ended bool)) Option {
	return func(k *Kubelet) { k.end = end }
}

// StartKubelet runs a kubelet until the test ends. Set changes the options.
func StartKubelet(t testing.TB, c *client.Client, options ...Option) *Kubelet {
	t.Helper()
	never := func(*corev1.Pod) bool { return false }
	k := &Kubelet{client: c, bad: never, keep: never, node: func(*corev1.Pod) string { return "n1" },
		end: func(*corev1.Pod) (int32, bool) { return 0, false }}
	k.Set(options...)
	Run(t, c, &controller.Controller{
		Name: "kubelet", Watches: []client.Object{&corev1.Pod{}}, Workers: 4,
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(p *corev1.Pod) bool { enqueue(controller.KeyOf(p)); return true })
		},
		Enqueue: func(_ client.View, e client.Event, enqueue func(controller.Key)) {
			if e.New != nil {
				enqueue(controller.KeyOf(e.New))
			}
		},
		Reconcile: k.reconcile,
	})
	return k
}

// Set changes the options. They take effect at a pod's next change.
func (k *Kubelet) Set(options ...Option) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, o := range options {
		o(k)
	}
}

func (k *Kubelet) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	pod, ok := client.Get[*corev1.Pod](v, key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	k.mu.Lock()
	bad, keep, node := k.bad(pod), k.keep(pod), k.node(pod)
	exitCode, ended := k.end(pod)
	k.mu.Unlock()
	finished := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	switch {
	case pod.DeletionTimestamp != nil && !keep && len(pod.Finalizers) > 0 && pod.Spec.NodeName != "" && !finished:
		changed := pod.DeepCopy()
		Terminate(changed, 143)
		_, err := client.UpdateStatus(ctx, k.client, changed)
		return controller.Result{}, err
	case pod.DeletionTimestamp != nil && !keep && (pod.DeletionGracePeriodSeconds == nil || *pod.DeletionGracePeriodSeconds > 0):
		err := k.client.Delete(ctx, pod, client.Grace(0), client.IfUID(pod.UID))
		if apierrors.IsNotFound(err) {
			err = nil
		}
		return controller.Result{}, err
	case pod.DeletionTimestamp != nil, finished:
		return controller.Result{}, nil
	case pod.Spec.NodeName == "" && node != "":
		return controller.Result{}, k.client.Bind(ctx, pod, node)
	case pod.Spec.NodeName != "" && pod.Status.PodIP == "":
		changed := pod.DeepCopy()
		MakeReady(changed, !bad)
		_, err := client.UpdateStatus(ctx, k.client, changed)
		return controller.Result{}, err
	case pod.Spec.NodeName != "" && ended:
		changed := pod.DeepCopy()
		Terminate(changed, exitCode)
		_, err := client.UpdateStatus(ctx, k.client, changed)
		return controller.Result{}, err
	}
	return controller.Result{}, nil
}

// Terminate gives a pod the status of one whose containers have ended.
func Terminate(pod *corev1.Pod, exitCode int32) {
	pod.Status.Phase = corev1.PodSucceeded
	if exitCode != 0 {
		pod.Status.Phase = corev1.PodFailed
	}
	pod.Status.ContainerStatuses = nil
	for _, c := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: c.Image,
			State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: exitCode, FinishedAt: metav1.Now()}}})
	}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady && c.Status != corev1.ConditionFalse {
			c.Status, c.LastTransitionTime = corev1.ConditionFalse, metav1.Now()
		}
	}
}

// MakeReady gives a pod the status of a running one, ready or not.
func MakeReady(pod *corev1.Pod, ready bool) {
	h := fnv.New32a()
	h.Write([]byte(pod.UID))
	n := h.Sum32()
	pod.Status.Phase = corev1.PodRunning
	pod.Status.PodIP = fmt.Sprintf("10.%d.%d.%d", n>>16&255, n>>8&255, n&255)
	pod.Status.PodIPs = []corev1.PodIP{{IP: pod.Status.PodIP}}
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			if c.Status != status {
				c.Status, c.LastTransitionTime = status, metav1.Now()
			}
			return
		}
	}
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.Now()})
}
