package flow

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are upstream's metrics of priority and fairness, without those that only help to debug the algorithm by histograms over
// time. Counters are kept per level and schema, so that a request updates them without a lookup.
type metrics struct {
	queueLength, waited, executed, estimated, watchCount *prometheus.HistogramVec
	dropped                                              [2]atomic.Int64

	mu    sync.Mutex
	flows map[flowKey]*flowCounters
}

type flowKey struct{ level, schema string }

// flowCounters are the metrics of the requests that one schema sends to one level.
type flowCounters struct {
	dispatched, noRoom      atomic.Int64
	rejected                [reasons]atomic.Int64
	inQueue, seatsInQueue   atomic.Int64
	executing, seats        atomic.Int64
	kinds                   [2]struct{ executing, waiting atomic.Int64 } // by kindOf
	queueLength             prometheus.Observer
	waited                  [2]prometheus.Observer // by whether the request was dispatched
	executed, executedWatch prometheus.Observer
	estimated, watchCount   prometheus.Observer
}

// The kinds of requests, as older metrics name them.
var kindNames = [2]string{"readOnly", "mutating"}

func kindOf(r *Request) int {
	if r.readOnly() {
		return 0
	}
	return 1
}

var durations = []float64{0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30}

func newMetrics() *metrics {
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "apiserver_flowcontrol_" + name, Help: help, Buckets: buckets},
			append([]string{"priority_level", "flow_schema"}, labels...))
	}
	return &metrics{
		queueLength: histogram("request_queue_length_after_enqueue", "Length of queue in the API Priority and Fairness subsystem, as seen by each request after it is enqueued", []float64{0, 10, 25, 50, 100, 250, 500, 1000}),
		waited:      histogram("request_wait_duration_seconds", "Length of time a request spent waiting in its queue", durations, "execute"),
		executed:    histogram("request_execution_seconds", "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem", durations, "type"),
		estimated:   histogram("work_estimated_seats", "Number of estimated seats (maximum of initial and final seats) associated with requests in API Priority and Fairness", []float64{1, 2, 4, 8, 16, 32, 64, 100}),
		watchCount:  histogram("watch_count_samples", "count of watchers for mutating requests in API Priority and Fairness", []float64{0, 1, 10, 100, 1000, 10000}),
		flows:       map[flowKey]*flowCounters{},
	}
}

func (m *metrics) histograms() []*prometheus.HistogramVec {
	return []*prometheus.HistogramVec{m.queueLength, m.waited, m.executed, m.estimated, m.watchCount}
}

// of returns the counters for a schema and a level.
func (m *metrics) of(key flowKey) *flowCounters {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.flows[key]; f != nil {
		return f
	}
	f := &flowCounters{
		queueLength: m.queueLength.WithLabelValues(key.level, key.schema),
		executed:    m.executed.WithLabelValues(key.level, key.schema, "regular"), executedWatch: m.executed.WithLabelValues(key.level, key.schema, "watch"),
		estimated: m.estimated.WithLabelValues(key.level, key.schema), watchCount: m.watchCount.WithLabelValues(key.level, key.schema),
	}
	f.waited[0] = m.waited.WithLabelValues(key.level, key.schema, "false")
	f.waited[1] = m.waited.WithLabelValues(key.level, key.schema, "true")
	m.flows[key] = f
	return f
}

// keep drops the counters of pairs that are not used any more and have no requests.
func (m *metrics) keep(used map[flowKey]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, f := range m.flows {
		if used[key] || f.inQueue.Load() > 0 || f.executing.Load() > 0 {
			continue
		}
		delete(m.flows, key)
		for _, h := range m.histograms() {
			h.DeletePartialMatch(prometheus.Labels{"priority_level": key.level, "flow_schema": key.schema})
		}
	}
}

func (f *flowCounters) ended(r *request, took time.Duration) {
	f.executing.Add(-1)
	f.kinds[kindOf(&r.Request)].executing.Add(-1)
	if r.Verb == "watch" {
		f.executedWatch.Observe(took.Seconds())
	} else {
		f.executed.Observe(took.Seconds())
	}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("apiserver_"+name, help, labels, nil)
}

// The metrics with a value for each level and schema.
var flowMetrics = []struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*flowCounters) *atomic.Int64
}{
	{describe("flowcontrol_dispatched_requests_total", "Number of requests executed by API Priority and Fairness subsystem", "priority_level", "flow_schema"),
		prometheus.CounterValue, func(f *flowCounters) *atomic.Int64 { return &f.dispatched }},
	{describe("flowcontrol_request_dispatch_no_accommodation_total", "Number of times a dispatch attempt resulted in a non accommodation due to lack of available seats", "priority_level", "flow_schema"),
		prometheus.CounterValue, func(f *flowCounters) *atomic.Int64 { return &f.noRoom }},
	{describe("flowcontrol_current_inqueue_requests", "Number of requests currently pending in queues of the API Priority and Fairness subsystem", "priority_level", "flow_schema"),
		prometheus.GaugeValue, func(f *flowCounters) *atomic.Int64 { return &f.inQueue }},
	{describe("flowcontrol_current_inqueue_seats", "Number of seats currently pending in queues of the API Priority and Fairness subsystem", "priority_level", "flow_schema"),
		prometheus.GaugeValue, func(f *flowCounters) *atomic.Int64 { return &f.seatsInQueue }},
	{describe("flowcontrol_current_executing_requests", "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem", "priority_level", "flow_schema"),
		prometheus.GaugeValue, func(f *flowCounters) *atomic.Int64 { return &f.executing }},
	{describe("flowcontrol_current_executing_seats", "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem", "priority_level", "flow_schema"),
		prometheus.GaugeValue, func(f *flowCounters) *atomic.Int64 { return &f.seats }},
}

// The metrics with a value for each level.
var levelMetrics = []struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*level) float64
}{
	{describe("flowcontrol_nominal_limit_seats", "Nominal number of execution seats configured for each priority level", "priority_level"),
		prometheus.GaugeValue, func(l *level) float64 { return float64(l.limits.nominal) }},
	{describe("flowcontrol_lower_limit_seats", "Configured lower bound on number of execution seats available to each priority level", "priority_level"),
		prometheus.GaugeValue, func(l *level) float64 { return float64(l.limits.least) }},
	{describe("flowcontrol_upper_limit_seats", "Configured upper bound on number of execution seats available to each priority level", "priority_level"),
		prometheus.GaugeValue, func(l *level) float64 { return float64(l.limits.most) }},
	{describe("flowcontrol_current_limit_seats", "current derived number of execution seats available to each priority level", "priority_level"),
		prometheus.GaugeValue, func(l *level) float64 { return float64(l.limits.current) }},
	{describe("flowcontrol_target_seats", "Seat allocation targets", "priority_level"),
		prometheus.GaugeValue, func(l *level) float64 { return l.limits.target }},
	{describe("flowcontrol_demand_seats_high_watermark", "High watermark, over last adjustment period, of demand_seats", "priority_level"),
		prometheus.GaugeValue, func(l *level) float64 { return float64(l.demand.highest) }},
	{describe("flowcontrol_demand_seats_average", "Time-weighted average, over last adjustment period, of demand_seats", "priority_level"),
		prometheus.GaugeValue, func(l *level) float64 { return l.demand.average }},
	{describe("flowcontrol_demand_seats_stdev", "Time-weighted standard deviation, over last adjustment period, of demand_seats", "priority_level"),
		prometheus.GaugeValue, func(l *level) float64 { return l.demand.deviation }},
	{describe("flowcontrol_demand_seats_smoothed", "Smoothed seat demands", "priority_level"),
		prometheus.GaugeValue, func(l *level) float64 { return l.demand.smoothed }},
	{describe("flowcontrol_current_r", "R(time of last change)", "priority_level"),
		prometheus.GaugeValue, func(l *level) float64 { return l.meter.float() }},
	{describe("flowcontrol_dispatch_r", "R(time of last dispatch)", "priority_level"),
		prometheus.GaugeValue, func(l *level) float64 { return l.lastDispatch.float() }},
	{describe("flowcontrol_latest_s", "S(most recently dispatched request)", "priority_level"),
		prometheus.GaugeValue, func(l *level) float64 { return l.lastReading.float() }},
	{describe("flowcontrol_epoch_advance_total", "Number of times the queueset's progress meter jumped backward", "priority_level"),
		prometheus.CounterValue, func(l *level) float64 { return float64(l.epochs) }},
}

var (
	rejectedDesc = describe("flowcontrol_rejected_requests_total", "Number of requests rejected by API Priority and Fairness subsystem", "priority_level", "flow_schema", "reason")
	fractionDesc = describe("flowcontrol_seat_fair_frac", "Fair fraction of server's concurrency to allocate to each priority level that can use it")
	inFlightDesc = describe("current_inflight_requests", "Number of currently used inflight request limit of this apiserver per request kind.", "request_kind")
	inQueueDesc  = describe("current_inqueue_requests", "Number of requests queued in this apiserver per request kind.", "request_kind")
	droppedDesc  = describe("dropped_requests_total", "Number of requests dropped with 'Try again later' response.", "request_kind")
)

// Describe implements prometheus.Collector.
func (c *Control) Describe(to chan<- *prometheus.Desc) {
	for _, h := range c.metrics.histograms() {
		h.Describe(to)
	}
	for _, m := range flowMetrics {
		to <- m.desc
	}
	for _, m := range levelMetrics {
		to <- m.desc
	}
	for _, d := range []*prometheus.Desc{rejectedDesc, fractionDesc, inFlightDesc, inQueueDesc, droppedDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *Control) Collect(to chan<- prometheus.Metric) {
	for _, h := range c.metrics.histograms() {
		h.Collect(to)
	}
	c.metrics.collect(to)
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, l := range c.levels {
		l.mu.Lock()
		l.sync()
		for _, m := range levelMetrics {
			to <- prometheus.MustNewConstMetric(m.desc, m.kind, m.of(l), name)
		}
		l.mu.Unlock()
	}
	to <- prometheus.MustNewConstMetric(fractionDesc, prometheus.GaugeValue, c.fraction)
}

func (m *metrics) collect(to chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var executing, waiting [2]int64
	for key, f := range m.flows {
		for _, one := range flowMetrics {
			to <- prometheus.MustNewConstMetric(one.desc, one.kind, float64(one.of(f).Load()), key.level, key.schema)
		}
		for reason, name := range reasonNames {
			to <- prometheus.MustNewConstMetric(rejectedDesc, prometheus.CounterValue, float64(f.rejected[reason].Load()), key.level, key.schema, name)
		}
		for kind := range kindNames {
			executing[kind] += f.kinds[kind].executing.Load()
			waiting[kind] += f.kinds[kind].waiting.Load()
		}
	}
	for kind, name := range kindNames {
		to <- prometheus.MustNewConstMetric(inFlightDesc, prometheus.GaugeValue, float64(executing[kind]), name)
		to <- prometheus.MustNewConstMetric(inQueueDesc, prometheus.GaugeValue, float64(waiting[kind]), name)
		to <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, float64(m.dropped[kind].Load()), name)
	}
}
