package flow

import (
	"sync"
	"time"
)

// Upstream's constants (k8s.io/apiserver/pkg/util/flowcontrol/request).
const (
	widest           = 10 // seats for one request
	bytesPerSeat     = 100_000
	watchersPerSeat  = 10
	durationPerEvent = 5 * time.Millisecond
)

// estimate returns the seats that a request occupies.
func (c *Control) estimate(r *Request, s *schema) width {
	w := width{seats: 1}
	if !r.readOnly() && r.Resource != "" && !(r.Resource == "serviceaccounts" && r.Subresource == "token") && r.Verb != "deletecollection" {
		watchers := c.watchers.of(r)
		s.flow.watchCount.Observe(float64(watchers))
		if watchers >= watchersPerSeat {
			w.final = (watchers + watchersPerSeat - 1) / watchersPerSeat
			work := workOf(float64(w.final), durationPerEvent)
			w.final = min(w.final, s.level.widest())
			w.extra = work.over(w.final)
		}
	}
	if r.Bytes > bytesPerSeat {
		seats := min((r.Bytes+bytesPerSeat-1)/bytesPerSeat, widest)
		w.seats = min(int(seats), s.level.widest())
	}
	s.flow.estimated.Observe(float64(w.most()))
	return w
}

// widest returns the largest number of seats for one request of the level.
func (l *level) widest() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.limits.widest == 0 {
		return widest
	}
	return min(l.limits.widest, widest)
}

// watchers counts the running watches by what they select.
type watchers struct {
	mu    sync.Mutex
	count map[watchKey]int
}

type watchKey struct{ group, resource, namespace, name string }

// of returns how many watches may be interested in what a request changes.
func (w *watchers) of(r *Request) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.count) == 0 {
		return 0
	}
	key := watchKey{group: r.Group, resource: r.Resource}
	n := w.count[key]
	if key.namespace = r.Namespace; key.namespace != "" {
		n += w.count[key]
	}
	if key.name = r.ObjectName; key.name != "" {
		n += w.count[key]
	}
	return n
}

// Watching counts a watch that has begun, until ended is called; namespace and name are "" if it is not limited to one.
func (c *Control) Watching(group, resource, namespace, name string) (ended func()) {
	if c == nil {
		return func() {}
	}
	key := watchKey{group, resource, namespace, name}
	add := func(n int) {
		c.watchers.mu.Lock()
		defer c.watchers.mu.Unlock()
		if c.watchers.count[key] += n; c.watchers.count[key] == 0 {
			delete(c.watchers.count, key)
		}
	}
	add(1)
	return func() { add(-1) }
}
