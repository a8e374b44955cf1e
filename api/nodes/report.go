package nodes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/pause"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// concurrentReports is how many objects of one batch are written at a time: enough to fill a raft batch, few enough that one worker
// does not crowd out the others.
const concurrentReports = 16

// register creates the worker's Node, or updates the parts of it that the worker owns.
func (s *Server) register(ctx context.Context, name string, data []byte, lease time.Duration) error {
	reported, err := decodeNode(data)
	if err != nil {
		return fmt.Errorf("hello.node: %w", err)
	}
	if reported.Name != name {
		return fmt.Errorf("hello.node is named %q, the certificate is of %q", reported.Name, name)
	}
	labels, refused := ownLabels(reported.Labels)
	if len(refused) > 0 {
		s.Log.Warn("a worker may not set these labels on its node; an administrator may", "node", name, "labels", refused)
	}
	var stored, node *corev1.Node
	err = retry.OnError(retry.DefaultRetry, again, func() error {
		view, err := s.Client.Consistent(ctx)
		if err != nil {
			return err
		}
		ok := false
		if stored, ok = client.Get[*corev1.Node](view, "", name); !ok {
			node = ownNode(reported)
			markLease(node, lease)
			node, err = client.Create(ctx, s.Client, node)
			return err
		}
		node = stored.DeepCopy()
		if node.Labels == nil {
			node.Labels = map[string]string{}
		}
		maps.Copy(node.Labels, labels)
		for name, value := range ownAnnotations(reported.Annotations) {
			metav1.SetMetaDataAnnotation(&node.ObjectMeta, name, value)
		}
		markLease(node, lease)
		node, err = client.Update(ctx, s.Client, node)
		if err != nil {
			return err
		}
		node.Status = mergeNodeStatus(node.Status, reported.Status)
		node, err = client.UpdateStatus(ctx, s.Client, node)
		return err
	})
	if err == nil {
		s.tellOfNode(ctx, stored, node)
	}
	return err
}

// again says whether an error of a write may be resolved by another attempt.
func again(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }

// mergeNodeStatus takes over what the worker reports and keeps what others own (attached volumes, conditions of others).
func mergeNodeStatus(stored, reported corev1.NodeStatus) corev1.NodeStatus {
	merged := *reported.DeepCopy()
	merged.VolumesAttached = stored.VolumesAttached
	for resource, quantity := range stored.Capacity {
		if _, ok := merged.Capacity[resource]; ok || !foreign(resource) {
			continue
		}
		// A report may contain no capacity: then the maps are nil.
		if merged.Capacity == nil {
			merged.Capacity = corev1.ResourceList{}
		}
		merged.Capacity[resource] = quantity
		if allocatable, ok := stored.Allocatable[resource]; ok {
			if merged.Allocatable == nil {
				merged.Allocatable = corev1.ResourceList{}
			}
			merged.Allocatable[resource] = allocatable
		}
	}
	for _, condition := range stored.Conditions {
		found := false
		for _, have := range merged.Conditions {
			found = found || have.Type == condition.Type
		}
		if !found {
			merged.Conditions = append(merged.Conditions, condition)
		}
	}
	// An unchanged condition keeps its transition time.
	for i := range merged.Conditions {
		for _, before := range stored.Conditions {
			if c := &merged.Conditions[i]; before.Type == c.Type && before.Status == c.Status {
				c.LastTransitionTime = before.LastTransitionTime
			}
		}
	}
	return merged
}

// foreign says whether a resource is an extended one, which users may add to a node's status by hand.
func foreign(resource corev1.ResourceName) bool {
	for i := range len(resource) {
		if resource[i] == '/' {
			return true
		}
	}
	return false
}

// A report that cannot be stored now is retried after a pause that doubles, as long as the session lasts.
const firstPause, longestPause = 100 * time.Millisecond, 5 * time.Second

// transient says whether the cause of a write's failure may pass: no leader, full disks, too many requests, an unknown outcome.
// Storing a report twice is harmless.
func transient(err error) bool {
	return again(err) || apierrors.IsServiceUnavailable(err) || apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsTooManyRequests(err) ||
		errors.Is(err, kv.ErrNoLeader) || errors.Is(err, kv.ErrOutcomeUnknown) || errors.Is(err, kv.ErrDiskFull) || errors.Is(err, context.DeadlineExceeded)
}

// store runs a report until it is stored or refused permanently. A panic is returned as an error.
func (s *session) store(ctx context.Context, what string, report func() error) error {
	wait := firstPause
	for {
		err := contain.Run(report)
		if apierrors.HasStatusCause(err, objects.Fenced) {
			err = status.Errorf(codes.Aborted, "a later session of worker %s has begun, or its node was deleted", s.node)
			s.end(err)
		}
		if err == nil || !transient(err) || ctx.Err() != nil {
			return err
		}
		if wait == firstPause {
			s.log.Warn("a report cannot be stored now, retrying", "what", what, "error", err)
		}
		if !pause.For(ctx, wait) {
			return ctx.Err()
		}
		wait = min(2*wait, longestPause)
	}
}

// report stores a batch and returns what was refused permanently. The batch must not be acknowledged before: the worker would
// discard it.
func (s *session) report(ctx context.Context, batch *nodev1.StatusBatch) []string {
	var mu sync.Mutex
	var problems []string
	refuse := func(what string, err error) {
		if err == nil || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return // its object is gone or terminating
		}
		if stack := contain.Stack(err); stack != "" {
			s.log.Error("a report caused a panic", "what", what, "error", err, "stack", stack)
		} else {
			s.log.Warn("report refused", "what", what, "error", err)
		}
		mu.Lock()
		defer mu.Unlock()
		problems = append(problems, what+": "+err.Error())
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(concurrentReports)
	if len(batch.NodeStatus) > 0 {
		group.Go(func() error {
			refuse("node", s.store(ctx, "node", func() error { return s.reportNode(ctx, batch.NodeStatus) }))
			return nil
		})
	}
	for _, pod := range batch.Pods {
		group.Go(func() error {
			what := "pod " + pod.Namespace + "/" + pod.Name
			refuse(what, s.store(ctx, what, func() error { return s.reportPod(ctx, pod) }))
			return nil
		})
	}
	for _, data := range s.affordable(batch.Events) {
		group.Go(func() error {
			refuse("event", s.store(ctx, "event", func() error { return s.reportEvent(ctx, data) }))
			return nil
		})
	}
	group.Wait() // the functions handle their errors themselves
	return problems
}

func (s *session) reportNode(ctx context.Context, data []byte) error {
	reported, err := decodeNode(data)
	if err != nil {
		return err
	}
	var stored, node *corev1.Node
	err = retry.OnError(retry.DefaultRetry, again, func() error {
		ok := false
		if stored, ok = client.Get[*corev1.Node](s.Client.View(), "", s.node); !ok {
			return apierrors.NewNotFound(corev1.Resource("nodes"), s.node)
		}
		node = stored.DeepCopy()
		node.Status = mergeNodeStatus(node.Status, reported.Status)
		node, err = client.UpdateStatus(ctx, s.writes, node)
		return err
	})
	if err == nil {
		s.tellOfNode(ctx, stored, node)
	}
	return err
}

// reportPod stores a pod's status, and removes a pod that is being deleted when the worker no longer has it.
func (s *session) reportPod(ctx context.Context, report *nodev1.PodStatus) error {
	var pod, reported *corev1.Pod
	attempt := func() error {
		stored, ok := client.Get[*corev1.Pod](s.Client.View(), report.Namespace, report.Name)
		if !ok || string(stored.UID) != report.Uid || stored.Spec.NodeName != s.node {
			return apierrors.NewNotFound(corev1.Resource("pods"), report.Name)
		}
		pod = stored
		if len(report.Status) == 0 {
			return nil
		}
		// Only a report of a pod that the node has is decoded: others cost a worker nothing to make up.
		var err error
		if reported == nil {
			if reported, err = decodePod(report.Status); err != nil {
				return err
			}
		}
		if err := checkContainerStatuses(stored, &reported.Status); err != nil {
			return err
		}
		if err := checkPodAddresses(stored, &reported.Status); err != nil {
			return err
		}
		merged := stored.DeepCopy()
		merged.Status = mergePodStatus(stored.Status, reported.Status)
		began := time.Now()
		if pod, err = client.UpdateStatus(ctx, s.writes, merged); err == nil {
			s.noteReported(stored, pod, began)
		}
		return err
	}
	if err := retry.OnError(retry.DefaultRetry, again, attempt); err != nil {
		return err
	}
	if report.Terminated && pod.DeletionTimestamp != nil {
		return s.writes.Delete(ctx, pod, client.Grace(0), client.IfUID(pod.UID))
	}
	return nil
}

// owned are the pod conditions that the worker sets. Those about a resize are its alone: it also removes them, and sets when they
// changed.
var owned = map[corev1.PodConditionType]bool{
	corev1.PodInitialized: true, corev1.PodReady: true, corev1.ContainersReady: true, corev1.PodReadyToStartContainers: true,
	corev1.PodResizePending: true, corev1.PodResizeInProgress: true, corev1.AllContainersRestarting: true,
}

func aboutResize(t corev1.PodConditionType) bool {
	return t == corev1.PodResizePending || t == corev1.PodResizeInProgress
}

// mergePodStatus takes over what the worker reports and keeps what others own: the scheduler's condition, readiness gates,
// disruption targets. A pod that has finished never runs again.
func mergePodStatus(stored, reported corev1.PodStatus) corev1.PodStatus {
	merged := *reported.DeepCopy()
	conditions := make([]corev1.PodCondition, 0, len(stored.Conditions)+len(merged.Conditions))
	seen := map[corev1.PodConditionType]bool{}
	for _, condition := range merged.Conditions {
		before := find(stored.Conditions, condition.Type)
		if condition.Type == corev1.PodScheduled && before != nil && before.Status == condition.Status {
			// The scheduler set it and sees no later generation: only the worker can say that it holds for that as well.
			seenOf := condition.ObservedGeneration
			condition = *before
			condition.ObservedGeneration = seenOf
		} else if !owned[condition.Type] && before != nil {
			continue // kept below
		}
		if before != nil && before.Status == condition.Status && !aboutResize(condition.Type) {
			condition.LastTransitionTime = before.LastTransitionTime
		}
		seen[condition.Type] = true
		conditions = append(conditions, condition)
	}
	for _, condition := range stored.Conditions {
		if !seen[condition.Type] && !aboutResize(condition.Type) {
			conditions = append(conditions, condition)
		}
	}
	merged.Conditions = conditions
	if stored.Phase == corev1.PodFailed || stored.Phase == corev1.PodSucceeded {
		merged.Phase = stored.Phase
	}
	if merged.QOSClass == "" {
		merged.QOSClass = stored.QOSClass
	}
	if merged.StartTime == nil {
		merged.StartTime = stored.StartTime
	}
	merged.NominatedNodeName = stored.NominatedNodeName
	// Only the control plane sets a pod's claims: a node that could add others could read them (CVE-2025-4563).
	merged.ResourceClaimStatuses = stored.ResourceClaimStatuses
	merged.ExtendedResourceClaimStatus = stored.ExtendedResourceClaimStatus
	merged.NodeAllocatableResourceClaimStatuses = stored.NodeAllocatableResourceClaimStatuses
	return merged
}

func find(conditions []corev1.PodCondition, wanted corev1.PodConditionType) *corev1.PodCondition {
	for i := range conditions {
		if conditions[i].Type == wanted {
			return &conditions[i]
		}
	}
	return nil
}

func (s *session) reportEvent(ctx context.Context, data []byte) error {
	event, err := decode(data, maxEventBytes, &corev1.Event{}, "Event")
	if err != nil {
		return err
	}
	if event.Source.Host == "" {
		event.Source.Host = s.node
	}
	if event.Source.Host != s.node {
		return fmt.Errorf("source.host is %q, the worker is %q", event.Source.Host, s.node)
	}
	if err := s.mayReportEvent(event); err != nil {
		return err
	}
	// Only the name of an event's metadata is kept: owners and finalizers of objects that a node creates would be left to others to
	// resolve.
	event.ObjectMeta = metav1.ObjectMeta{Namespace: event.Namespace, Name: event.Name, Labels: event.Labels, Annotations: event.Annotations}
	_, err = client.Create(ctx, s.writes, event.DeepCopy())
	if apierrors.IsAlreadyExists(err) {
		if err := s.mayReplaceEvent(ctx, event); err != nil {
			return err
		}
		_, err = client.Update(ctx, s.writes, event)
	}
	return err
}
