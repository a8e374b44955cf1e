// Package nodelifecycle monitors the health of nodes and maintains conditions, taints and evictions accordingly.
//
// Five controllers share the work, each stateless except for timers:
//
//	health    a node that is not heard from gets its Ready condition set to Unknown
//	taints    conditions -> taints
//	readiness pods on a node that is no longer ready are not ready, so that they are removed from endpoints
//	eviction  NoExecute taints -> pods that do not tolerate them (any longer) are deleted
//	podgc     pods whose node does not exist, and old finished ones, are removed
//
// Kontiki's workers are judged by hints (sessions with masters, gossip) that must be confirmed by probes over a period: a hint
// alone moves no pod, and neither does a lost packet, a pause, or a restart of the agent. A node that renews a Lease (a stock
// kubelet, KWOK) is judged by that Lease; a node with neither is probed after a grace period. Nothing else is periodic, and a
// healthy cluster causes no work here.
//
// Evictions caused by nodes' health are rate-limited by zones, as upstream; see zones.
//
// A node that was disconnected reports Ready=True itself when it is back; no other component does. Its pods were deleted gracefully
// meanwhile, but their end has not been confirmed: they stay, terminating, until the node is back or its Node object is removed, as
// in Kubernetes.
package nodelifecycle

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// State is the believed state of a worker.
type State string

const (
	Alive State = "alive"
	// Suspect means that there is a sign of a failure, such as a broken session. It is often harmless: the worker may be changing
	// masters, or its agent may be restarting.
	Suspect State = "suspect"
	// Dead means that several hosts agree on it after a delay (gossip).
	Dead State = "dead"
	// Left means that it stopped on purpose. It may be back in a moment.
	Left State = "left"
)

// Member is one of Kontiki's workers. Its name is its node's.
type Member struct {
	Name  string
	State State
	Since time.Time
}

// Hints report the workers' states according to sessions and gossip. Each is confirmed before it has consequences.
type Hints interface {
	// Members returns all known workers.
	Members() []Member
	// Next waits for the next change and returns the member's present state. Changes between the beginning of the stream and the
	// call are returned too.
	Next(ctx context.Context) (Member, error)
}

// Config has the parameters of the controllers. Zero durations mean the defaults.
type Config struct {
	Client   *client.Client
	Recorder record.EventRecorder
	Hints    Hints
	// Probe asks a node's agent whether it is alive: nil means that it answered. It must obey the context's deadline.
	Probe func(ctx context.Context, node *corev1.Node) error

	// ProbeTimeout limits one probe (1.5 s). ProbePause is the time between the starts of two probes, and before the first one of a
	// suspect (1 s). ProbeAgain is when a node in doubt that has answered is checked again (5 s).
	ProbeTimeout, ProbePause, ProbeAgain time.Duration
	// ConfirmPeriod is how long a suspect must answer no probe to count as lost (5 s). A worker that left has twice as long: it may
	// be restarting. A worker that several hosts report as dead need only fail two probes.
	ConfirmPeriod time.Duration
	// SessionGrace is how long a worker may have no session with any master while it answers probes (60 s). It keeps its pods meanwhile, but
	// pods that are bound to it do not start, as it is not told of them.
	SessionGrace time.Duration
	// LeaseGrace is the age at which a Lease counts as expired (40 s).
	LeaseGrace time.Duration
	// StartupGrace is how long a node without a Lease may be missing from gossip (60 s).
	StartupGrace time.Duration
	// Quarantine is how long pods are kept after their Node object is gone (40 s).
	Quarantine time.Duration
	// MaxTerminatedPods is the number of finished pods that are kept (12,500).
	MaxTerminatedPods int
	// Evictions are the rates at which nodes that are not ready are emptied; nil means DefaultEvictions.
	Evictions *Evictions
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const defaultMaxEnded = 12500

func orDefault[T comparable](value *T, fallback T) {
	var zero T
	if *value == zero {
		*value = fallback
	}
}

// New returns the controllers.
func New(c Config) []*controller.Controller {
	orDefault(&c.ProbeTimeout, 1500*time.Millisecond)
	orDefault(&c.ProbePause, time.Second)
	orDefault(&c.ProbeAgain, 5*time.Second)
	orDefault(&c.ConfirmPeriod, 5*time.Second)
	orDefault(&c.SessionGrace, 60*time.Second)
	orDefault(&c.LeaseGrace, 40*time.Second)
	orDefault(&c.StartupGrace, 60*time.Second)
	orDefault(&c.Quarantine, 40*time.Second)
	orDefault(&c.MaxTerminatedPods, defaultMaxEnded)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Evictions == nil {
		defaults := DefaultEvictions
		c.Evictions = &defaults
	}
	return []*controller.Controller{newHealth(c), newTaints(c), newReadiness(c), newEviction(c), newPodGC(c)}
}

// ready returns the status of a node's Ready condition; ok is false if it has none.
func ready(node *corev1.Node) (status corev1.ConditionStatus, ok bool) {
	if c := condition(node, corev1.NodeReady); c != nil {
		return c.Status, true
	}
	return "", false
}

func condition(node *corev1.Node, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == kind {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

func nodeOf(v client.View, name string) (*corev1.Node, bool) {
	return client.Get[*corev1.Node](v, "", name)
}

// enqueuePodsOn enqueues the pods that are assigned to a node.
func enqueuePodsOn(v client.View, node string, enqueue func(controller.Key)) {
	for _, pod := range client.PodsByNode.Any(v, node) {
		enqueue(controller.KeyOf(pod))
	}
}

// times remembers since when a state has lasted.
type times[K comparable] struct {
	mu sync.Mutex
	at map[K]time.Time
}

// first returns when a key was first passed since it was forgotten.
func (t *times[K]) first(key K, now time.Time) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, ok := t.at[key]; ok {
		return at
	}
	if t.at == nil {
		t.at = map[K]time.Time{}
	}
	t.at[key] = now
	return now
}

// forget removes a key, and says whether it was there.
func (t *times[K]) forget(key K) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.at[key]
	delete(t.at, key)
	return ok
}

func (t *times[K]) has(key K) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.at[key]
	return ok
}

func (t *times[K]) each(visit func(K)) {
	t.mu.Lock()
	keys := slices.Collect(maps.Keys(t.at))
	t.mu.Unlock()
	for _, key := range keys {
		visit(key)
	}
}
