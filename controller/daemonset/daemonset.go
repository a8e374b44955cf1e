// Package daemonset runs one pod of each DaemonSet on every node that is to have one. The scheduler binds these pods: their node
// affinity names the node.
//
// The rules are upstream's (k8s.io/kubernetes/pkg/controller/daemon).
package daemonset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/configrollout"
	"github.com/kontiki/kontiki/controller/history"
	"github.com/kontiki/kontiki/controller/owned"
	"github.com/kontiki/kontiki/controller/pods"
)

var gvk = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

const (
	// burst limits how many pods one reconciliation creates, and how many it deletes, as upstream does.
	burst = 250
	// A pod that failed is deleted, so that another one is tried, after a pause that doubles: a node that refuses it would otherwise
	// be asked without end.
	firstPause, longestPause = time.Second, 15 * time.Minute
)

type reconciler struct {
	client  *client.Client
	control pods.Control
	now     func() time.Time
	failed  *flowcontrol.Backoff
}

// New returns the controller.
func New(c *client.Client, recorder record.EventRecorder) *controller.Controller {
	r := &reconciler{c, pods.Control{Client: c, Recorder: recorder}, time.Now, flowcontrol.NewBackOff(firstPause, longestPause)}
	return &controller.Controller{
		Name:    "daemonset",
		Watches: []client.Object{&appsv1.DaemonSet{}, &appsv1.ControllerRevision{}, &corev1.Pod{}, &corev1.Node{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(ds *appsv1.DaemonSet) bool {
				enqueue(controller.KeyOf(ds))
				return true
			})
		},
		Enqueue: enqueue, Reconcile: r.reconcile, Workers: 2,
	}
}

func enqueue(v client.View, event client.Event, add func(controller.Key)) {
	switch obj := event.Object().(type) {
	case *appsv1.DaemonSet:
		add(controller.KeyOf(obj))
	case *corev1.Node:
		before, _ := event.Old.(*corev1.Node)
		after, _ := event.New.(*corev1.Node)
		if before != nil && after != nil && apiequality.Semantic.DeepEqual(before.Labels, after.Labels) && apiequality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints) {
			return
		}
		client.Each(v, "", func(ds *appsv1.DaemonSet) bool {
			if want := newPlacement(ds); want.on(before) != want.on(after) {
				add(controller.KeyOf(ds))
			}
			return true
		})
	default:
		owned.Enqueue(event, gvk.Kind, add, func(orphan client.Object) {
			for _, ds := range bySelector.Any(v, client.SelectorKeys(orphan.GetNamespace(), orphan.GetLabels())...) {
				if selectorOf(ds).Matches(labels.Set(orphan.GetLabels())) {
					add(controller.KeyOf(ds))
				}
			}
		})
	}
}

// bySelector finds sets by their selectors.
var bySelector = client.NewIndex(func(ds *appsv1.DaemonSet, add func(string)) { add(client.SelectorKey(ds.Namespace, selectorOf(ds))) })

func selectorOf(ds *appsv1.DaemonSet) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil || selector.Empty() {
		return labels.Nothing() // validation refuses such a selector
	}
	return selector
}

// update is one reconciliation of a set.
type update struct {
	*reconciler
	ctx        context.Context
	ds         *appsv1.DaemonSet
	want       placement
	at         time.Time
	current    *appsv1.ControllerRevision
	collisions int32
	// nodes are all nodes, by name; pods are the set's, by the node that they are on or for. Those that are finished and being
	// deleted are not among them.
	nodes  map[string]*corev1.Node
	names  []string // of nodes, and of those that pods are for, in order
	pods   map[string][]*corev1.Pod
	result controller.Result
}

func (r *reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	ds, ok := client.Get[*appsv1.DaemonSet](v, key.Namespace, key.Name)
	if !ok || ds.DeletionTimestamp != nil {
		return controller.Result{}, nil // its revisions may be gone already, so that its status cannot be known
	}
	owner := owned.Owner{Object: ds, Kind: gvk, Selector: selectorOf(ds)}
	revisions, err := history.Claim(ctx, r.client, v, owner)
	if err != nil {
		return controller.Result{}, err
	}
	claimed, err := pods.ClaimAll(ctx, r.client, v, owner, nil)
	if err != nil {
		return controller.Result{}, err
	}
	u := &update{reconciler: r, ctx: ctx, ds: ds, want: newPlacement(ds), at: r.now()}
	if wait := configrollout.Pending(ds, &ds.Spec.Template, u.at); len(revisions)+len(claimed) == 0 && wait > 0 {
		return controller.Result{After: wait}, nil
	}
	if err := u.findRevision(owner, revisions); err != nil {
		return controller.Result{}, endsWithNamespace(err)
	}
	if claimed, err = u.mergeRevisions(revisions, claimed); err != nil {
		return controller.Result{}, err
	}
	u.group(v, claimed)
	err = errors.Join(u.run(), u.truncate(revisions, claimed), u.writeStatus())
	return u.result, endsWithNamespace(err)
}

// endsWithNamespace drops an error that means that the namespace, and so the set, is being deleted.
func endsWithNamespace(err error) error {
	if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return err
}

// group groups the pods by their nodes.
func (u *update) group(v client.View, claimed []*corev1.Pod) {
	u.nodes, u.pods = map[string]*corev1.Node{}, map[string][]*corev1.Pod{}
	client.Each(v, "", func(node *corev1.Node) bool {
		u.nodes[node.Name] = node
		u.names = append(u.names, node.Name)
		return true
	})
	for _, pod := range claimed {
		if pods.Finished(pod) && pod.DeletionTimestamp != nil {
			continue
		}
		node, ok := nodeOf(pod)
		if !ok {
			continue
		}
		if u.nodes[node] == nil && len(u.pods[node]) == 0 {
			u.names = append(u.names, node)
		}
		u.pods[node] = append(u.pods[node], pod)
	}
	for _, on := range u.pods {
		slices.SortFunc(on, olderFirst)
	}
}

// olderFirst orders pods that are assigned before others, and then older ones first.
func olderFirst(a, b *corev1.Pod) int {
	if (a.Spec.NodeName != "") != (b.Spec.NodeName != "") {
		if a.Spec.NodeName != "" {
			return -1
		}
		return 1
	}
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// change is what a reconciliation does: the nodes that get a pod, and the pods that are deleted.
type change struct {
	create []string
	delete []*corev1.Pod
}

// run brings the pods one step closer to what the set declares. A roll-out goes on only when nothing else is to be done.
func (u *update) run() error {
	c := u.manage()
	if len(c.create)+len(c.delete) == 0 && u.ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		var err error
		if c, err = u.roll(); err != nil {
			return err
		}
	}
	return u.apply(c)
}

func (u *update) apply(c change) error {
	_, createErr := pods.SlowStart(c.create[:min(len(c.create), burst)], func(node string) error {
		return u.control.Create(u.ctx, u.ds, u.newPod(node))
	})
	deleteErr := controller.Each(c.delete[:min(len(c.delete), burst)], func(pod *corev1.Pod) error {
		return u.control.Delete(u.ctx, u.ds, pod)
	})
	return errors.Join(createErr, deleteErr)
}

// manage returns what is to be done on each node beyond roll-outs.
func (u *update) manage() (c change) {
	for _, name := range u.names {
		node := u.nodes[name]
		if node == nil {
			// Pods that were never bound to a node that is gone can never be, and no other component removes them.
			for _, pod := range u.pods[name] {
				if pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
					c.delete = append(c.delete, pod)
				}
			}
			continue
		}
		on, here := u.want.on(node), u.pods[name]
		switch {
		case on.run && len(here) == 0:
			c.create = append(c.create, name)
		case !on.stay:
			for _, pod := range here {
				if pod.DeletionTimestamp == nil {
					c.delete = append(c.delete, pod)
				}
			}
		default:
			u.manageNode(name, on, &c)
		}
	}
	return c
}

// manageNode deletes failed and surplus pods of a node that may have one.
func (u *update) manageNode(name string, on eligibility, c *change) {
	var running []*corev1.Pod
	for _, pod := range u.pods[name] {
		switch {
		case pod.DeletionTimestamp != nil:
		case pod.Status.Phase == corev1.PodFailed:
			if u.paused(name) {
				continue
			}
			u.control.Recorder.Eventf(u.ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, name)
			c.delete = append(c.delete, pod)
		case pod.Status.Phase == corev1.PodSucceeded:
			u.control.Recorder.Eventf(u.ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, name)
			c.delete = append(c.delete, pod)
		default:
			running = append(running, pod)
		}
	}
	if !u.surges() {
		if len(running) > 1 {
			c.delete = append(c.delete, running[1:]...)
		}
		return
	}
	if len(running) == 0 && on.run {
		c.create = append(c.create, name)
	}
	if len(running) > 1 {
		c.delete = append(c.delete, u.surplus(running)...)
	}
}

// surplus returns the pods of a node beyond the oldest of the current revision and the oldest of another one. Of these two, the
// latter goes as soon as it is not ready or the former is available.
func (u *update) surplus(running []*corev1.Pod) (out []*corev1.Pod) {
	var current, old *corev1.Pod
	for _, pod := range running {
		switch isCurrent := pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == hashOf(u.current); {
		case isCurrent && current == nil:
			current = pod
		case !isCurrent && old == nil:
			old = pod
		default:
			out = append(out, pod)
		}
	}
	if current != nil && old != nil && (!pods.Ready(old) || u.available(current)) {
		out = append(out, old)
	}
	return out
}

// paused says whether the deletion of a failed pod on a node has to wait; if not, the next one will have to, for longer.
func (u *update) paused(node string) bool {
	key := fmt.Sprintf("%s/%d/%s", u.ds.UID, u.ds.Status.ObservedGeneration, node)
	if u.failed.IsInBackOffSinceUpdate(key, u.at) {
		u.again(u.failed.Get(key))
		return true
	}
	u.failed.GC()
	u.failed.Next(key, u.at)
	return false
}

// again makes the set be reconciled after a time, or earlier.
func (u *update) again(after time.Duration) {
	if after > 0 && (u.result.After == 0 || after < u.result.After) {
		u.result.After = after
	}
}

// available says whether a pod is available, and if it is ready, makes the set be reconciled when it will be.
func (u *update) available(pod *corev1.Pod) bool {
	available, after := pods.Available(pod, u.ds.Spec.MinReadySeconds, u.at)
	u.again(after)
	return available
}
