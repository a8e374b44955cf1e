// Package timeline keeps in memory, with the precision of the clock, what each component did to start a pod: a master that received, admitted
// and stored it, the scheduler that placed it, the master that passed it on, the worker that started it. What the API keeps (timestamps of
// objects, conditions, events) is precise to a second. Nothing is stored on disk or replicated: after a restart of the component it is not known.
//
// A step that is added is also recorded as a span of the pod's trace, if it has one (package tracing).
package timeline

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"

	"github.com/kontiki/kontiki/internal/tracing"
)

const (
	// mostPods limits the pods that a Recorder keeps, the ones that began last, and mostSteps the steps of each: the first ones.
	mostPods  = 1024
	mostSteps = 64
	// longestText limits the bytes of each text of a step.
	longestText = 256
)

// Pod is the pod that a step is about.
type Pod struct {
	UID, Namespace, Name string
	// Trace is the value of the pod's annotation tracing.Annotation, "" if it has none.
	Trace string
}

// The names of steps, in their usual order.
const (
	Admit     = "admit"     // a request to create the pod was received, authenticated, admitted and validated
	Store     = "store"     // the pod was replicated by raft and applied
	Queue     = "queue"     // the pod waited for the scheduler
	Schedule  = "schedule"  // the scheduler decided about it
	Bind      = "bind"      // its binding was replicated
	Deliver   = "deliver"   // its worker was sent it
	Receive   = "receive"   // its worker received it
	Volumes   = "volumes"   // its volumes were mounted
	Devices   = "devices"   // its claimed devices were prepared
	Sandbox   = "sandbox"   // its namespaces and cgroups were made
	Network   = "network"   // its interface was made
	PullImage = "pull"      // an image was pulled
	Create    = "create"    // a container was created
	Start     = "start"     // a container was started
	PostStart = "poststart" // a container's postStart hook ran
	Ready     = "ready"     // the pod became ready
	Report    = "report"    // that it is ready was stored
)

// Step is something that was done, from Began to Ended; these are equal for what takes no time.
type Step struct {
	Name      string    `json:"name"`
	Container string    `json:"container,omitempty"`
	Began     time.Time `json:"began"`
	Ended     time.Time `json:"ended"`
	// Detail says more: an image, a node, how many attempts there were.
	Detail string `json:"detail,omitempty"`
	// Error is why it failed, "" if it did not.
	Error string `json:"error,omitempty"`
}

// Log is what a component knows about a pod.
type Log struct {
	// Since is when the component began to record: it knows nothing of earlier steps.
	Since time.Time `json:"since"`
	Steps []Step    `json:"steps,omitempty"`
	// Dropped is how many further steps were not kept.
	Dropped int `json:"dropped,omitempty"`
}

// Recorder keeps the steps of the pods that began last. A nil Recorder keeps none. It is safe for concurrent use.
type Recorder struct {
	tracer *tracing.Tracer
	since  time.Time

	mu   sync.Mutex
	pods map[string]*record
	ring [mostPods]string // UIDs in the order in which they came, the oldest at next
	next int
}

type record struct {
	steps   []Step
	dropped int
}

// New returns a Recorder that also records spans with the tracer, which may be nil.
func New(tracer *tracing.Tracer) *Recorder {
	return &Recorder{tracer: tracer, since: time.Now(), pods: map[string]*record{}}
}

// PodOf returns what a Recorder needs to know of a Kubernetes pod.
func PodOf[UID ~string](pod interface {
	GetUID() UID
	GetNamespace() string
	GetName() string
	GetAnnotations() map[string]string
}) Pod {
	return Pod{UID: string(pod.GetUID()), Namespace: pod.GetNamespace(), Name: pod.GetName(), Trace: pod.GetAnnotations()[tracing.Annotation]}
}

// Since returns a step that began at a time and ends now; err is why it failed, nil if it did not.
func Since(name, container string, began time.Time, detail string, err error) Step {
	s := Step{Name: name, Container: container, Began: began, Ended: time.Now(), Detail: detail}
	if err != nil {
		s.Error = err.Error()
	}
	return s
}

// Add adds a step of a pod.
func (r *Recorder) Add(pod Pod, s Step) { r.add(pod, s, false) }

// AddOnce adds a step of a pod, unless it has one of that name.
func (r *Recorder) AddOnce(pod Pod, s Step) { r.add(pod, s, true) }

func (r *Recorder) add(pod Pod, s Step, once bool) {
	if r == nil || pod.UID == "" {
		return
	}
	pod.UID = cut(pod.UID)
	s.Name, s.Container, s.Detail, s.Error = cut(s.Name), cut(s.Container), cut(s.Detail), cut(s.Error)
	if r.keep(pod.UID, s, once) && r.tracer != nil && pod.Trace != "" {
		r.record(pod, s)
	}
}

// keep keeps a step, and says whether it was new.
func (r *Recorder) keep(uid string, s Step, once bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.pods[uid]
	if known == nil {
		delete(r.pods, r.ring[r.next])
		r.ring[r.next], r.next = uid, (r.next+1)%mostPods
		known = &record{}
		r.pods[uid] = known
	}
	if once && slices.ContainsFunc(known.steps, func(have Step) bool { return have.Name == s.Name }) {
		return false
	}
	if len(known.steps) >= mostSteps {
		known.dropped++
		return true
	}
	known.steps = append(known.steps, s)
	return true
}

// record records a step as a span.
func (r *Recorder) record(pod Pod, s Step) {
	attributes := []attribute.KeyValue{attribute.String("k8s.pod.uid", pod.UID), attribute.String("k8s.namespace.name", pod.Namespace), attribute.String("k8s.pod.name", pod.Name)}
	if s.Container != "" {
		attributes = append(attributes, attribute.String("k8s.container.name", s.Container))
	}
	if s.Detail != "" {
		attributes = append(attributes, attribute.String("kontiki.detail", s.Detail))
	}
	var err error
	if s.Error != "" {
		err = errors.New(s.Error)
	}
	r.tracer.Record(pod.Trace, "pod."+s.Name, s.Began, s.Ended, err, attributes...)
}

// Known says whether a pod has steps, so that it is not one that was there before the Recorder.
func (r *Recorder) Known(uid string) bool {
	if r == nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pods[uid] != nil
}

// Of returns what is known about a pod.
func (r *Recorder) Of(uid string) Log {
	if r == nil {
		return Log{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l := Log{Since: r.since}
	if known := r.pods[uid]; known != nil {
		l.Steps, l.Dropped = append(l.Steps, known.steps...), known.dropped
	}
	return l
}

// cut returns a text with at most longestText bytes, with a copy of the rest so that the whole is not kept in memory.
func cut(s string) string {
	if len(s) <= longestText {
		return s
	}
	at := longestText
	for at > 0 && !utf8.RuneStart(s[at]) {
		at--
	}
	return strings.Clone(s[:at])
}
