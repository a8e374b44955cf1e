package history

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/usage"
	"github.com/kontiki/kontiki/internal/contain"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// MostSeries limits the series that are kept: 64 MB with the names of their subjects.
	MostSeries = 40_000
	// kept is for how long a series is kept that has no new point: as long as a step counts.
	kept = 24 * time.Hour
	// fillPatience is for how long after its start a master asks the others for what they have.
	fillPatience = 10 * time.Minute
)

// What a series is of.
const (
	nodes      = "nodes"
	namespaces = "namespaces"
	workloads  = "workloads"
	pods       = "pods" // there are no series of pods: they are the sums of their containers'
	containers = "containers"
)

// subject is whose series it is.
type subject struct {
	of                      string
	namespace, namespaceUID string
	// kind is a workload's. name is a node's, a workload's, or that of a container's pod; uid is the node's or the pod's on its node.
	kind, name, uid string
	container       string
}

// Config says what a Keeper records.
type Config struct {
	Usage  *usage.Directory
	Client func() *client.Client
	// Own, Masters and Connect find the other masters, as in usage.Config; without Masters there are none.
	Own     string
	Masters func() []string
	Connect func(address string) (grpc.ClientConnInterface, error)
	Log     *slog.Logger
}

// Keeper records, and answers what was used. It is safe for concurrent use.
type Keeper struct {
	Config
	mu    sync.Mutex
	all   map[subject]*series
	pods  map[string]watched // by key of the store: those that were reported last
	began time.Time          // when this master began to record
	left  int                // how many subjects were not recorded at the last sample, for lack of room
}

// watched is what is remembered of a reported pod, so that only pods that changed are looked at.
type watched struct {
	revision     uint64
	node, uid    string
	owned        bool
	namespaceUID string
	workload     usage.Workload
}

// New returns a Keeper that knows nothing.
func New(c Config) *Keeper {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Keeper{Config: c, all: map[subject]*series{}}
}

// Run records until the context ends: first what other masters have, then once a minute.
func (k *Keeper) Run(ctx context.Context) error {
	began := time.Now()
	filled := false
	for {
		if err := contain.Run(func() error {
			if !filled && time.Since(began) < fillPatience {
				filled = k.fillFromOthers(ctx)
			}
			k.sample(ctx, time.Now())
			return nil
		}); err != nil {
			k.Log.Error("what is used could not be recorded", "error", err, "stack", contain.Stack(err))
		}
		now := time.Now()
		next := time.NewTimer(now.Truncate(time.Minute).Add(time.Minute).Sub(now))
		select {
		case <-next.C:
		case <-ctx.Done():
			next.Stop()
			return ctx.Err()
		}
	}
}

func amount(c *nodev1.ComputeUsage) Amount {
	return Amount{CPU: c.CpuNanocores / 1000, Memory: c.MemoryWorkingSetBytes >> 10}
}

// sample records what was reported last, as of a minute.
func (k *Keeper) sample(ctx context.Context, now time.Time) {
	used := k.Usage.Now(ctx)
	c := k.Client()
	v := c.View()
	podKind := c.KindOf(&corev1.Pod{})
	sums := map[subject]Amount{}
	add := func(s subject, a Amount) {
		sum := sums[s]
		sums[s] = Amount{sum.CPU + a.CPU, sum.Memory + a.Memory}
	}
	client.Each(v, "", func(n *corev1.Node) bool {
		if u := used.Node(n.Name); u != nil && u.Compute.WindowMs != 0 {
			add(subject{of: nodes, name: n.Name, uid: string(n.UID)}, amount(u.Compute))
		}
		return true
	})
	seen := make(map[string]watched, len(k.pods))
	used.EachPod(func(node string, p *nodev1.PodUsage) {
		at := podKind.Key(p.Namespace, p.Name)
		version, ok := v.Get(at)
		if !ok || slices.ContainsFunc(p.Containers, func(c *nodev1.ContainerUsage) bool { return c.Compute.WindowMs == 0 }) {
			return
		}
		w := k.pods[at]
		if w.revision != version.ModRevision || w.node != node || w.uid != p.Uid {
			w = look(v, node, p)
			w.revision = version.ModRevision
		}
		seen[at] = w
		if !w.owned {
			return
		}
		for _, c := range p.Containers {
			a := amount(c.Compute)
			add(subject{of: containers, namespace: p.Namespace, namespaceUID: w.namespaceUID, name: p.Name, uid: p.Uid, container: c.Name}, a)
			add(subject{of: workloads, namespace: p.Namespace, namespaceUID: w.namespaceUID, kind: w.workload.Kind, name: w.workload.Name}, a)
			add(subject{of: namespaces, namespace: p.Namespace, namespaceUID: w.namespaceUID}, a)
		}
	})
	k.pods = seen // only this goroutine uses it

	minute := now.Unix() / 60
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.began.IsZero() {
		k.began = now
	}
	k.forget(minute, len(sums))
	k.left = 0
	for s, a := range sums {
		have := k.all[s]
		if have == nil {
			if len(k.all) >= MostSeries {
				k.left++
				continue
			}
			have = newSeries()
			k.all[s] = have
		}
		have.add(minute, a)
	}
}

// look says what is to be known of a pod that a worker reports.
func look(v client.View, node string, p *nodev1.PodUsage) (w watched) {
	w = watched{node: node, uid: p.Uid}
	pod, ok := client.Get[*corev1.Pod](v, p.Namespace, p.Name)
	if !ok || !usage.Owns(pod, node, p) || pod.Status.Phase != corev1.PodRunning {
		return w
	}
	w.owned, w.namespaceUID, w.workload = true, namespaceUID(v, p.Namespace), usage.WorkloadOf(v, pod)
	return w
}

func namespaceUID(v client.View, name string) string {
	if n, ok := client.Get[*corev1.Namespace](v, "", name); ok {
		return string(n.UID)
	}
	return ""
}

// forget drops series that have no new point since a day and, if there is no room for the subjects of a sample, those that have had none for longest.
func (k *Keeper) forget(minute int64, wanted int) {
	oldest := minute - int64(kept/time.Minute)
	var idle []subject // without a point in the last sample but one
	for s, have := range k.all {
		switch {
		case have.last < oldest:
			delete(k.all, s)
		case have.last < minute-1:
			idle = append(idle, s)
		}
	}
	current := len(k.all) - len(idle)
	room := MostSeries - max(wanted, current)
	if len(idle) <= room {
		return
	}
	slices.SortFunc(idle, func(a, b subject) int { return int(k.all[a].last - k.all[b].last) })
	for _, s := range idle[:len(idle)-max(room, 0)] {
		delete(k.all, s)
	}
}
