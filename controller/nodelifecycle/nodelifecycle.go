// Package nodelifecycle follows the health of nodes and draws the conclusions: conditions, taints, evictions.
//
// Five controllers share the work, each stateless but for timers:
//
//	health    a node that is not heard of gets its Ready condition set to Unknown
//	taints    conditions -> taints
//	readiness pods on a node that ceased to be ready are not ready, so that endpoints drop them
//	eviction  NoExecute taints -> pods that do not tolerate them (any longer) are deleted
//	podgc     pods whose node does not exist, and old finished ones, are removed
//
// Who judges a node: one of our workers is judged by hints (its session with a master, gossip), confirmed by probes over a
// while: an alarm alone moves no pod, and neither does a lost packet, a pause, or a restart of the agent. A node that
// renews a Lease (a stock kubelet, KWOK) is judged by that Lease; a node with neither is probed once it has had time to
// turn up. Nothing else is periodic, and a healthy cluster costs nothing here.
//
// Evictions that follow from nodes' health are rate-limited by zones, as upstream; see zones.
//
// A node that was cut off reports Ready=True itself when it is back; nobody reports it in its place. Its pods were
// deleted with their grace meanwhile, and nobody confirmed their end: they stay, being deleted, until it is back or its
// Node object is removed. That is Kubernetes' contract.
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

// State is what is believed of a worker.
type State string

const (
	Alive State = "alive"
	// Suspect says that something speaks against a worker, such as a broken session. It often means nothing: the worker may
	// be changing masters, or its agent is starting again.
	Suspect State = "suspect"
	// Dead says that several hosts agree, after they have waited (gossip).
	Dead State = "dead"
	// Left says that it stopped on purpose. It may be back in a moment.
	Left State = "left"
)

// Member is one of our workers. Its name is its node's.
type Member struct {
	Name  string
	State State
	Since time.Time
}

// Hints tell what sessions and gossip say of workers. Each is confirmed before it has consequences.
type Hints interface {
	// Members answers all workers that are known.
	Members() []Member
	// Next waits for the next change and answers the member as it now is. Changes that happened before the call, but
	// after the stream began, are answered too.
	Next(ctx context.Context) (Member, error)
}

// Config says what to work with. The durations' zero values are the defaults.
type Config struct {
	Client   *client.Client
	Recorder record.EventRecorder
	Hints    Hints
	// Probe asks a node itself whether it is alive: nil means that it answered. It must honour the context's deadline.
	Probe func(ctx context.Context, node *corev1.Node) error

	// ProbeTimeout bounds one probe (1.5 s). ProbePause is from the start of one to the start of the next, and before the
	// first one of a suspect (1 s). ProbeAgain is until a node in doubt that answered is looked at again (5 s).
	ProbeTimeout, ProbePause, ProbeAgain time.Duration
	// ConfirmPeriod is how long a suspect must answer no probe to count as lost (5 s). One that left has twice as long: it
	// may be starting again. One that several hosts call dead need only fail two probes.
	ConfirmPeriod time.Duration
	// LeaseGrace is how old a Lease may grow (40 s).
	LeaseGrace time.Duration
	// StartupGrace is how long a node without Lease may be missing from gossip (60 s).
	StartupGrace time.Duration
	// Quarantine is how long pods outlive their Node object (40 s).
	Quarantine time.Duration
	// MaxTerminatedPods is how many finished pods are kept (12,500).
	MaxTerminatedPods int
	// Evictions says how fast nodes that are not ready are emptied; nil is DefaultEvictions.
	Evictions *Evictions
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

const defaultMaxEnded = 12500

func orDefault[T comparable](value *T, fallback T) {
	var zero T
	if *value == zero {
		*value = fallback
	}
}

// New makes the controllers.
func New(c Config) []*controller.Controller {
	orDefault(&c.ProbeTimeout, 1500*time.Millisecond)
	orDefault(&c.ProbePause, time.Second)
	orDefault(&c.ProbeAgain, 5*time.Second)
	orDefault(&c.ConfirmPeriod, 5*time.Second)
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

// readiness is the status of a node's Ready condition; ok is false if it has none.
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

// times remembers since when something is so.
type times[K comparable] struct {
	mu sync.Mutex
	at map[K]time.Time
}

// first answers when a key was first asked for since it was forgotten.
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

// forget forgets a key, and says if it was there.
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
