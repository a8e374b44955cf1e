// Package advice keeps what the containers of workloads used, and says what requests would fit (internal/advice has the rules).
//
// Each master samples the reports of all workers (api/usage) and keeps the result in memory, so that any can answer, and nothing is stored or
// sent for it. A master that was started again knows only what was since. What is kept is bounded: mostTracked containers of workloads.
package advice

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/usage"
	"github.com/kontiki/kontiki/internal/advice"
	"github.com/kontiki/kontiki/internal/contain"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// mostTracked limits the containers of workloads that are known; each needs up to 3 kB.
	mostTracked = 4096
	// forgotten is for how long a workload is remembered of which nothing runs; less if there is no room.
	forgotten, forgottenIfFull = 7 * 24 * time.Hour, time.Hour
)

type key struct {
	usage.Workload
	container string
}

// Config says what a Keeper samples.
type Config struct {
	Usage  *usage.Directory
	Client *client.Client
	// Period is how often it samples; 0 means once a minute.
	Period time.Duration
	Log    *slog.Logger
}

// Keeper samples and advises. It is safe for concurrent use.
type Keeper struct {
	Config
	mu    sync.Mutex
	known map[key]*advice.Usage
	pods  map[string]*watched // by key of the store; those that were reported at the last sample
	// sampled is when the last sample was taken: out-of-memory kills since then are new.
	sampled time.Time
}

// New returns a Keeper that knows nothing.
func New(c Config) *Keeper {
	if c.Period <= 0 {
		c.Period = time.Minute
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return &Keeper{Config: c, known: map[key]*advice.Usage{}}
}

// Run samples until the context ends.
func (k *Keeper) Run(ctx context.Context) error {
	ticker := time.NewTicker(k.Period)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			if err := contain.Run(func() error { k.sample(ctx, now); return nil }); err != nil {
				k.Log.Error("what pods use could not be sampled", "error", err, "stack", contain.Stack(err))
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watched is what is remembered of a pod that a worker reports, so that only pods that changed are decoded.
type watched struct {
	revision   uint64
	node, uid  string // as reported
	owned      bool   // it runs, and is the API's pod on that node
	workload   usage.Workload
	containers map[string]float64 // the processors that each requests
}

func (k *Keeper) sample(ctx context.Context, now time.Time) {
	s, v := k.Usage.Now(ctx), k.Client.View()
	pods := k.Client.KindOf(&corev1.Pod{})
	k.mu.Lock()
	defer k.mu.Unlock()
	seen := make(map[string]*watched, len(k.pods))
	s.EachPod(func(node string, p *nodev1.PodUsage) {
		at := pods.Key(p.Namespace, p.Name)
		version, ok := v.Get(at)
		if !ok {
			return
		}
		w := k.pods[at]
		if w == nil || w.revision != version.ModRevision || w.node != node || w.uid != p.Uid {
			if w = k.look(v, node, p, now); w == nil {
				return
			}
			w.revision = version.ModRevision
		}
		seen[at] = w
		if !w.owned || !p.Complete || slices.ContainsFunc(p.Containers, func(c *nodev1.ContainerUsage) bool { return c.Compute.WindowMs == 0 }) {
			return
		}
		for _, c := range p.Containers {
			if requested, ok := w.containers[c.Name]; ok {
				k.add(key{w.workload, c.Name}, now, float64(c.Compute.CpuNanocores)/1e9, float64(c.Compute.MemoryWorkingSetBytes), requested)
			}
		}
	})
	k.pods = seen
	for key, u := range k.known {
		if now.Sub(u.Last) > forgotten {
			delete(k.known, key)
		}
	}
	k.sampled = now
}

// look decodes a pod that a worker reports, and notes if its containers were out of memory since the last sample; nil if there is none.
func (k *Keeper) look(v client.View, node string, p *nodev1.PodUsage, now time.Time) *watched {
	pod, ok := client.Get[*corev1.Pod](v, p.Namespace, p.Name)
	if !ok {
		return nil
	}
	w := &watched{node: node, uid: p.Uid, owned: usage.Owns(pod, node, p) && pod.Status.Phase == corev1.PodRunning, workload: usage.WorkloadOf(v, pod), containers: map[string]float64{}}
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if spec := containerOf(pod, list[i].Name); spec != nil {
				w.containers[spec.Name] = spec.Resources.Requests.Cpu().AsApproximateFloat64()
			}
		}
	}
	if w.owned {
		k.noteOutOfMemory(w.workload, pod, now)
	}
	return w
}

func (k *Keeper) add(of key, now time.Time, cores, bytes, requested float64) {
	u := k.known[of]
	if u == nil {
		if len(k.known) >= mostTracked && !k.makeRoom(now) {
			return
		}
		u = &advice.Usage{}
		k.known[of] = u
	}
	u.Add(now, cores, bytes, requested)
}

// makeRoom forgets what has not run for a while.
func (k *Keeper) makeRoom(now time.Time) bool {
	for of, u := range k.known {
		if now.Sub(u.Last) > forgottenIfFull {
			delete(k.known, of)
		}
	}
	return len(k.known) < mostTracked
}

// noteOutOfMemory notes which containers were killed since the last sample because they were out of memory.
func (k *Keeper) noteOutOfMemory(of usage.Workload, pod *corev1.Pod, now time.Time) {
	for i := range pod.Status.ContainerStatuses {
		s := &pod.Status.ContainerStatuses[i]
		ended := s.LastTerminationState.Terminated
		if ended == nil || ended.Reason != "OOMKilled" || !ended.FinishedAt.After(k.sampled) || k.sampled.IsZero() {
			continue
		}
		spec := containerOf(pod, s.Name)
		if spec == nil {
			continue
		}
		had := spec.Resources.Limits.Memory().AsApproximateFloat64()
		if had == 0 {
			had = spec.Resources.Requests.Memory().AsApproximateFloat64()
		}
		if u := k.known[key{of, s.Name}]; u != nil {
			u.OutOfMemory(now, had)
		}
	}
}

// containerOf returns a container of a pod that runs as long as the pod: a main one or a sidecar.
func containerOf(pod *corev1.Pod, name string) *corev1.Container {
	for i := range pod.Spec.Containers {
		if c := &pod.Spec.Containers[i]; c.Name == name {
			return c
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.Name == name && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			return c
		}
	}
	return nil
}

// Amounts are what a container requests of a resource, what it may use and used most at a sample, and what is advised.
type Amounts struct {
	Request *resource.Quantity `json:"request,omitempty"`
	Limit   *resource.Quantity `json:"limit,omitempty"`
	Most    resource.Quantity  `json:"most"`
	Target  resource.Quantity  `json:"target"`
	Lower   resource.Quantity  `json:"lower"`
	Upper   resource.Quantity  `json:"upper"`
}

// Item is the advice for a container of a workload.
type Item struct {
	usage.Workload
	Container string `json:"container"`
	// Pods is how many pods of the workload run; what they request is that of the newest.
	Pods    int         `json:"pods"`
	Since   metav1.Time `json:"since"`
	Samples int         `json:"samples"`
	CPU     Amounts     `json:"cpu"`
	Memory  Amounts     `json:"memory"`
}

// List is the advice for workloads that run.
type List struct {
	Items []Item `json:"items"`
}

// Advise returns the advice for the workloads that run in a namespace, "" for all, in the order of their names.
func (k *Keeper) Advise(namespace string) *List {
	v := k.Client.View()
	newest, count := map[usage.Workload]*corev1.Pod{}, map[usage.Workload]int{}
	client.Each(v, namespace, func(pod *corev1.Pod) bool {
		if pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil {
			w := usage.WorkloadOf(v, pod)
			count[w]++
			if have := newest[w]; have == nil || have.CreationTimestamp.Before(&pod.CreationTimestamp) {
				newest[w] = pod
			}
		}
		return true
	})
	l := &List{Items: []Item{}}
	k.mu.Lock()
	defer k.mu.Unlock()
	for of, u := range k.known {
		pod := newest[of.Workload]
		if pod == nil {
			continue
		}
		spec := containerOf(pod, of.container)
		if spec == nil {
			continue
		}
		l.Items = append(l.Items, Item{Workload: of.Workload, Container: of.container, Pods: count[of.Workload], Since: metav1.NewTime(u.Since), Samples: u.Samples,
			CPU: amounts(spec, corev1.ResourceCPU, u.CPU(), u.MostCores), Memory: amounts(spec, corev1.ResourceMemory, u.Memory(), u.MostBytes)})
	}
	slices.SortFunc(l.Items, func(a, b Item) int {
		return strings.Compare(a.Namespace+"/"+a.Kind+"/"+a.Name+"/"+a.Container, b.Namespace+"/"+b.Kind+"/"+b.Name+"/"+b.Container)
	})
	return l
}

func amounts(c *corev1.Container, name corev1.ResourceName, b advice.Bounds, most float64) Amounts {
	of := func(list corev1.ResourceList) *resource.Quantity {
		if q, ok := list[name]; ok {
			return &q
		}
		return nil
	}
	return Amounts{Request: of(c.Resources.Requests), Limit: of(c.Resources.Limits), Most: Quantity(name, most), Target: Quantity(name, b.Target), Lower: Quantity(name, b.Lower), Upper: Quantity(name, b.Upper)}
}

// Quantity returns an amount of a resource, rounded up: processors to a thousandth, memory to a MiB.
func Quantity(name corev1.ResourceName, amount float64) resource.Quantity {
	if name == corev1.ResourceCPU {
		return *resource.NewMilliQuantity(ceil(amount*1000), resource.DecimalSI)
	}
	return *resource.NewQuantity(ceil(amount/(1<<20))<<20, resource.BinarySI)
}

func ceil(f float64) int64 {
	n := int64(f)
	if float64(n) < f {
		n++
	}
	return n
}

// Need returns what is advised for the containers of a pod, and what they used when they were last measured. Those are missing that are not known, or
// have been for less than a time.
func (k *Keeper) Need(s *usage.Snapshot, pod *corev1.Pod, atLeast time.Duration) map[string]advice.Need {
	measured := s.PodMetrics(pod)
	if measured == nil {
		return nil
	}
	w := usage.WorkloadOf(k.Client.View(), pod)
	needs := map[string]advice.Need{}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range measured.Containers {
		if u := k.known[key{w, c.Name}]; u != nil && u.Last.Sub(u.Since) >= atLeast {
			needs[c.Name] = advice.Need{CPU: u.CPU().Target, Memory: u.Memory().Target, UsedCPU: c.Usage.Cpu().AsApproximateFloat64(), UsedMemory: c.Usage.Memory().AsApproximateFloat64()}
		}
	}
	return needs
}
