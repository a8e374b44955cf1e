package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/pods"
	"github.com/kontiki/kontiki/node/wire"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// reporter collects what the node must report: the newest status of each pod, events, its own status. A batch is sent as soon as
// there is something to send and fewer than maxInFlight batches are unacknowledged, so batches grow only while the master is busy.
// What was not acknowledged when a session ended is sent again in the next.
type reporter struct {
	node string
	mu   sync.Mutex
	wake chan struct{}
	live bool

	pods     map[types.UID]*podReport
	events   map[string]*corev1.Event // by name
	order    []string
	nodeSeq  uint64 // incremented with each change of the node
	nodeSent uint64
	sequence uint64
	inFlight []flight
	recorder recorder
}

type podReport struct {
	pod        *corev1.Pod
	status     corev1.PodStatus
	terminated bool
}

type flight struct {
	sequence uint64
	pods     []*podReport
	events   []*corev1.Event
	nodeSeq  uint64
}

const (
	maxInFlight = 2
	maxBatch    = 500 // pods, and events, in one batch
	maxEvents   = 2000
	// maxBatchBytes limits a batch to which another object may be added. Masters accept messages of 2 MiB; no object is larger than 512 KiB.
	maxBatchBytes = 1 << 20
)

func newReporter(node string) *reporter {
	return &reporter{node: node, wake: make(chan struct{}, 1), pods: map[types.UID]*podReport{}, events: map[string]*corev1.Event{}, recorder: newRecorder(node)}
}

func (r *reporter) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// PodStatus implements pods.Sink.
func (r *reporter) PodStatus(pod *corev1.Pod, status corev1.PodStatus, terminated bool) {
	r.mu.Lock()
	r.pods[pod.UID] = &podReport{pod: pod, status: status, terminated: terminated}
	r.mu.Unlock()
	r.poke()
}

// Event implements pods.Sink.
func (r *reporter) Event(e pods.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ev := r.recorder.record(e, time.Now())
	if ev == nil {
		return
	}
	r.putEvent(ev)
	r.poke()
}

// nodeEvent records an event about the node.
func (r *reporter) nodeEvent(kind, reason, message string) {
	now := time.Now()
	stamp := metav1.NewTime(now.Truncate(time.Second))
	r.mu.Lock()
	r.putEvent(&corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: fmt.Sprintf("%v.%x", r.node, now.UnixNano()), Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: r.node, UID: types.UID(r.node)}, // as kubelets name it
		Reason:         reason, Message: message, Type: kind, Count: 1, FirstTimestamp: stamp, LastTimestamp: stamp,
		Source: corev1.EventSource{Component: eventSource, Host: r.node}, ReportingController: eventSource, ReportingInstance: r.node,
	})
	r.mu.Unlock()
	r.poke()
}

func (r *reporter) putEvent(ev *corev1.Event) {
	if r.events[ev.Name] == nil {
		if len(r.order) >= maxEvents {
			delete(r.events, r.order[0])
			r.order = r.order[1:]
		}
		r.order = append(r.order, ev.Name)
	}
	r.events[ev.Name] = ev
}

func (r *reporter) nodeChanged() {
	r.mu.Lock()
	r.nodeSeq++
	r.mu.Unlock()
	r.poke()
}

// begin starts a session: sequence numbers start at 1, and what was in flight is to be sent again.
func (r *reporter) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requeue()
	r.sequence, r.live = 0, true
	r.nodeSent = r.nodeSeq // Hello contained it
	r.poke()
}

func (r *reporter) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requeue()
	r.live = false
}

// requeue makes what is in flight be sent again. Two batches may have reports of one pod: the newest one counts, so they are taken back in
// the opposite order.
func (r *reporter) requeue() {
	for _, f := range slices.Backward(r.inFlight) {
		for _, p := range f.pods {
			if r.pods[p.pod.UID] == nil { // a newer one takes precedence
				r.pods[p.pod.UID] = p
			}
		}
		for _, e := range f.events {
			if r.events[e.Name] == nil {
				r.putEvent(e)
			}
		}
	}
	r.inFlight = nil
}

func (r *reporter) acknowledge(sequence uint64) {
	r.mu.Lock()
	for len(r.inFlight) > 0 && r.inFlight[0].sequence <= sequence {
		r.inFlight = r.inFlight[1:]
	}
	r.mu.Unlock()
	r.poke()
}

// next waits for something to report and returns it as a batch.
func (r *reporter) next(ctx context.Context, node func() *corev1.Node) (*nodev1.StatusBatch, error) {
	for {
		if b := r.take(node); b != nil {
			return b, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.wake:
		}
	}
}

func (r *reporter) take(node func() *corev1.Node) *nodev1.StatusBatch {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.live || len(r.inFlight) >= maxInFlight || len(r.pods) == 0 && len(r.order) == 0 && r.nodeSent == r.nodeSeq {
		return nil
	}
	r.sequence++
	b := &nodev1.StatusBatch{Sequence: r.sequence}
	f := flight{sequence: r.sequence, nodeSeq: r.nodeSeq}
	size := 0
	for uid, p := range r.pods {
		if len(b.Pods) == maxBatch || size >= maxBatchBytes {
			break
		}
		delete(r.pods, uid)
		o := &corev1.Pod{Status: p.status}
		o.Namespace, o.Name, o.UID, o.Generation = p.pod.Namespace, p.pod.Name, p.pod.UID, p.pod.Generation
		raw, err := wire.Encode("v1", "Pod", o)
		if err != nil {
			slog.Error("encode pod status", "namespace", o.Namespace, "pod", o.Name, "err", err)
			continue
		}
		b.Pods = append(b.Pods, &nodev1.PodStatus{Namespace: o.Namespace, Name: o.Name, Uid: string(o.UID), Status: raw, Terminated: p.terminated})
		f.pods = append(f.pods, p)
		size += len(raw)
	}
	n := 0
	for ; n < min(len(r.order), maxBatch) && size < maxBatchBytes; n++ {
		name := r.order[n]
		ev := r.events[name]
		delete(r.events, name)
		raw, err := wire.Encode("v1", "Event", ev)
		if err != nil {
			continue
		}
		b.Events = append(b.Events, raw)
		size += len(raw)
		f.events = append(f.events, ev)
	}
	r.order = r.order[n:]
	if r.nodeSent != r.nodeSeq {
		r.nodeSent = r.nodeSeq
		if raw, err := wire.Encode("v1", "Node", node()); err == nil {
			b.NodeStatus = raw
		}
	}
	r.inFlight = append(r.inFlight, f)
	return b
}

// recorder converts what workers record to Event objects: an event that repeats increments the count of one object, and events that
// a pod repeats too often are dropped, as upstream's correlator does.
type recorder struct {
	node    string
	seen    map[string]*corev1.Event
	order   []string
	buckets map[types.UID]*bucket
}

type bucket struct {
	tokens float64
	last   time.Time
}

const (
	maxSeen     = 2000
	burst       = 25
	refill      = 1.0 / 300 // per second
	sameWithin  = 10 * time.Minute
	eventSource = "kubelet"
)

func newRecorder(node string) recorder {
	return recorder{node: node, seen: map[string]*corev1.Event{}, buckets: map[types.UID]*bucket{}}
}

func (r *recorder) record(e pods.Event, now time.Time) *corev1.Event {
	b := r.buckets[e.Pod.UID]
	if b == nil {
		if len(r.buckets) > maxSeen {
			clear(r.buckets)
		}
		b = &bucket{tokens: burst, last: now}
		r.buckets[e.Pod.UID] = b
	}
	b.tokens = min(burst, b.tokens+now.Sub(b.last).Seconds()*refill)
	b.last = now
	if b.tokens < 1 {
		return nil
	}
	b.tokens--
	stamp := metav1.NewTime(now.Truncate(time.Second))
	k := fmt.Sprintf("%s\x00%s\x00%s\x00%s\x00%s", e.Pod.UID, e.FieldPath, e.Type, e.Reason, e.Message)
	if old := r.seen[k]; old != nil && now.Sub(old.LastTimestamp.Time) < sameWithin {
		ev := old.DeepCopy()
		ev.Count++
		ev.LastTimestamp = stamp
		r.seen[k] = ev
		return ev
	}
	namespace := e.Pod.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	ev := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%v.%x", e.Pod.Name, now.UnixNano()), Namespace: namespace},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: e.Pod.Namespace, Name: e.Pod.Name, UID: e.Pod.UID,
			ResourceVersion: e.Pod.ResourceVersion, FieldPath: e.FieldPath},
		Reason: e.Reason, Message: e.Message, Type: e.Type, Count: 1, FirstTimestamp: stamp, LastTimestamp: stamp,
		Source: corev1.EventSource{Component: eventSource, Host: r.node}, ReportingController: eventSource, ReportingInstance: r.node,
	}
	if len(ev.Message) > 1024 {
		ev.Message = ev.Message[:1024]
	}
	if len(r.order) >= maxSeen {
		delete(r.seen, r.order[0])
		r.order = r.order[1:]
	}
	r.seen[k] = ev
	r.order = append(r.order, k)
	return ev
}
