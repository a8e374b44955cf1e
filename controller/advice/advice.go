// Package advice changes the requests of running pods to what is advised for them (docs/autoscaling.md), in place, for workloads and pods that ask
// for it by an annotation. Each change is a request to the subresource resize, so limit ranges and quotas apply, and the worker decides
// whether it can be done.
//
// It goes slowly: at most one pod of a workload and mostAtOnce pods in all are changed at a time, each pod at most once in pause, by
// at most a factor of two. Requests are never set below what the container uses, nor above its limit. Nothing is changed that would restart a
// container, or the pod's quality of service.
package advice

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/owned"
	"github.com/kontiki/kontiki/internal/advice"
)

// Annotation of a Deployment, StatefulSet, DaemonSet or pod says what becomes of advice: Apply.
const (
	Annotation = advice.Annotation
	Apply      = advice.Apply
)

const (
	// mostAtOnce limits the pods that are changed in a period.
	mostAtOnce = 10
	// pause is between two changes of a pod, and after one that was refused.
	pause = 10 * time.Minute
	// tolerance is by how much a request may differ from what is advised.
	tolerance = 0.1
	// step is the factor by which a request is changed at most.
	step = 2
	// above is what memory is requested at least beyond what is used.
	above = 1.1
	// mostRemembered limits the pods whose last change is remembered.
	mostRemembered = 10_000
)

// Config says what the controller works with.
type Config struct {
	Client   *client.Client
	Recorder record.EventRecorder
	// Needs returns what is advised for the containers of pods; containers of which too little is known are missing.
	Needs func(ctx context.Context, pods []*corev1.Pod) map[types.UID]map[string]advice.Need
	// Quantity returns an amount of processors or memory, rounded up.
	Quantity func(name corev1.ResourceName, amount float64) resource.Quantity
	// Period is how often pods are looked at.
	Period time.Duration
	// Now tells the time; nil means time.Now.
	Now func() time.Time
}

type applier struct {
	Config
	mu   sync.Mutex
	last map[types.UID]time.Time // of changes, and of refusals
}

var (
	asksFor = func(obj client.Object) bool { return obj.GetAnnotations()[Annotation] == Apply }

	deployments  = asking[*appsv1.Deployment]()
	statefulSets = asking[*appsv1.StatefulSet]()
	daemonSets   = asking[*appsv1.DaemonSet]()
	lonePods     = asking[*corev1.Pod]()
	replicaSets  = owned.NewIndex[*appsv1.ReplicaSet]()
	podsOf       = owned.NewIndex[*corev1.Pod]()
)

// asking defines an index of the objects that have the annotation.
func asking[T client.Object]() *client.Index[T] {
	return client.NewIndex(func(obj T, add func(string)) {
		if asksFor(obj) {
			add(Apply)
		}
	})
}

// New returns the controller.
func New(c Config) *controller.Controller {
	if c.Now == nil {
		c.Now = time.Now
	}
	a := &applier{Config: c, last: map[types.UID]time.Time{}}
	all := controller.Key{Name: "all"}
	return &controller.Controller{
		Name: "advice", Workers: 1, Watches: []client.Object{&appsv1.Deployment{}, &appsv1.StatefulSet{}, &appsv1.DaemonSet{}},
		Start: func(_ client.View, enqueue func(controller.Key)) { enqueue(all) },
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			if event.New != nil && asksFor(event.New) && (event.Old == nil || !asksFor(event.Old)) {
				enqueue(all)
			}
		},
		Reconcile: func(ctx context.Context, v client.View, _ controller.Key) (controller.Result, error) {
			a.round(ctx, v)
			return controller.Result{After: c.Period}, nil
		},
	}
}

// groups returns the pods of those that ask for it, by workload.
func groups(v client.View) (out [][]*corev1.Pod) {
	for _, d := range deployments.Any(v, Apply) {
		var pods []*corev1.Pod
		for _, rs := range replicaSets.Controlled(v, d.UID) {
			pods = append(pods, podsOf.Controlled(v, rs.UID)...)
		}
		out = append(out, pods)
	}
	for _, s := range statefulSets.Any(v, Apply) {
		out = append(out, podsOf.Controlled(v, s.UID))
	}
	for _, d := range daemonSets.Any(v, Apply) {
		out = append(out, podsOf.Controlled(v, d.UID))
	}
	for _, pod := range lonePods.Any(v, Apply) {
		out = append(out, []*corev1.Pod{pod})
	}
	return out
}

// round changes the pods whose turn it is.
func (a *applier) round(ctx context.Context, v client.View) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.Now()
	for uid, at := range a.last {
		if now.Sub(at) >= pause {
			delete(a.last, uid)
		}
	}
	left := min(mostAtOnce, mostRemembered-len(a.last))
	for _, pods := range groups(v) {
		if left <= 0 || ctx.Err() != nil {
			return
		}
		pods = slices.DeleteFunc(slices.Clone(pods), func(pod *corev1.Pod) bool { return !a.may(pod) })
		slices.SortFunc(pods, func(x, y *corev1.Pod) int { return strings.Compare(x.Name, y.Name) })
		needs := a.Needs(ctx, pods)
		for _, pod := range pods {
			changed, what := a.resized(pod, needs[pod.UID])
			if changed == nil {
				continue
			}
			a.last[pod.UID] = now
			left--
			if _, err := client.UpdateSubresource(ctx, a.Client, changed, "resize"); err != nil {
				a.Recorder.Eventf(pod, corev1.EventTypeWarning, "AdviceRefused", "Requests could not be changed to what is advised (%s): %v", what, err)
			} else {
				a.Recorder.Eventf(pod, corev1.EventTypeNormal, "AdviceApplied", "Changed requests to what is advised: %s", what)
			}
			break // the others of the workload wait for the next round
		}
	}
}

// may says whether a pod may be changed now.
func (a *applier) may(pod *corev1.Pod) bool {
	if _, waits := a.last[pod.UID]; waits {
		return false
	}
	if pod.Status.Phase != corev1.PodRunning || pod.DeletionTimestamp != nil || pod.Annotations[corev1.MirrorPodAnnotationKey] != "" || pod.Spec.Resources != nil {
		return false // requests of the whole pod are its author's
	}
	ready := false
	for _, c := range pod.Status.Conditions {
		switch c.Type {
		case corev1.PodReady:
			ready = c.Status == corev1.ConditionTrue
		case corev1.PodResizePending, corev1.PodResizeInProgress:
			return false
		}
	}
	return ready
}

// resized returns a pod with changed requests, and what is changed; nil if nothing is to be.
func (a *applier) resized(pod *corev1.Pod, needs map[string]advice.Need) (changed *corev1.Pod, what string) {
	var said []string
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		need, known := needs[c.Name]
		if !known {
			continue
		}
		for _, r := range []struct {
			name         corev1.ResourceName
			advised, use float64
		}{{corev1.ResourceCPU, need.CPU, need.UsedCPU}, {corev1.ResourceMemory, need.Memory, need.UsedMemory * above}} {
			request, ok := c.Resources.Requests[r.name]
			if !ok || restarts(c, r.name) {
				continue // a first request would change the quality of service
			}
			limit, limited := c.Resources.Limits[r.name]
			equal := limited && limit.Cmp(request) == 0
			wanted := a.Quantity(r.name, wanted(request.AsApproximateFloat64(), r.advised, r.use))
			if limited && !equal && wanted.Cmp(limit) >= 0 {
				continue // up to the limit is its author's decision
			}
			if wanted.Cmp(request) == 0 || within(request.AsApproximateFloat64(), wanted.AsApproximateFloat64()) {
				continue
			}
			if changed == nil {
				changed = pod.DeepCopy()
			}
			to := &changed.Spec.Containers[i].Resources
			to.Requests[r.name] = wanted
			if equal {
				to.Limits[r.name] = wanted
			}
			said = append(said, fmt.Sprintf("%s of container %s from %s to %s", r.name, c.Name, request.String(), wanted.String()))
		}
	}
	return changed, strings.Join(said, ", ")
}

// wanted returns the next request: what is advised, but not less than is used, and not more than a step away.
func wanted(request, advised, used float64) float64 {
	return max(min(max(advised, used), request*step), request/step)
}

func within(request, wanted float64) bool {
	return wanted >= request*(1-tolerance) && wanted <= request*(1+tolerance)
}

// restarts says whether changing a resource of a container restarts it.
func restarts(c *corev1.Container, name corev1.ResourceName) bool {
	return slices.ContainsFunc(c.ResizePolicy, func(p corev1.ContainerResizePolicy) bool {
		return p.ResourceName == name && p.RestartPolicy == corev1.RestartContainer
	})
}
