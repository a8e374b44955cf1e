// Package measure counts what the API serves, under kube-apiserver's names and labels: requests with their duration and size, those under way,
// watches, admission, authentication and what is stored.
//
// The series of a request are looked up once for each combination of labels, in a map that is read without a lock: counting a request is two
// atomic additions and two observations. The number of series is bounded: what a client can invent in a path or a method counts under empty
// labels, and so do new resources after maxSeries combinations, as when definitions of custom resources come and go for ever.
package measure

import (
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kontiki/kontiki/internal/collectors"
	"github.com/kontiki/kontiki/internal/histogram"
)

// Request is what the series of a request depend on.
type Request struct {
	// Verb is upstream's in upper case (GET, LIST, WATCH, POST, ...), "" if it is none.
	Verb                                  string
	Group, Version, Resource, Subresource string
	// Scope is "resource", "namespace" or "cluster"; "" for what is no resource.
	Scope  string
	DryRun bool
}

// maxSeries limits the combinations of labels of requests, and of watches, that are told apart until the master starts again. The resources of a
// large cluster, with all their verbs, are some thousands.
const maxSeries = 10_000

// API has the metrics of a master's API. A nil API counts nothing. It is safe for concurrent use.
type API struct {
	collectors.Group
	total                *prometheus.CounterVec
	duration, sli, sizes *prometheus.HistogramVec
	longRunning          *prometheus.GaugeVec
	watchEvents          *prometheus.CounterVec
	watchSizes           *prometheus.HistogramVec
	admission            *prometheus.HistogramVec
	rejections           *prometheus.CounterVec
	panics               prometheus.Counter
	attempts             [2]prometheus.Counter
	series               sync.Map     // Request -> *series
	watches              sync.Map     // watched -> *Watch
	requests, resources  atomic.Int64 // how many there are in the two, about
	steps                sync.Map     // step -> prometheus.Observer
}

// series are those of one combination of labels.
type series struct {
	duration, sli, size prometheus.Observer
	running             func() prometheus.Gauge // made for long-running requests only
	codes               sync.Map                // int -> prometheus.Counter
	of                  *prometheus.CounterVec
}

// The buckets are upstream's.
var (
	durations    = []float64{0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 45, 60}
	sizes        = prometheus.ExponentialBuckets(1000, 10, 7)
	admissions   = []float64{0.005, 0.025, 0.1, 0.5, 1.0, 2.5}
	ofRequest    = []string{"verb", "group", "version", "resource", "subresource", "scope", "component"}
	ofRequestDry = []string{"verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"}
)

const component = "apiserver"

// New returns metrics of which none has been counted.
func New() *API {
	m := &API{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_request_total",
			Help: "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code."}, append([]string{"code"}, ofRequestDry...)),
		duration:    histogram.Vec("apiserver_request_duration_seconds", "Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.", durations, ofRequestDry...),
		sli:         histogram.Vec("apiserver_request_sli_duration_seconds", "Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.", durations, ofRequest...),
		sizes:       histogram.Vec("apiserver_response_sizes", "Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.", sizes, ofRequest...),
		longRunning: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "apiserver_longrunning_requests", Help: "Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component."}, ofRequest),
		watchEvents: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_watch_events_total", Help: "Number of events sent in watch clients"}, []string{"group", "version", "resource"}),
		watchSizes:  histogram.Vec("apiserver_watch_events_sizes", "Watch event size distribution in bytes", prometheus.ExponentialBuckets(1024, 2, 8), "group", "version", "resource"),
		admission:   histogram.Vec("apiserver_admission_step_admission_duration_seconds", "Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).", admissions, "type", "operation", "rejected"),
		rejections: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kontiki_admission_rejections_total",
			Help: "Requests that admission refused, by the name of the step (upstream's plugin), the operation and the type (validate or admit)."}, []string{"name", "operation", "type"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{Name: "apiserver_request_panics_total", Help: "Requests that panicked; each of them is a bug, and was answered with an error."}),
	}
	tried := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "authentication_attempts", Help: "Counter of authenticated attempts."}, []string{"result"})
	m.attempts = [2]prometheus.Counter{tried.WithLabelValues("failure"), tried.WithLabelValues("success")}
	m.Group = collectors.Group{m.total, m.duration, m.sli, m.sizes, m.longRunning, m.watchEvents, m.watchSizes, m.admission, m.rejections, m.panics, tried}
	return m
}

func (m *API) of(r Request) *series {
	if known, ok := m.series.Load(r); ok {
		return known.(*series)
	}
	if m.requests.Load() >= maxSeries && r.Resource != "" {
		return m.of(Request{Verb: r.Verb, Scope: r.Scope, DryRun: r.DryRun})
	}
	dry := ""
	if r.DryRun {
		dry = "All"
	}
	plain := []string{r.Verb, r.Group, r.Version, r.Resource, r.Subresource, r.Scope, component}
	withDry := []string{r.Verb, dry, r.Group, r.Version, r.Resource, r.Subresource, r.Scope, component}
	labels := prometheus.Labels{}
	for i, name := range ofRequestDry {
		labels[name] = withDry[i]
	}
	made := &series{duration: m.duration.WithLabelValues(withDry...), sli: m.sli.WithLabelValues(plain...), size: m.sizes.WithLabelValues(plain...),
		running: sync.OnceValue(func() prometheus.Gauge { return m.longRunning.WithLabelValues(plain...) }), of: m.total.MustCurryWith(labels)}
	known, there := m.series.LoadOrStore(r, made)
	if !there {
		m.requests.Add(1)
	}
	return known.(*series)
}

// code counts an answer.
func (s *series) code(code int) {
	known, ok := s.codes.Load(code)
	if !ok {
		known, _ = s.codes.LoadOrStore(code, s.of.WithLabelValues(strconv.Itoa(code)))
	}
	known.(prometheus.Counter).Inc()
}

// End counts a request that has ended, with its duration and the bytes of its response; waited is how much of the duration it waited for its
// turn. How many are under way is told by package flow.
func (m *API) End(r Request, mutating bool, code int, took, waited time.Duration, bytes int64) {
	if m == nil {
		return
	}
	s := m.of(r)
	s.code(code)
	s.duration.Observe(took.Seconds())
	s.sli.Observe((took - waited).Seconds())
	if !mutating {
		s.size.Observe(float64(bytes))
	}
}

// Long counts a long-running request as being under way, and returns what to call with its code when it has ended.
func (m *API) Long(r Request) func(code int) {
	if m == nil {
		return func(int) {}
	}
	s := m.of(r)
	running := s.running()
	running.Inc()
	return func(code int) {
		running.Dec()
		s.code(code)
	}
}

// Panicked counts a request that panicked.
func (m *API) Panicked() {
	if m != nil {
		m.panics.Inc()
	}
}

// Authenticated counts an attempt to authenticate.
func (m *API) Authenticated(ok bool) {
	if m != nil {
		m.attempts[index(ok)].Inc()
	}
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Watch are the series of the watches of a resource. A nil Watch counts nothing.
type Watch struct {
	events prometheus.Counter
	sizes  prometheus.Observer
}

type watched struct{ group, version, resource string }

// Watch returns the series of the watches of a resource.
func (m *API) Watch(group, version, resource string) *Watch {
	if m == nil {
		return nil
	}
	key := watched{group, version, resource}
	if known, ok := m.watches.Load(key); ok {
		return known.(*Watch)
	}
	if m.resources.Load() >= maxSeries && resource != "" {
		return m.Watch("", "", "")
	}
	known, there := m.watches.LoadOrStore(key, &Watch{m.watchEvents.WithLabelValues(group, version, resource), m.watchSizes.WithLabelValues(group, version, resource)})
	if !there {
		m.resources.Add(1)
	}
	return known.(*Watch)
}

// Sent counts an event of a size in bytes.
func (w *Watch) Sent(bytes int) {
	if w != nil {
		w.events.Inc()
		w.sizes.Observe(float64(bytes))
	}
}

type step struct {
	kind, operation string
	rejected        bool
}

// Admitted counts a phase of admission ("admit" or "validate"). If the request was refused, by is the name of the step that did it.
func (m *API) Admitted(kind, operation, by string, took time.Duration) {
	if m == nil {
		return
	}
	key := step{kind, operation, by != ""}
	known, ok := m.steps.Load(key)
	if !ok {
		known, _ = m.steps.LoadOrStore(key, m.admission.WithLabelValues(kind, operation, strconv.FormatBool(key.rejected)))
	}
	known.(prometheus.Observer).Observe(took.Seconds())
	if by != "" {
		m.rejections.WithLabelValues(by, operation, kind).Inc()
	}
}
