// Package fence makes the volumes of a node that is lost usable elsewhere, without two nodes ever using one at once
// (docs/storage-fencing.md).
//
// Only volumes that are for one node at a time, and not bound to one node, are concerned. A worker runs the pods that use them only while it
// has a lease, which masters grant. When a node is lost:
//
//  1. This controller marks the Node with the annotation fencing. From then on no master grants the worker a lease.
//  2. It waits for longer than a lease lasts, by its own clock. A new leader's controller waits again from the beginning.
//  3. It marks the Node with fenced. The worker has stopped these pods: they are marked as failed and removed, and their volumes detached.
//  4. When the node is back and none of these pods is left, both marks are removed, and the worker gets leases again.
//
// If the node is back before step 3, the mark of step 1 is removed.
package fence

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/internal/volumes"
)

// Config has the controller's parameters.
type Config struct {
	Client   *client.Client
	Recorder record.EventRecorder
	// Now is the clock; nil means time.Now. Only differences of its monotonic readings count.
	Now func() time.Time
}

type fence struct {
	Config
	mu sync.Mutex
	// seen is when the mark of a Node was first seen, by its value.
	seen map[string]mark
}

type mark struct {
	node  types.UID
	value string
	at    time.Time
}

// margin is how much longer than a lease is waited: a tenth of it for the difference between two clocks' rates, and time for the worker to
// notice that its lease is over, to kill the pods and to write what is in memory to their volumes.
func margin(lease time.Duration) time.Duration { return lease/10 + 4*time.Second }

// New returns the controller. Its keys are those of nodes.
func New(c Config) *controller.Controller {
	if c.Now == nil {
		c.Now = time.Now
	}
	f := &fence{Config: c, seen: map[string]mark{}}
	return &controller.Controller{
		Name: "volume-fencing", Watches: []client.Object{&corev1.Node{}, &corev1.Pod{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(node *corev1.Node) bool { enqueue(controller.KeyOf(node)); return true })
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			switch obj := event.Object().(type) {
			case *corev1.Node:
				enqueue(controller.KeyOf(obj))
			case *corev1.Pod:
				enqueueMarked(v, obj.Spec.NodeName, enqueue)
			}
		},
		Reconcile: f.reconcile,
	}
}

// enqueueMarked enqueues a node if it is being fenced, or is lost.
func enqueueMarked(v client.View, name string, enqueue func(controller.Key)) {
	if node, ok := client.Get[*corev1.Node](v, "", name); ok && (marked(node, volumes.FencingNode) || lost(node)) {
		enqueue(controller.KeyOf(node))
	}
}

func marked(node *corev1.Node, annotation string) bool {
	return metav1.HasAnnotation(node.ObjectMeta, annotation)
}

// status returns the status of a node's Ready condition.
func status(node *corev1.Node) corev1.ConditionStatus {
	for i := range node.Status.Conditions {
		if c := &node.Status.Conditions[i]; c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

// lost says whether nothing is heard from a node.
func lost(node *corev1.Node) bool { return status(node) == corev1.ConditionUnknown }

func (f *fence) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	node, ok := client.Get[*corev1.Node](v, "", key.Name)
	if !ok || !marked(node, volumes.FencingNode) {
		f.forget(key.Name)
	}
	switch {
	case !ok:
		return controller.Result{}, nil
	case marked(node, volumes.FencedNode):
		return controller.Result{}, f.release(ctx, v, node)
	case marked(node, volumes.FencingNode):
		return f.wait(ctx, node)
	case lost(node):
		return controller.Result{}, f.begin(ctx, v, node)
	}
	return controller.Result{}, nil
}

// begin marks a node that is lost, if there is anything to gain by that.
func (f *fence) begin(ctx context.Context, v client.View, node *corev1.Node) error {
	lease, err := time.ParseDuration(node.Annotations[volumes.LeaseOfNode])
	if err != nil || lease <= 0 {
		return nil // its worker does not stop its pods by itself: somebody must say that it is out of service
	}
	if len(f.pods(v, node)) == 0 {
		return nil
	}
	f.forget(node.Name) // of an earlier mark, whose removal may not have been seen
	return f.change(ctx, node, func(changed *corev1.Node) {
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, volumes.FencingNode, lease.String())
	})
}

// wait waits until a node's last lease is over.
func (f *fence) wait(ctx context.Context, node *corev1.Node) (controller.Result, error) {
	if !lost(node) {
		return controller.Result{}, f.change(ctx, node, func(changed *corev1.Node) { delete(changed.Annotations, volumes.FencingNode) })
	}
	lease, err := time.ParseDuration(node.Annotations[volumes.FencingNode])
	if err != nil {
		return controller.Result{}, fmt.Errorf("node %s: annotation %s: %w", node.Name, volumes.FencingNode, err)
	}
	if left := lease + margin(lease) - f.since(node); left > 0 {
		return controller.Result{After: left}, nil
	}
	err = f.change(ctx, node, func(changed *corev1.Node) {
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, volumes.FencedNode, f.Now().UTC().Format(time.RFC3339))
	})
	if err == nil {
		f.Recorder.Event(&corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}, corev1.EventTypeWarning, "NodeFenced",
			"The node has stopped the pods that use volumes for one node at a time; these volumes may be used elsewhere")
	}
	return controller.Result{}, err
}

// since returns for how long the present mark of a node has been known here.
func (f *fence) since(node *corev1.Node) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.Now()
	value := node.Annotations[volumes.FencingNode]
	if m, ok := f.seen[node.Name]; !ok || m.node != node.UID || m.value != value {
		f.seen[node.Name] = mark{node.UID, value, now}
		return 0
	}
	return now.Sub(f.seen[node.Name].at)
}

func (f *fence) forget(node string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.seen, node)
}

// release removes the pods that a fenced node has stopped. When none is left and the node is back, it removes the marks.
func (f *fence) release(ctx context.Context, v client.View, node *corev1.Node) error {
	pods := f.pods(v, node)
	err := controller.Each(pods, func(pod *corev1.Pod) error { return f.remove(ctx, pod) })
	if err != nil || len(pods) > 0 || lost(node) {
		return err // their events come
	}
	return f.change(ctx, node, func(changed *corev1.Node) {
		delete(changed.Annotations, volumes.FencingNode)
		delete(changed.Annotations, volumes.FencedNode)
	})
}

// pods returns the pods of a node that use volumes for one node at a time, but for those that tolerate for ever that the node is lost: their
// owners want to keep them there.
func (f *fence) pods(v client.View, node *corev1.Node) (out []*corev1.Pod) {
	volumeOf := func(namespace string) func(string) (*corev1.PersistentVolume, bool) {
		return func(name string) (*corev1.PersistentVolume, bool) {
			claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, namespace, name)
			if !ok || claim.Spec.VolumeName == "" {
				return nil, false
			}
			return client.Get[*corev1.PersistentVolume](v, "", claim.Spec.VolumeName)
		}
	}
	for _, pod := range client.PodsByNode.Any(v, node.Name) {
		if volumes.FencedPod(pod, volumeOf(pod.Namespace), false) && !staysForEver(pod) {
			out = append(out, pod)
		}
	}
	return out
}

// staysForEver says whether a pod tolerates without a limit that its node is lost.
func staysForEver(pod *corev1.Pod) bool {
	taint := &corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}
	for i := range pod.Spec.Tolerations {
		if t := &pod.Spec.Tolerations[i]; t.ToleratesTaint(klog.Background(), taint, true) {
			return t.TolerationSeconds == nil && pod.DeletionTimestamp == nil
		}
	}
	return false
}

// remove removes a pod at once. One that has not finished is marked as failed first.
func (f *fence) remove(ctx context.Context, pod *corev1.Pod) error {
	if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		changed := pod.DeepCopy()
		client.SetPodCondition(changed, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByNodeFencing",
			Message: "Node fencing: the node is lost and has stopped the pod", LastTransitionTime: metav1.Now(), ObservedGeneration: pod.Generation})
		changed.Status.Phase, changed.Status.ObservedGeneration = corev1.PodFailed, pod.Generation
		if _, err := client.UpdateStatus(ctx, f.Client, changed); err != nil {
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("mark pod %s/%s as failed: %w", pod.Namespace, pod.Name, err)
		}
	}
	err := f.Client.Delete(ctx, pod, client.IfUID(pod.UID), client.Grace(0))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// change updates a Node on condition that it has not changed.
func (f *fence) change(ctx context.Context, node *corev1.Node, change func(*corev1.Node)) error {
	changed := node.DeepCopy()
	change(changed)
	_, err := client.Update(ctx, f.Client, changed)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
