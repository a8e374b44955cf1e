package history

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/usage"
)

// Path is where every master serves what was used.
const Path = "/kontiki/v1/usage"

// Kinds are the values of Query.Of.
var Kinds = []string{nodes, namespaces, workloads, pods, containers}

// Namespaced says whether a kind is of objects in namespaces.
func Namespaced(of string) bool { return of == workloads || of == pods || of == containers }

// Query says what is asked for.
type Query struct {
	// Of is one of Kinds. Namespace selects one, "" all; Kind and Name select a workload, a node, a namespace or a pod.
	Of, Namespace, Kind, Name string
	// Since is how far back: at most a day.
	Since time.Duration
	// ByMemory sorts by memory and not by processors: who used most on average comes first.
	ByMemory bool
	// Limit is how many items are returned, Points how many of them with their points.
	Limit, Points int
	// Sees says whether the caller may see what is in a namespace; nil means all.
	Sees func(namespace string) bool
}

// Use is an amount of processors and of memory in bytes.
type Use struct {
	CPU    float64 `json:"cpu"`
	Memory float64 `json:"memory"`
}

// Points are values at regular times, NaN (null in JSON) where nothing is known.
type Points []float64

// MarshalJSON implements json.Marshaler.
func (p Points) MarshalJSON() ([]byte, error) {
	out := []byte{'['}
	for i, v := range p {
		if i > 0 {
			out = append(out, ',')
		}
		if math.IsNaN(v) {
			out = append(out, "null"...)
			continue
		}
		out = strconv.AppendFloat(out, math.Round(v*1e6)/1e6, 'f', -1, 64)
	}
	return append(out, ']'), nil
}

// Item is what one subject used.
type Item struct {
	Namespace string `json:"namespace,omitempty"`
	Kind      string `json:"kind,omitempty"`
	Name      string `json:"name"`
	UID       string `json:"uid,omitempty"`
	Container string `json:"container,omitempty"`
	// Gone says that it does not run any more: it has no point of the last two minutes.
	Gone bool `json:"gone,omitempty"`
	// Now is the newest point, Mean and Peak are of the time that was asked about.
	Now  *Use `json:"now,omitempty"`
	Mean Use  `json:"mean"`
	Peak Use  `json:"peak"`
	// Requests and Limits are the sums of what its pods request and may use; of a node, Limits is what it has to offer. They are
	// of the present. Unlimited is how many of its containers or pods have no limit of a resource.
	Requests  Use       `json:"requests"`
	Limits    Use       `json:"limits"`
	Unlimited Unlimited `json:"unlimited"`
	// Points of the times that the answer says.
	CPU    Points `json:"cpu,omitempty"`
	Memory Points `json:"memory,omitempty"`
}

// Unlimited counts pods without a limit.
type Unlimited struct {
	CPU    int `json:"cpu"`
	Memory int `json:"memory"`
}

// Answer is what was used in a time.
type Answer struct {
	Of string `json:"of"`
	// From is the time of the first point and Step the time between two, in seconds. A point is the mean of the step that begins at its time.
	From  int64  `json:"from"`
	Step  int64  `json:"step"`
	Count int    `json:"count"`
	Items []Item `json:"items"`
	// Left is how many items the limit left out.
	Left int `json:"left,omitempty"`
	// Unrecorded is how many subjects are not recorded because too much is.
	Unrecorded int `json:"unrecorded,omitempty"`
	// Began is when the answering master began to record; what it has of the time before is other masters'.
	Began time.Time `json:"began"`
}

// group is the series of an item while it is made.
type group struct {
	item        Item
	cpu, memory Points
	last        int64
	now         Amount
}

// Read answers a query.
func (k *Keeper) Read(q Query, now time.Time) *Answer {
	v := k.Client().View()
	minute := now.Unix() / 60
	a := &Answer{Of: q.Of, Step: 60, Items: []Item{}}
	fine := q.Since <= time.Hour
	if !fine {
		a.Step = stepMinutes * 60
	}
	end := now.Unix()/a.Step + 1 // the first step that is not asked for
	a.Count = int(min(max(q.Since/(time.Duration(a.Step)*time.Second), 1), steps))
	begin := end - int64(a.Count)
	a.From = begin * a.Step

	groups := k.collect(q, v, func(s *series, g *group) {
		for i := range a.Count {
			p := none
			if fine {
				p = s.minute(begin + int64(i))
			} else {
				p = s.step(begin + int64(i))
			}
			if p != none {
				g.cpu[i] = plus(g.cpu[i], float64(decode(p.cpu))/1e6)
				g.memory[i] = plus(g.memory[i], float64(decode(p.memory))*1024)
			}
		}
		if p := s.minute(s.last); p != none && s.last >= minute-1 {
			g.now.CPU, g.now.Memory = g.now.CPU+decode(p.cpu), g.now.Memory+decode(p.memory)
		}
		g.last = max(g.last, s.last)
	}, a.Count)
	k.mu.Lock()
	a.Unrecorded, a.Began = k.left, k.began.UTC()
	k.mu.Unlock()
	demands := demand(v, q)
	for key, g := range groups {
		i := &g.item
		i.Gone = g.last < minute-1
		if !i.Gone {
			i.Now = &Use{CPU: float64(g.now.CPU) / 1e6, Memory: float64(g.now.Memory) * 1024}
		}
		var measured bool
		if i.Mean.CPU, i.Peak.CPU, measured = summary(g.cpu); !measured {
			continue
		}
		i.Mean.Memory, i.Peak.Memory, _ = summary(g.memory)
		if d := demands[key]; d != nil {
			i.Requests, i.Limits, i.Unlimited = d.requests, d.limits, d.unlimited
		}
		i.CPU, i.Memory = g.cpu, g.memory
		a.Items = append(a.Items, *i)
	}
	slices.SortFunc(a.Items, func(x, y Item) int {
		by := cmp.Compare(y.Mean.CPU, x.Mean.CPU)
		if q.ByMemory {
			by = cmp.Compare(y.Mean.Memory, x.Mean.Memory)
		}
		return cmp.Or(by, strings.Compare(x.Namespace, y.Namespace), strings.Compare(x.Name, y.Name), strings.Compare(x.Container, y.Container), strings.Compare(x.UID, y.UID))
	})
	if len(a.Items) > q.Limit {
		a.Left = len(a.Items) - q.Limit
		a.Items = a.Items[:q.Limit]
	}
	for i := q.Points; i < len(a.Items); i++ {
		a.Items[i].CPU, a.Items[i].Memory = nil, nil
	}
	return a
}

func plus(sum, v float64) float64 {
	if math.IsNaN(sum) {
		return v
	}
	return sum + v
}

// summary returns the mean and the greatest of the points that are known, and whether any is.
func summary(points Points) (mean, peak float64, known bool) {
	n := 0
	for _, p := range points {
		if !math.IsNaN(p) {
			mean, peak, n = mean+p, max(peak, p), n+1
		}
	}
	if n == 0 {
		return 0, 0, false
	}
	return mean / float64(n), peak, true
}

// collect returns the items that a query selects, by the subjects that they are of.
func (k *Keeper) collect(q Query, v client.View, add func(*series, *group), count int) map[subject]*group {
	groups := map[subject]*group{}
	present := map[string]string{} // the UIDs of namespaces, as far as the caller may see them
	sees := func(s subject) bool {
		uid, known := present[s.namespace]
		if !known {
			if q.Sees == nil || q.Sees(s.namespace) {
				uid = namespaceUID(v, s.namespace)
			}
			present[s.namespace] = uid
		}
		return uid != "" && uid == s.namespaceUID
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for s, have := range k.all {
		key, ok := q.selects(s)
		if !ok || s.of != nodes && !sees(s) {
			continue
		}
		g := groups[key]
		if g == nil {
			g = &group{cpu: unknownPoints(count), memory: unknownPoints(count)}
			g.item = Item{Namespace: key.namespace, Kind: key.kind, Name: key.name, UID: key.uid, Container: key.container}
			if key.of == namespaces {
				g.item.Namespace, g.item.Name, g.item.UID = "", key.namespace, key.namespaceUID
			}
			groups[key] = g
		}
		add(have, g)
	}
	return groups
}

func unknownPoints(n int) Points {
	p := make(Points, n)
	for i := range p {
		p[i] = math.NaN()
	}
	return p
}

// selects says whether a series is asked for, and of which item it is.
func (q Query) selects(s subject) (item subject, ok bool) {
	of := q.Of
	if of == pods {
		of = containers
	}
	if s.of != of || q.Namespace != "" && s.namespace != q.Namespace || q.Kind != "" && s.kind != q.Kind {
		return s, false
	}
	if name := q.Name; name != "" && name != s.name && !(s.of == namespaces && name == s.namespace) {
		return s, false
	}
	if q.Of == pods {
		s.of, s.container = pods, ""
	}
	return s, true
}

// demanded is what an item's pods ask for.
type demanded struct {
	requests, limits Use
	unlimited        Unlimited
}

// demand returns what the pods that have not ended ask for, by the subjects of a query.
func demand(v client.View, q Query) map[subject]*demanded {
	all := map[subject]*demanded{}
	of := func(s subject) *demanded {
		if all[s] == nil {
			all[s] = &demanded{}
		}
		return all[s]
	}
	uids := map[string]string{}
	nodeKeys := map[string]subject{}
	if q.Of == nodes {
		client.Each(v, "", func(n *corev1.Node) bool {
			key := subject{of: nodes, name: n.Name, uid: string(n.UID)}
			nodeKeys[n.Name] = key
			of(key).limits = use(n.Status.Allocatable)
			return true
		})
	}
	client.Each(v, q.Namespace, func(pod *corev1.Pod) bool {
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed || pod.Spec.NodeName == "" || q.Of == pods && q.Name != "" && pod.Name != q.Name {
			return true
		}
		uid, known := uids[pod.Namespace]
		if !known {
			uid = namespaceUID(v, pod.Namespace)
			uids[pod.Namespace] = uid
		}
		key := subject{of: q.Of, namespace: pod.Namespace, namespaceUID: uid}
		switch q.Of {
		case nodes:
			if node, ok := nodeKeys[pod.Spec.NodeName]; ok {
				d := of(node)
				d.requests = d.requests.plus(use(resource.PodRequests(pod, resource.PodResourcesOptions{})))
			}
			return true
		case workloads:
			w := usage.WorkloadOf(v, pod)
			key.kind, key.name = w.Kind, w.Name
		case pods:
			key.name, key.uid = pod.Name, usage.UIDOnNode(pod)
		case containers:
			key.name, key.uid = pod.Name, usage.UIDOnNode(pod)
			for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
				for i := range list {
					key.container = list[i].Name
					of(key).add(list[i].Resources.Requests, list[i].Resources.Limits)
				}
			}
			return true
		}
		of(key).add(resource.PodRequests(pod, resource.PodResourcesOptions{}), resource.PodLimits(pod, resource.PodResourcesOptions{}))
		return true
	})
	return all
}

func (d *demanded) add(requests, limits corev1.ResourceList) {
	d.requests, d.limits = d.requests.plus(use(requests)), d.limits.plus(use(limits))
	if limits.Cpu().IsZero() {
		d.unlimited.CPU++
	}
	if limits.Memory().IsZero() {
		d.unlimited.Memory++
	}
}

func (u Use) plus(o Use) Use { return Use{u.CPU + o.CPU, u.Memory + o.Memory} }

func use(list corev1.ResourceList) Use {
	return Use{CPU: list.Cpu().AsApproximateFloat64(), Memory: list.Memory().AsApproximateFloat64()}
}
