// Package rebalance moves pods that are not where they would be placed today (a descheduler). It is off by default.
//
// It evicts a pod, which its owner replaces and the scheduler places anew, if
//
//   - its node does not satisfy its node affinity, its affinity or anti-affinity to pods, or its hard spread constraints any more, or
//   - its node is loaded more than all nodes on average, and another one less, by more than a margin: nodes that came back are filled,
//
// and there is a node that it fits on better. A pod is not moved for the load's sake if the scheduler would not choose such a node: it
// would come back, and be moved again, without end. Evictions keep PodDisruptionBudgets. In each round few pods are moved, at most one of an
// owner, so that the scheduler's decisions, and the pods' becoming ready, are seen before the next. An owner whose new pods are to be moved
// again is left alone for longer each time (see rests): what several pods require may not be satisfiable for all at once.
package rebalance

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/config"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// optOut is the annotation of pods that are not moved, with the value "false".
const optOut = "kontiki.io/rebalance"

// systemPriority is that of system-cluster-critical: such pods are not moved.
const systemPriority = 2000000000

// Config has the parameters of a Rebalancer.
type Config struct {
	Client   *client.Client
	Recorder record.EventRecorder
	Log      *slog.Logger
	// Configuration is the scheduler's, the default one if it is nil. Pods of other schedulers are not moved.
	Configuration *config.Config
	// Interval is the time between rounds, Most the number of pods that are moved in one.
	Interval time.Duration
	Most     int
	// Margin is by how much a node's load must differ from the average of all: a share of its resources, from 0 to 1.
	Margin float64
	// Now is the clock, time.Now if it is nil.
	Now func() time.Time
}

// Rebalancer moves pods while Run runs.
type Rebalancer struct {
	Config
	rests rests
}

// New creates a Rebalancer. Parameters that are zero have defaults: a round a minute, 5 pods, a margin of 0.2.
func New(c Config) *Rebalancer {
	c.Interval, c.Most, c.Margin = cmp.Or(c.Interval, time.Minute), cmp.Or(c.Most, 5), cmp.Or(c.Margin, 0.2)
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Configuration == nil {
		c.Configuration = config.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Rebalancer{c, rests{}}
}

// Run makes a round in each interval until the context ends.
func (r *Rebalancer) Run(ctx context.Context) error {
	ticker := time.NewTicker(r.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		if err := r.Round(ctx); err != nil {
			r.Log.Warn("rebalancing failed, going on in the next round", "error", err)
		}
	}
}

// round is one look at the cluster.
type round struct {
	*Rebalancer
	cluster  *framework.Cluster
	profiles map[string]*framework.Profile // by scheduler name
	moved    map[types.UID]bool            // owners of which a pod was moved
	budget   int
	now      time.Time
}

// Round moves the pods that are to be moved now. Nothing is moved while pods wait for a node: they may be what the last round has moved,
// and need the room first.
func (r *Rebalancer) Round(ctx context.Context) error {
	view := r.Client.View()
	round := &round{Rebalancer: r, moved: map[types.UID]bool{}, budget: r.Most, now: r.Now()}
	round.profiles = r.Configuration.Detached(func() client.View { return view })
	round.cluster = framework.NewCluster(func(name string) labels.Set {
		if namespace, ok := client.Get[*corev1.Namespace](view, "", name); ok {
			return namespace.Labels
		}
		return nil
	})
	client.Each(view, "", func(n *corev1.Node) bool {
		round.cluster.SetNode(n)
		return true
	})
	waiting, owners := false, map[types.UID]bool{}
	client.Each(view, "", func(p *corev1.Pod) bool {
		if owner := metav1.GetControllerOfNoCopy(p); owner != nil {
			owners[owner.UID] = true
		}
		switch {
		case framework.Finished(p):
		case p.Spec.NodeName != "":
			round.cluster.Place(framework.NewPodInfo(p), p.Spec.NodeName)
		case len(p.Spec.SchedulingGates) == 0:
			waiting = true
		}
		return true
	})
	r.rests.forget(owners, round.now)
	round.cluster.Settle()
	if waiting || len(round.cluster.Nodes) < 2 {
		return nil
	}
	if err := round.violations(ctx); err != nil {
		return err
	}
	return round.load(ctx)
}

// movable returns the pods of a node that may be moved, the least important first.
func (r *round) movable(n *framework.NodeInfo) (out []*framework.PodInfo) {
	for _, p := range n.Pods {
		owner := metav1.GetControllerOfNoCopy(p.Pod)
		_, static := p.Annotations[corev1.MirrorPodAnnotationKey]
		if owner == nil || owner.Kind == "DaemonSet" || static || p.Status.Phase != corev1.PodRunning || p.DeletionTimestamp != nil || p.Annotations[optOut] == "false" ||
			corehelpers.PodPriority(p.Pod) >= systemPriority || framework.Mounts(p.Pod) || hasDevices(p) || inGang(p) || r.profiles[p.Spec.SchedulerName] == nil {
			continue
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *framework.PodInfo) int {
		return cmp.Or(cmp.Compare(corehelpers.PodPriority(a.Pod), corehelpers.PodPriority(b.Pod)), cmp.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name))
	})
	return out
}

// hasDevices says whether a pod can only run where its devices are.
func hasDevices(p *framework.PodInfo) bool {
	return len(p.Spec.ResourceClaims) > 0 || p.Status.ExtendedResourceClaimStatus != nil
}

func inGang(p *framework.PodInfo) bool {
	_, ok := framework.GangOf(p.Pod)
	return ok
}

// stays says whether a pod is left alone because of what was moved before it.
func (r *round) stays(p *framework.PodInfo) bool {
	return r.moved[ownerOf(p)] || r.rests.stays(ownerOf(p), p.CreationTimestamp.Time, r.now)
}

func ownerOf(p *framework.PodInfo) types.UID { return metav1.GetControllerOfNoCopy(p.Pod).UID }

// constraints are the plugins whose refusal of its own node moves a pod.
var constraints = []string{"NodeAffinity", "InterPodAffinity", "PodTopologySpread"}

// violations moves pods whose node would be refused today.
func (r *round) violations(ctx context.Context) error {
	for _, n := range r.cluster.Nodes {
		for _, p := range r.movable(n) {
			if r.budget == 0 {
				return nil
			}
			if r.stays(p) {
				continue
			}
			why, better := r.violated(p, n)
			if better == nil {
				continue
			}
			if err := r.move(ctx, p, better, "it violates "+why+" on node "+n.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// violated returns the plugin that refuses a pod its own node, and a node that it fits on; nil if there is none.
func (r *round) violated(p *framework.PodInfo, n *framework.NodeInfo) (string, *framework.NodeInfo) {
	e, restore := r.without(p, n)
	defer restore()
	status := e.Filter(p, n)
	if status == nil || !slices.Contains(constraints, status.Plugin) {
		return "", nil
	}
	fit, _ := e.Fit(p)
	if len(fit) == 0 {
		return "", nil
	}
	return status.Plugin, fit[0]
}

// without looks at a pod as if it was not on its node, until restore is called.
func (r *round) without(p *framework.PodInfo, n *framework.NodeInfo) (e *framework.Evaluation, restore func()) {
	r.cluster.RemovePod(p.UID)
	free := *p
	spec := *p.Pod
	spec.Spec.NodeName = ""
	free.Pod = &spec
	return framework.NewEvaluation(r.cluster, r.profiles[p.Spec.SchedulerName], &free), func() { r.cluster.Place(p, n.Name) }
}

// load moves pods from nodes that are loaded more than the average to those that are less, as long as the difference shrinks.
func (r *round) load(ctx context.Context) error {
	var sum float64
	for _, n := range r.cluster.Nodes {
		sum += loadOf(n, nil)
	}
	mean := sum / float64(len(r.cluster.Nodes))
	for _, n := range r.cluster.Nodes {
		for _, p := range r.movable(n) {
			if r.budget == 0 {
				return nil
			}
			if loadOf(n, nil) <= mean+r.Margin {
				break
			}
			if r.stays(p) {
				continue
			}
			better := r.lighter(p, n, mean)
			if better == nil {
				continue
			}
			if err := r.move(ctx, p, better, "node "+n.Name+" is loaded more than others"); err != nil {
				return err
			}
		}
	}
	return nil
}

// lighter returns the node that the scheduler would choose for a pod, if it is loaded less than the average, and with the pod less than its
// node is now.
func (r *round) lighter(p *framework.PodInfo, n *framework.NodeInfo, mean float64) *framework.NodeInfo {
	now := loadOf(n, nil)
	e, restore := r.without(p, n)
	defer restore()
	fit, _ := e.Fit(p)
	if len(fit) == 0 {
		return nil
	}
	if best := e.Best(fit); best != n && loadOf(best, nil) < mean-r.Margin && loadOf(best, p) < now {
		return best
	}
	return nil
}

// loadOf is the larger one of the requested shares of a node's CPU and memory, with a pod more.
func loadOf(n *framework.NodeInfo, with *framework.PodInfo) float64 {
	cpu, memory := n.Requested.MilliCPU, n.Requested.Memory
	if with != nil {
		cpu, memory = cpu+with.Requests.MilliCPU, memory+with.Requests.Memory
	}
	share := func(used, total int64) float64 {
		if total == 0 {
			return 0
		}
		return float64(used) / float64(total)
	}
	return max(share(cpu, n.Allocatable.MilliCPU), share(memory, n.Allocatable.Memory))
}

// move evicts a pod, and counts it where it is expected to be placed. A budget that does not allow it is no error.
func (r *round) move(ctx context.Context, p *framework.PodInfo, to *framework.NodeInfo, why string) error {
	switch err := r.Client.Evict(ctx, p.Pod, client.IfUID(p.UID)); {
	case apierrors.IsTooManyRequests(err), apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil
	case err != nil:
		return err
	}
	r.Recorder.Eventf(p.Pod, corev1.EventTypeNormal, "Rebalanced", "Evicted so that it can run elsewhere, such as on node %s: %s", to.Name, why)
	r.moved[ownerOf(p)] = true
	r.rests.moved(ownerOf(p), p.CreationTimestamp.Time, r.now)
	r.budget--
	r.cluster.Place(p, to.Name)
	return nil
}
