// Package overview gathers what an operator asks first about a cluster: whether its masters and workers are well, how full it is, what runs, and
// what needs attention.
package overview

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/pager"
	helper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/cluster"
)

// Options say of what cluster.
type Options struct {
	Client kubernetes.Interface
	// Status returns the masters' status.
	Status func(ctx context.Context) (*cluster.Status, error)
	// Usage returns what each node uses. An error that the API does not have that (apierrors.IsNotFound), or that the user may not see it, leaves
	// it out.
	Usage func(ctx context.Context) (map[string]corev1.ResourceList, error)
	Now   func() time.Time
}

// Report is an overview. Its JSON form is that of `kontiki status -o json`.
type Report struct {
	Cluster   string           `json:"cluster"`
	Masters   Masters          `json:"masters"`
	Workers   Workers          `json:"workers"`
	Resources []Resource       `json:"resources"`
	Pods      Pods             `json:"pods"`
	Workloads Of               `json:"workloads"`
	Claims    Of               `json:"claims"`
	Warnings  map[string]int64 `json:"warnings"` // events of type Warning of the last hour, by reason
	// Attention has a sentence for each kind of thing that is not as it should be.
	Attention []string `json:"attention"`
}

// Masters are the masters. Tolerated is how many more may fail; -1 if writes have stopped.
type Masters struct {
	Leader    string `json:"leader,omitempty"`
	Total     int    `json:"total"`
	Healthy   int    `json:"healthy"`
	Tolerated int    `json:"failuresTolerated"`
}

// Workers are the nodes.
type Workers struct {
	Total    int `json:"total"`
	Ready    int `json:"ready"`
	Cordoned int `json:"cordoned"`
}

// Resource is a resource of all nodes that are ready.
type Resource struct {
	Name        corev1.ResourceName `json:"name"`
	Allocatable resource.Quantity   `json:"allocatable"`
	Requested   resource.Quantity   `json:"requested"`
	Used        *resource.Quantity  `json:"used,omitempty"` // nil if it is not known
}

// Pods are the pods by what they do. A pod is in one of them.
type Pods struct {
	Ready    int `json:"ready"`
	NotReady int `json:"notReady"` // running, and not ready
	Pending  int `json:"pending"`
	Ending   int `json:"ending"`
	Failed   int `json:"failed"`
	Finished int `json:"finished"`
}

// Of counts things, and those of them that are complete.
type Of struct {
	Total    int `json:"total"`
	Complete int `json:"complete"`
}

// Some patience before something that takes its time needs attention.
const (
	patience = time.Minute
	recent   = time.Hour
)

// Gather asks the cluster. What the user may not list is an error.
func Gather(ctx context.Context, o Options) (*Report, error) {
	g := &gathering{Options: o, r: &Report{Warnings: map[string]int64{}}, found: map[string]*finding{}, allocatable: corev1.ResourceList{}, requested: corev1.ResourceList{}}
	status, err := o.Status(ctx)
	if err != nil {
		return nil, err
	}
	g.masters(status)
	for _, part := range []func(context.Context) error{g.nodes, g.pods, g.workloads, g.claims, g.warnings} {
		if err := part(ctx); err != nil {
			return nil, err
		}
	}
	g.resources()
	for _, what := range slices.Sorted(maps.Keys(g.found)) {
		g.r.Attention = append(g.r.Attention, g.found[what].sentence(what))
	}
	return g.r, nil
}

// gathering is one call of Gather.
type gathering struct {
	Options
	r     *Report
	found map[string]*finding
	ready map[string]bool // nodes
	// allocatable and used are sums over the nodes that are ready, requested one over their pods; used is nil if it is not known.
	allocatable, used, requested corev1.ResourceList
}

// finding is what needs attention, of one kind: how often, and the first example.
type finding struct {
	count         int
	example, next string
}

// find notes that something needs attention: of what kind, which, and what shows more; the latter two may be empty.
func (g *gathering) find(what, example, next string) {
	f := g.found[what]
	if f == nil {
		f = &finding{example: example, next: next}
		g.found[what] = f
	}
	f.count++
}

func (f *finding) sentence(what string) string {
	s := what
	if f.example != "" {
		s += ": " + f.example
	}
	if f.count > 1 {
		s += fmt.Sprintf(" and %d more", f.count-1)
	}
	if f.next != "" {
		s += " (" + f.next + ")"
	}
	return s
}

func (g *gathering) age(t time.Time) string { return duration.HumanDuration(g.Now().Sub(t)) }

func (g *gathering) old(t time.Time) bool { return g.Now().Sub(t) > patience }

func (g *gathering) masters(s *cluster.Status) {
	g.r.Cluster = s.ClusterID
	g.r.Masters = Masters{Leader: s.Leader, Total: len(s.Members), Tolerated: s.FailuresTolerated}
	for _, m := range s.Members {
		if m.Health == cluster.HealthOK {
			g.r.Masters.Healthy++
		}
	}
	for _, p := range s.Problems {
		g.find(p, "", "kontiki cluster status")
	}
}

// each calls f for each object of a kind, in pages.
func each(ctx context.Context, list func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error), f func(runtime.Object) error) error {
	return pager.New(list).EachListItem(ctx, metav1.ListOptions{}, f)
}

func (g *gathering) nodes(ctx context.Context) error {
	usage, err := g.Usage(ctx)
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsForbidden(err) {
		return err
	}
	g.ready = map[string]bool{}
	if err == nil {
		g.used = corev1.ResourceList{}
	}
	return each(ctx, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return g.Client.CoreV1().Nodes().List(ctx, o)
	}, func(obj runtime.Object) error {
		n := obj.(*corev1.Node)
		g.r.Workers.Total++
		if n.Spec.Unschedulable {
			g.r.Workers.Cordoned++
		}
		for _, c := range n.Status.Conditions {
			switch {
			case c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue:
				g.ready[n.Name] = true
			case c.Type == corev1.NodeReady:
				g.find("nodes that are not ready", fmt.Sprintf("%s since %s, %s: %s", n.Name, g.age(c.LastTransitionTime.Time), c.Reason, c.Message), "kontiki kubectl describe node "+n.Name)
			case c.Status == corev1.ConditionTrue && strings.HasSuffix(string(c.Type), "Pressure"):
				g.find("nodes under "+string(c.Type), n.Name+": "+c.Message, "kontiki kubectl describe node "+n.Name)
			}
		}
		if !g.ready[n.Name] {
			return nil
		}
		g.r.Workers.Ready++
		add(g.allocatable, n.Status.Allocatable)
		if g.used != nil {
			add(g.used, usage[n.Name])
		}
		return nil
	})
}

func add(sum, more corev1.ResourceList) {
	for name, q := range more {
		total := sum[name]
		total.Add(q)
		sum[name] = total
	}
}

func (g *gathering) pods(ctx context.Context) error {
	return each(ctx, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return g.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, o)
	}, func(obj runtime.Object) error {
		p := obj.(*corev1.Pod)
		name, why := p.Namespace+"/"+p.Name, "kontiki why "+p.Name+" -n "+p.Namespace
		if p.Status.Phase == corev1.PodSucceeded {
			g.r.Pods.Finished++
			return nil
		}
		if p.Status.Phase == corev1.PodFailed {
			g.r.Pods.Failed++
			return nil
		}
		if g.ready[p.Spec.NodeName] {
			add(g.requested, helper.PodRequests(p, helper.PodResourcesOptions{}))
			add(g.requested, corev1.ResourceList{corev1.ResourcePods: *resource.NewQuantity(1, resource.DecimalSI)})
		}
		switch {
		case p.DeletionTimestamp != nil:
			g.r.Pods.Ending++
			if g.old(p.DeletionTimestamp.Time) { // which is when its time to end is over
				g.find("pods that do not end", name+", "+g.age(p.DeletionTimestamp.Time)+" after its time was over", why)
			}
			return nil
		case isReady(p):
			g.r.Pods.Ready++
			return nil
		case p.Status.Phase == corev1.PodRunning:
			g.r.Pods.NotReady++
		default:
			g.r.Pods.Pending++
		}
		switch reason, since := waiting(p), unready(p); {
		case reason != "":
			g.find("pods in "+reason, name, why)
		case p.Spec.NodeName == "" && g.old(p.CreationTimestamp.Time) && len(p.Spec.SchedulingGates) == 0:
			g.find("pods without a node", name+" for "+g.age(p.CreationTimestamp.Time), why)
		case p.Spec.NodeName != "" && g.old(since):
			g.find("pods that are not ready", name+" for "+g.age(since), why)
		}
		return nil
	})
}

func isReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

// unready returns since when a pod is not ready.
func unready(p *corev1.Pod) time.Time {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && !c.LastTransitionTime.IsZero() {
			return c.LastTransitionTime.Time
		}
	}
	return p.CreationTimestamp.Time
}

// waiting returns why a container of a pod waits, if it is a failure.
func waiting(p *corev1.Pod) string {
	for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			if w := c.State.Waiting; w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing" {
				return w.Reason
			}
		}
	}
	return ""
}

func (g *gathering) workloads(ctx context.Context) error {
	apps, batch := g.Client.AppsV1(), g.Client.BatchV1()
	count := func(kind string, meta metav1.ObjectMeta, have, want int32, since time.Time) {
		g.r.Workloads.Total++
		if have >= want {
			g.r.Workloads.Complete++
		} else if g.old(since) {
			g.find(kind+" with too few pods", fmt.Sprintf("%s/%s has %d of %d", meta.Namespace, meta.Name, have, want), "")
		}
	}
	return errors.Join(
		each(ctx, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return apps.Deployments("").List(ctx, o)
		}, func(obj runtime.Object) error {
			d := obj.(*appsv1.Deployment)
			since := d.CreationTimestamp.Time
			for _, c := range d.Status.Conditions {
				if c.Type == appsv1.DeploymentAvailable {
					since = c.LastTransitionTime.Time
				}
			}
			count("deployments", d.ObjectMeta, d.Status.AvailableReplicas, or1(d.Spec.Replicas), since)
			return nil
		}),
		each(ctx, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return apps.StatefulSets("").List(ctx, o)
		}, func(obj runtime.Object) error {
			s := obj.(*appsv1.StatefulSet)
			count("stateful sets", s.ObjectMeta, s.Status.AvailableReplicas, or1(s.Spec.Replicas), s.CreationTimestamp.Time)
			return nil
		}),
		each(ctx, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return apps.DaemonSets("").List(ctx, o)
		}, func(obj runtime.Object) error {
			d := obj.(*appsv1.DaemonSet)
			count("daemon sets", d.ObjectMeta, d.Status.NumberAvailable, d.Status.DesiredNumberScheduled, d.CreationTimestamp.Time)
			return nil
		}),
		each(ctx, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return batch.Jobs("").List(ctx, o)
		}, func(obj runtime.Object) error {
			j := obj.(*batchv1.Job)
			for _, c := range j.Status.Conditions {
				if c.Type == batchv1.JobFailed && c.Status == corev1.ConditionTrue && g.Now().Sub(c.LastTransitionTime.Time) < recent {
					g.find("jobs that failed in the last hour", j.Namespace+"/"+j.Name+", "+c.Reason, "")
				}
			}
			return nil
		}),
	)
}

func or1(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

func (g *gathering) claims(ctx context.Context) error {
	return each(ctx, func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return g.Client.CoreV1().PersistentVolumeClaims("").List(ctx, o)
	}, func(obj runtime.Object) error {
		c := obj.(*corev1.PersistentVolumeClaim)
		name := c.Namespace + "/" + c.Name
		g.r.Claims.Total++
		switch {
		case c.Status.Phase == corev1.ClaimBound:
			g.r.Claims.Complete++
		case c.Status.Phase == corev1.ClaimLost:
			g.find("claims whose volume is lost", name, "kontiki kubectl describe pvc "+c.Name+" -n "+c.Namespace)
		case g.old(c.CreationTimestamp.Time):
			g.find("claims without a volume", name+" for "+g.age(c.CreationTimestamp.Time), "kontiki kubectl describe pvc "+c.Name+" -n "+c.Namespace)
		}
		return nil
	})
}

func (g *gathering) warnings(ctx context.Context) error {
	list := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		o.FieldSelector = "type=" + corev1.EventTypeWarning
		return g.Client.CoreV1().Events("").List(ctx, o)
	}
	return each(ctx, list, func(obj runtime.Object) error {
		e := obj.(*corev1.Event)
		last := e.LastTimestamp.Time
		if e.Series != nil && e.Series.LastObservedTime.After(last) {
			last = e.Series.LastObservedTime.Time
		}
		if last.IsZero() {
			last = e.EventTime.Time
		}
		if g.Now().Sub(last) < recent {
			g.r.Warnings[e.Reason] += int64(max(1, e.Count))
		}
		return nil
	})
}

func (g *gathering) resources() {
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods} {
		r := Resource{Name: name, Allocatable: g.allocatable[name], Requested: g.requested[name]}
		if used, known := g.used[name]; known {
			r.Used = &used
		}
		g.r.Resources = append(g.r.Resources, r)
	}
}
