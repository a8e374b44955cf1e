// Package eventttl deletes events that are an hour old. Events cannot expire inside the replicated state machine, which has no
// clock; so the leader deletes them, in batches, when the oldest one is due.
package eventttl

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// TTL is how long an event is kept after its last occurrence.
const TTL = time.Hour

// batch is the shortest time between two sweeps, so that many events are deleted at a time.
const batch = 10 * time.Second

// Config has the parameters of the controller.
type Config struct {
	Client *client.Client
	// TTL and Batch, if not 0, replace the defaults; Now, if not nil, replaces the clock.
	TTL, Batch time.Duration
	Now        func() time.Time
}

type entry struct {
	key controller.Key
	uid types.UID
}

// expiry has the time when each event is due.
type expiry struct {
	Config
	mu    sync.Mutex
	due   map[entry]time.Time
	armed bool // a sweep is scheduled
}

// sweep is the controller's only key.
var sweep = controller.Key{Name: "sweep"}

// New returns the controller.
func New(c Config) *controller.Controller {
	if c.TTL == 0 {
		c.TTL = TTL
	}
	if c.Batch == 0 {
		c.Batch = batch
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	e := &expiry{Config: c, due: map[entry]time.Time{}}
	return &controller.Controller{
		Name: "event-ttl", Watches: []client.Object{&corev1.Event{}}, Workers: 1,
		Start: e.start, Enqueue: e.enqueue, Reconcile: e.reconcile,
	}
}

// happened returns the time of an event's last occurrence.
func happened(e *corev1.Event) time.Time {
	last := e.CreationTimestamp.Time
	for _, t := range []time.Time{e.LastTimestamp.Time, e.EventTime.Time} {
		if t.After(last) {
			last = t
		}
	}
	if e.Series != nil && e.Series.LastObservedTime.After(last) {
		last = e.Series.LastObservedTime.Time
	}
	return last
}

func (e *expiry) start(v client.View, enqueue func(controller.Key)) {
	e.mu.Lock()
	clear(e.due)
	client.Each(v, "", func(ev *corev1.Event) bool {
		e.due[entry{controller.KeyOf(ev), ev.UID}] = happened(ev).Add(e.TTL)
		return true
	})
	e.armed = len(e.due) > 0
	e.mu.Unlock()
	enqueue(sweep)
}

func (e *expiry) enqueue(_ client.View, event client.Event, enqueue func(controller.Key)) {
	ev := event.Object().(*corev1.Event)
	at := entry{controller.KeyOf(ev), ev.UID}
	e.mu.Lock()
	defer e.mu.Unlock()
	if event.New == nil {
		delete(e.due, at)
		return
	}
	e.due[at] = happened(ev).Add(e.TTL)
	if !e.armed {
		e.armed = true
		enqueue(sweep)
	}
}

// reconcile deletes the events that are due, and schedules a sweep for the next one.
func (e *expiry) reconcile(ctx context.Context, v client.View, _ controller.Key) (controller.Result, error) {
	now := e.Now()
	var over []entry
	var next time.Time
	e.mu.Lock()
	for at, due := range e.due {
		if !due.After(now) {
			over = append(over, at)
		} else if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	e.armed = len(e.due) > 0
	e.mu.Unlock()
	err := controller.Each(over, func(at entry) error {
		stored, ok := client.Get[*corev1.Event](v, at.key.Namespace, at.key.Name)
		if ok && stored.UID == at.uid && happened(stored).Add(e.TTL).After(now) {
			return nil // it occurred again, and its change is about to be delivered
		}
		obj := &corev1.Event{}
		obj.Namespace, obj.Name = at.key.Namespace, at.key.Name
		err := e.Client.Delete(ctx, obj, client.IfUID(at.uid))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
		e.mu.Lock()
		delete(e.due, at)
		e.mu.Unlock()
		return nil
	})
	if err != nil || !e.left() {
		return controller.Result{}, err
	}
	return controller.Result{After: max(next.Sub(now), e.Batch)}, nil
}

// left says whether another sweep is needed; if not, the next event schedules one.
func (e *expiry) left() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.armed = len(e.due) > 0
	return e.armed
}
