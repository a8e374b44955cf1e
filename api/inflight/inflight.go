// Package inflight limits how many requests the API serves at a time, those of both fronts together, like WithMaxInFlightLimit in
// upstream's k8s.io/apiserver/pkg/server/filters. Requests of controllers, the scheduler and the workers' sessions do not come
// through a front, and are not limited.
package inflight

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Upstream's default limits.
const (
	DefaultReadOnly = 400
	DefaultMutating = 200
)

// retryAfterSeconds is the delay after which a refused client should try again.
const retryAfterSeconds = 1

// Limits limits the number of requests that are served at a time. It is safe for concurrent use; nil means no limits.
type Limits struct {
	readOnly, mutating kind
	bodies             bodies
}

// kind is a class of requests that share a limit.
type kind struct {
	places  chan struct{} // nil means no limit
	current prometheus.GaugeFunc
	dropped prometheus.Counter
}

// New creates Limits; zero means no limit.
func New(readOnly, mutating int) *Limits {
	return &Limits{readOnly: newKind("readOnly", readOnly), mutating: newKind("mutating", mutating)}
}

func newKind(name string, limit int) kind {
	k := kind{}
	if limit > 0 {
		k.places = make(chan struct{}, limit)
	}
	labels := prometheus.Labels{"request_kind": name}
	k.current = prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "apiserver_current_inflight_requests", ConstLabels: labels,
		Help: "Number of currently used inflight request limit of this apiserver per request kind."}, func() float64 { return float64(len(k.places)) })
	k.dropped = prometheus.NewCounter(prometheus.CounterOpts{Name: "apiserver_dropped_requests_total", ConstLabels: labels,
		Help: "Number of requests dropped with 'Try again later' response."})
	return k
}

// Place is a slot that a request holds while it is served. The zero Place holds none.
type Place struct{ of chan struct{} }

// Leave releases the slot.
func (p Place) Leave() {
	if p.of != nil {
		<-p.of
	}
}

// Enter takes a slot for a request, or returns the error TooManyRequests. Members of system:masters are always served.
func (l *Limits) Enter(mutating bool, who user.Info) (Place, error) {
	if l == nil {
		return Place{}, nil
	}
	k := &l.readOnly
	if mutating {
		k = &l.mutating
	}
	if k.places == nil {
		return Place{}, nil
	}
	select {
	case k.places <- struct{}{}:
		return Place{k.places}, nil
	default:
	}
	if slices.Contains(who.GetGroups(), user.SystemPrivilegedGroup) {
		return Place{}, nil
	}
	k.dropped.Inc()
	return Place{}, apierrors.NewTooManyRequests("Too many requests, please try again later.", retryAfterSeconds)
}

// Describe implements prometheus.Collector.
func (l *Limits) Describe(to chan<- *prometheus.Desc) {
	for _, k := range []*kind{&l.readOnly, &l.mutating} {
		k.current.Describe(to)
		k.dropped.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (l *Limits) Collect(to chan<- prometheus.Metric) {
	for _, k := range []*kind{&l.readOnly, &l.mutating} {
		k.current.Collect(to)
		k.dropped.Collect(to)
	}
}
