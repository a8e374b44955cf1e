package scheduler

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/contain"
)

// concurrentWrites limits the bindings and status updates in flight: enough to fill raft batches.
const concurrentWrites = 64

// Config has the parameters of a Scheduler.
type Config struct {
	Client   *client.Client
	Recorder record.EventRecorder
	// Name is the schedulerName of the pods to schedule; "" means default-scheduler.
	Name string
	Log  *slog.Logger
}

// Scheduler schedules while Run runs.
type Scheduler struct {
	Config
	now func() time.Time

	mu    sync.Mutex
	cache *cache
	queue *queue
	// fit and scores are reused memory: the nodes that fit the present pod, and their scores.
	fit    []*nodeInfo
	scores []int64
	// work is signalled when the queue may have something to do.
	work   chan struct{}
	writes chan struct{}
}

// New creates a Scheduler.
func New(c Config) *Scheduler {
	if c.Name == "" {
		c.Name = corev1.DefaultSchedulerName
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Scheduler{Config: c, now: time.Now, work: make(chan struct{}, 1), writes: make(chan struct{}, concurrentWrites)}
}

// Run schedules until the context ends, and returns when no write is in flight any more.
func (s *Scheduler) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return contain.Run(func() error {
			return s.Client.ViewAndWatch(ctx, []client.Object{&corev1.Pod{}, &corev1.Node{}, &corev1.Namespace{}}, s.start, s.observe)
		})
	})
	group.Go(func() error { return contain.Run(func() error { return s.loop(ctx) }) })
	return group.Wait()
}

// start builds cache and queue from a view.
func (s *Scheduler) start(v client.View) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache, s.queue = newCache(), newQueue()
	client.Each(v, "", func(node *corev1.Node) bool {
		s.contained(node, func() { s.cache.setNode(node) })
		return true
	})
	client.Each(v, "", func(pod *corev1.Pod) bool {
		s.contained(pod, func() { s.observePod(nil, pod) })
		return true
	})
	s.signal()
	return nil
}

func (s *Scheduler) signal() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// observe applies events to cache and queue.
func (s *Scheduler) observe(events []client.Event) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, event := range events {
		s.contained(event.Object(), func() { s.observeOne(event) })
	}
	s.signal()
	return nil
}

// contained calls look for an object, and skips it with an error in the log if that panics: the others are still scheduled.
func (s *Scheduler) contained(obj client.Object, look func()) {
	err := contain.Run(func() error {
		look()
		return nil
	})
	if err != nil {
		s.Log.Error("an object made the scheduler panic and was skipped", "object", fmt.Sprintf("%T", obj), "error", err, "stack", contain.Stack(err))
	}
}

func (s *Scheduler) observeOne(event client.Event) {
	switch obj := event.Object().(type) {
	case *corev1.Pod:
		if event.New == nil {
			s.podGone(obj)
			return
		}
		old, _ := event.Old.(*corev1.Pod)
		s.observePod(old, obj)
	case *corev1.Node:
		old, _ := event.Old.(*corev1.Node)
		s.observeNode(old, obj, event.New == nil)
	case *corev1.Namespace:
		if old, ok := event.Old.(*corev1.Namespace); ok && event.New != nil {
			s.observeNamespace(old, obj)
		}
	}
}

func (s *Scheduler) podGone(pod *corev1.Pod) {
	s.queue.remove(pod.UID)
	if _, placed := s.cache.places[pod.UID]; placed {
		s.cache.removePod(pod.UID)
		s.queue.move()
	}
}

func (s *Scheduler) observePod(old, pod *corev1.Pod) {
	if old != nil && old.UID != pod.UID {
		s.podGone(old)
		old = nil
	}
	if pod.Spec.NodeName != "" {
		s.queue.remove(pod.UID)
		held := len(s.cache.places)
		s.cache.confirm(pod)
		assigned := old != nil && old.Spec.NodeName != ""
		switch {
		case len(s.cache.places) < held, assigned && !apiequality.Semantic.DeepEqual(old.Labels, pod.Labels):
			s.queue.move()
		case !finished(pod) && (!assigned || (old.DeletionTimestamp == nil) != (pod.DeletionTimestamp == nil)):
			// The pod counts for affinity and spread constraints of others until it is being deleted.
			s.queue.moveThose(s.queue.drawn, func(p *podInfo) bool { return p.drawnBy(pod, s.namespaceLabels) })
		}
		return
	}
	if !s.ours(pod) {
		s.queue.remove(pod.UID)
		return
	}
	if s.cache.assumed[pod.UID] {
		return // its binding is in flight
	}
	// A status that the scheduler itself wrote is not a reason to try again.
	if old != nil && len(old.Spec.SchedulingGates) == 0 && apiequality.Semantic.DeepEqual(old.Spec, pod.Spec) && apiequality.Semantic.DeepEqual(old.Labels, pod.Labels) {
		if have, ok := s.queue.all[pod.UID]; ok {
			have.pod = have.pod.with(pod)
			return
		}
	}
	s.queue.add(newPodInfo(pod), s.now())
}

func (s *Scheduler) observeNode(old, node *corev1.Node, gone bool) {
	if gone {
		s.cache.removeNode(node.Name)
		s.queue.move() // an affinity or a spread constraint may be satisfied now
		return
	}
	s.cache.setNode(node)
	if old == nil || !apiequality.Semantic.DeepEqual(old.Spec, node.Spec) || !apiequality.Semantic.DeepEqual(old.Labels, node.Labels) ||
		!apiequality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable) {
		s.queue.move()
	}
}

// observeNamespace handles changes of a namespace's labels, which terms of affinity select by. Those of a new or a removed
// namespace matter only with its pods, which are observed themselves.
func (s *Scheduler) observeNamespace(old, now *corev1.Namespace) {
	if apiequality.Semantic.DeepEqual(old.Labels, now.Labels) {
		return
	}
	s.queue.moveThose(s.queue.waiting, func(p *podInfo) bool {
		// The anti-affinity of placed pods may have excluded it.
		return p.selectsOtherwise(old.Labels, now.Labels) || (p.Namespace == now.Name && s.cache.averse > 0)
	})
}

// loop schedules the pods in the queue.
func (s *Scheduler) loop(ctx context.Context) error {
	var writes sync.WaitGroup
	defer writes.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.work:
		case <-timer.C:
		}
		for s.scheduleOne(ctx, &writes) {
		}
		s.mu.Lock()
		if s.queue != nil {
			if next := s.queue.wake(s.now()); s.queue.active.Len() > 0 {
				s.signal()
			} else if !next.IsZero() {
				timer.Reset(max(next.Sub(s.now()), time.Millisecond))
			}
		}
		s.mu.Unlock()
	}
}

// scheduleOne takes one pod from the queue and finds a node for it; it returns false if the queue is empty.
func (s *Scheduler) scheduleOne(ctx context.Context, writes *sync.WaitGroup) bool {
	// Take a slot for the write first, so that decisions do not get ahead of what can be written.
	select {
	case s.writes <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	d := s.decide()
	if d.pod == nil {
		<-s.writes
		return false
	}
	writes.Go(func() {
		defer func() { <-s.writes }()
		err := contain.Run(func() error {
			if d.reason == "" {
				s.bind(ctx, d)
			} else {
				s.refuse(ctx, d)
			}
			return nil
		})
		if err != nil {
			s.Log.Error("writing a pod's binding or condition panicked", "pod", d.pod.Namespace+"/"+d.pod.Name, "error", err, "stack", contain.Stack(err))
		}
	})
	return true
}

// decision is the result for a pod: a node, or the reason why there is none.
type decision struct {
	next         *queued
	pod          *podInfo // nil if the queue was empty
	node, reason string
	failed       bool // the reason is an internal error
}

// decide takes the next pod from the queue and places it.
func (s *Scheduler) decide() decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue == nil {
		return decision{}
	}
	// Pods whose backoff has ended take part now, however many others there are.
	s.queue.wake(s.now())
	next, ok := s.queue.pop()
	if !ok {
		return decision{}
	}
	d := decision{next: next, pod: next.pod}
	err := contain.Run(func() error {
		d.node, d.reason = s.place(d.pod)
		return nil
	})
	switch {
	case err != nil:
		s.Log.Error("placing a pod panicked, trying again later", "pod", d.pod.Namespace+"/"+d.pod.Name, "error", err, "stack", contain.Stack(err))
		d.reason, d.failed = "the scheduler failed on this pod; it is tried again", true
		s.queue.retry(next, s.now())
	case d.reason == "":
		s.cache.assume(d.pod, d.node)
		s.queue.remove(d.pod.UID)
	default:
		s.queue.unschedulable(next, s.now())
	}
	return d
}

// place returns the best node for a pod, or the reason why there is none.
func (s *Scheduler) place(pod *podInfo) (node, reason string) {
	for _, f := range preFilters {
		if refused := f(pod.Pod); refused != "" {
			return "", s.unavailable(" " + refused + ".")
		}
	}
	t := s.newTask(pod)
	reasons := map[string]int{}
	fit := s.fit[:0]
	for _, n := range s.cache.nodes {
		if n.node == nil {
			continue
		}
		if refused := refusal(t, n); len(refused) > 0 {
			for _, r := range refused {
				reasons[r]++
			}
			continue
		}
		fit = append(fit, n)
	}
	s.fit = fit
	defer clear(fit) // do not keep removed nodes in memory
	if len(fit) == 0 {
		return "", s.unavailable(histogram(reasons))
	}
	return s.best(t, fit).node.Name, ""
}

// best returns the node with the highest score.
func (s *Scheduler) best(t *task, nodes []*nodeInfo) *nodeInfo {
	if len(nodes) == 1 {
		return nodes[0]
	}
	s.scores = rate(t, s.cache, nodes, s.scores)
	best := 0
	for i, score := range s.scores {
		if score > s.scores[best] || (score == s.scores[best] && less(nodes[i], nodes[best])) {
			best = i
		}
	}
	return nodes[best]
}

// less breaks ties: the emptier node, then the one whose name comes first, so that equal inputs give equal results.
func less(a, b *nodeInfo) bool {
	return cmp.Or(cmp.Compare(len(a.pods), len(b.pods)), strings.Compare(a.node.Name, b.node.Name)) < 0
}

func refusal(t *task, n *nodeInfo) []string {
	for _, f := range filters {
		if reasons := f(t, n); len(reasons) > 0 {
			return reasons
		}
	}
	return nil
}

func (s *Scheduler) newTask(pod *podInfo) *task {
	t := &task{podInfo: pod, required: nodeaffinity.GetRequiredNodeAffinity(pod.Pod), namespaces: s.namespaceLabels}
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		// Validation has already parsed the terms; ones that cannot be parsed prefer nothing.
		t.preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	t.affinity = newPodAffinity(pod, s.cache, s.namespaceLabels)
	t.spread = newSpread(pod, s.cache, t.required)
	return t
}

func (s *Scheduler) namespaceLabels(name string) labels.Set {
	namespace, ok := client.Get[*corev1.Namespace](s.Client.View(), "", name)
	if !ok {
		return nil
	}
	return namespace.Labels
}

// unavailable returns the message of a refusal in the form of upstream's FitError.
func (s *Scheduler) unavailable(reasons string) string {
	count := 0
	for _, n := range s.cache.nodes {
		if n.node != nil {
			count++
		}
	}
	if count == 0 {
		return "no nodes available to schedule pods"
	}
	return fmt.Sprintf("0/%d nodes are available:%s", count, reasons)
}

func histogram(reasons map[string]int) string {
	var parts []string
	for reason, n := range reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return " " + strings.Join(parts, ", ") + "."
}

// bind writes the binding. If that fails, the pod is scheduled again later, unless it is gone or already bound.
func (s *Scheduler) bind(ctx context.Context, d decision) {
	pod := d.pod
	err := contain.Run(func() error { return s.Client.Bind(ctx, pod.Pod, d.node) })
	if err == nil {
		s.Recorder.Eventf(pod.Pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, d.node)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The view is taken under the lock, so that later changes of the pod are observed after this.
	current, ok := client.Get[*corev1.Pod](s.Client.View(), pod.Namespace, pod.Name)
	if ok && current.UID == pod.UID && current.Spec.NodeName != "" {
		return // its event replaces the assumption
	}
	s.cache.forget(pod.UID)
	s.queue.move()
	s.signal()
	if ctx.Err() != nil || !ok || current.UID != pod.UID || !s.ours(current) {
		return
	}
	s.Log.Warn("binding failed, scheduling again", "pod", pod.Namespace+"/"+pod.Name, "node", d.node, "error", err, "stack", contain.Stack(err))
	s.Recorder.Eventf(pod.Pod, corev1.EventTypeWarning, "FailedScheduling", "binding rejected: %v", err)
	d.next.pod = newPodInfo(current)
	s.queue.retry(d.next, s.now())
}

// ours says whether an unassigned pod should be scheduled by this scheduler now.
func (s *Scheduler) ours(pod *corev1.Pod) bool {
	return pod.Spec.SchedulerName == s.Name && pod.DeletionTimestamp == nil && !finished(pod) && len(pod.Spec.SchedulingGates) == 0
}

// refuse reports why a pod cannot be scheduled: by an event, and by the pod's condition.
func (s *Scheduler) refuse(ctx context.Context, d decision) {
	pod, reason, category := d.pod.Pod, d.reason, corev1.PodReasonUnschedulable
	if d.failed {
		category = corev1.PodReasonSchedulerError
	}
	s.Recorder.Event(pod, corev1.EventTypeWarning, "FailedScheduling", reason)
	const attempts = 3 // other components write the pod too
	for range attempts {
		current, ok := client.Get[*corev1.Pod](s.Client.View(), pod.Namespace, pod.Name)
		if !ok || current.UID != pod.UID || current.Spec.NodeName != "" {
			return
		}
		for _, c := range current.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Message == reason {
				return
			}
		}
		updated := current.DeepCopy()
		setUnscheduled(updated, category, reason)
		_, err := client.UpdateStatus(ctx, s.Client, updated)
		switch {
		case apierrors.IsConflict(err):
			continue
		case err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil:
			s.Log.Warn("condition could not be written", "pod", pod.Namespace+"/"+pod.Name, "error", err)
		}
		return
	}
}
