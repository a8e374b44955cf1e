package nodelifecycle

import (
	"context"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// health marks nodes as unknown that are not heard from.
type health struct {
	Config
	mu      sync.Mutex
	members map[string]Member
	renewed map[string]renewal
	doubts  map[string]*doubt
	missing times[string] // nodes without a session, a place in gossip or a Lease
	silent  times[string] // nodes that answer probes, without a session
}

// doubt describes why a node may be lost, until it answers a probe or counts as lost.
type doubt struct {
	since  time.Time
	failed int // failed probes since then
}

// minProbes is how many probes a suspect must fail; one that gossip reports as dead has already been probed by others.
const minProbes, minProbesOfDead = 3, 2

// renewal is when a Lease was last seen to change, by this master's clock: the clocks of nodes may differ.
type renewal struct {
	stamp metav1.MicroTime
	seen  time.Time
}

func newHealth(c Config) *controller.Controller {
	h := &health{Config: c, members: map[string]Member{}, renewed: map[string]renewal{}, doubts: map[string]*doubt{}}
	return &controller.Controller{
		Name: "node-health", Watches: []client.Object{&corev1.Node{}, &coordinationv1.Lease{}},
		Start: h.start, Enqueue: h.enqueue, Source: h.follow, Reconcile: h.reconcile,
		Workers: 64, // a probe of a dead node takes until its timeout, and many nodes may die at once
	}
}

func (h *health) start(v client.View, enqueue func(controller.Key)) {
	client.Each(v, corev1.NamespaceNodeLease, func(l *coordinationv1.Lease) bool {
		h.renew(l)
		return true
	})
	client.Each(v, "", func(n *corev1.Node) bool {
		enqueue(controller.KeyOf(n))
		return true
	})
}

func (h *health) enqueue(_ client.View, event client.Event, enqueue func(controller.Key)) {
	switch obj := event.Object().(type) {
	case *corev1.Node:
		if event.Old == nil {
			h.Recorder.Eventf(nodeReference(obj), corev1.EventTypeNormal, "RegisteredNode", "Node %s event: Registered Node %v in Controller", obj.Name, obj.Name)
		}
		if event.New == nil {
			h.Recorder.Eventf(nodeReference(obj), corev1.EventTypeNormal, "RemovingNode", "Node %s event: Removing Node %v from Controller", obj.Name, obj.Name)
		}
		if event.Old != nil && event.New != nil && event.Old.(*corev1.Node).Spec.Unschedulable != obj.Spec.Unschedulable {
			reason := "NodeSchedulable"
			if obj.Spec.Unschedulable {
				reason = "NodeNotSchedulable"
			}
			h.Recorder.Eventf(nodeReference(obj), corev1.EventTypeNormal, reason, "Node %s status is now: %s", obj.Name, reason)
		}
		if event.Old == nil || event.New == nil || statusChanged(event.Old.(*corev1.Node), event.New.(*corev1.Node)) {
			enqueue(controller.KeyOf(obj))
		}
	case *coordinationv1.Lease:
		if obj.Namespace != corev1.NamespaceNodeLease {
			return
		}
		if event.New == nil {
			h.mu.Lock()
			delete(h.renewed, obj.Name)
			h.mu.Unlock()
		} else if !h.renew(obj) {
			return // its node's timer is running
		}
		enqueue(controller.Key{Name: obj.Name})
	}
}

func statusChanged(a, b *corev1.Node) bool {
	x, xOK := ready(a)
	y, yOK := ready(b)
	return x != y || xOK != yOK
}

// renew records a Lease, and says whether it is new.
func (h *health) renew(l *coordinationv1.Lease) (fresh bool) {
	if l.Spec.RenewTime == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	before, ok := h.renewed[l.Name]
	if !ok || before.stamp.Before(l.Spec.RenewTime) {
		h.renewed[l.Name] = renewal{*l.Spec.RenewTime, h.Now()}
	}
	return !ok
}

// follow follows sessions and gossip.
func (h *health) follow(ctx context.Context, enqueue func(controller.Key)) error {
	note := func(m Member) {
		h.mu.Lock()
		h.members[m.Name] = m
		h.mu.Unlock()
		enqueue(controller.Key{Name: m.Name})
	}
	for _, m := range h.Hints.Members() {
		note(m)
	}
	for {
		m, err := h.Hints.Next(ctx)
		if err != nil {
			return err
		}
		note(m)
	}
}

func (h *health) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	node, ok := nodeOf(v, key.Name)
	if !ok {
		h.missing.forget(key.Name)
		h.silent.forget(key.Name)
		h.believe(key.Name)
		h.forget(key.Name)
		return controller.Result{}, nil
	}
	status, reported := ready(node)
	h.mu.Lock()
	member, isMember := h.members[node.Name]
	lease, hasLease := h.renewed[node.Name]
	h.mu.Unlock()
	now := h.Now()
	switch {
	case isMember && member.State == Alive:
		h.missing.forget(node.Name)
		h.silent.forget(node.Name)
		h.believe(node.Name)
		return controller.Result{}, nil
	case !isMember && hasLease:
		h.missing.forget(node.Name)
		if left := lease.seen.Add(h.LeaseGrace).Sub(now); left > 0 {
			return controller.Result{After: left}, nil
		}
		if err := h.markUnknown(ctx, node); err != nil {
			return controller.Result{}, err
		}
		return controller.Result{After: h.LeaseGrace}, nil // the timer continues: the Lease may be renewed again, and stop again
	case reported && status == corev1.ConditionUnknown:
		h.believe(node.Name)
		return controller.Result{}, nil // the node itself reports when it is back
	case !isMember:
		if left := h.missing.first(node.Name, now).Add(h.StartupGrace).Sub(now); left > 0 {
			return controller.Result{After: left}, nil
		}
	}
	d := h.doubt(node.Name, now)
	if left := d.since.Add(h.ProbePause).Sub(now); isMember && member.State == Suspect && left > 0 {
		return controller.Result{After: left}, nil // most are only changing masters
	}
	probe, cancel := context.WithTimeout(ctx, h.ProbeTimeout)
	err := h.Probe(probe, node)
	cancel()
	if ctx.Err() != nil {
		return controller.Result{}, ctx.Err()
	}
	if err == nil {
		h.believe(node.Name)
		left := h.silent.first(node.Name, now).Add(h.SessionGrace).Sub(h.Now())
		if left > 0 {
			return controller.Result{After: min(left, h.ProbeAgain)}, nil
		}
		// Something keeps it from the masters: an expired certificate, or a firewall that lets gossip and probes pass.
		return controller.Result{}, h.markUnknown(ctx, node)
	}
	d.failed++
	// The hints may have changed while the probe ran.
	h.mu.Lock()
	member, isMember = h.members[node.Name]
	h.mu.Unlock()
	if isMember && member.State == Alive {
		h.believe(node.Name)
		return controller.Result{}, nil
	}
	if !d.enough(h.Now(), member.State, h.ConfirmPeriod) {
		return controller.Result{After: max(h.ProbePause-h.Now().Sub(now), time.Millisecond)}, nil
	}
	h.believe(node.Name)
	return controller.Result{}, h.markUnknown(ctx, node)
}

// enough says whether a node counts as lost.
func (d *doubt) enough(now time.Time, state State, confirm time.Duration) bool {
	switch state {
	case Dead:
		return d.failed >= minProbesOfDead
	case Left:
		confirm *= 2
	}
	return d.failed >= minProbes && now.Sub(d.since) >= confirm
}

// doubt returns the doubt about a node, a new one if there was none. No other goroutine reconciles the node meanwhile.
func (h *health) doubt(name string, now time.Time) *doubt {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.doubts[name] == nil {
		h.doubts[name] = &doubt{since: now}
	}
	return h.doubts[name]
}

// believe ends the doubt about a node.
func (h *health) believe(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.doubts, name)
}

// forget removes the hints about a worker without a node. One that is alive is about to register its node.
func (h *health) forget(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.members[name].State != Alive {
		delete(h.members, name)
	}
}

// markUnknown sets the conditions that the node itself reports to Unknown, with upstream's messages.
func (h *health) markUnknown(ctx context.Context, node *corev1.Node) error {
	before, _ := ready(node)
	changed := node.DeepCopy()
	now := metav1.NewTime(h.Now())
	wrote := false
	for _, kind := range []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure} {
		c := condition(changed, kind)
		if c == nil {
			changed.Status.Conditions = append(changed.Status.Conditions, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: now,
			})
			wrote = true
		} else if c.Status != corev1.ConditionUnknown {
			c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status.", now
			wrote = true
		}
	}
	if !wrote {
		return nil
	}
	if _, err := client.UpdateStatus(ctx, h.Client, changed); err != nil {
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("mark node %s as unknown: %w", node.Name, err)
	}
	if before == corev1.ConditionTrue {
		h.Recorder.Eventf(nodeReference(node), corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: %s", node.Name, "NodeNotReady")
	}
	return nil
}

func nodeReference(node *corev1.Node) *corev1.ObjectReference {
	return &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
}
