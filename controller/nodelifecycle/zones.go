package nodelifecycle

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/topology"

	"github.com/kontiki/kontiki/api/client"
)

// Evictions are the rates at which nodes that are not ready are emptied, named as upstream's flags.
type Evictions struct {
	// Rate is how many nodes of a zone are emptied per second, SecondaryRate how many in an unhealthy zone with more than
	// LargeCluster nodes. In a smaller unhealthy zone none are.
	Rate, SecondaryRate float64
	// UnhealthyZone is the fraction of a zone's nodes, at least three, that must be not ready for the zone to be unhealthy.
	UnhealthyZone float64
	LargeCluster  int
}

// DefaultEvictions are upstream's defaults.
var DefaultEvictions = Evictions{Rate: 0.1, SecondaryRate: 0.01, UnhealthyZone: 0.55, LargeCluster: 50}

const unhealthyAtLeast = 3

// excludeLabel is upstream's label that excludes a node from the count of unhealthy ones.
const excludeLabel = "node.kubernetes.io/exclude-disruption"

// zoneState tells how many of a zone's nodes are not ready.
type zoneState int

const (
	zoneNormal    zoneState = iota
	zonePartially           // so much that evictions slow down, or stop in a small zone
	zoneFully               // no node is ready: the whole zone is lost, and its pods are moved
)

// zones decides when a node that is not ready gets its NoExecute taint, so that a failure that is more likely one of the network or
// of this master moves few pods (k8s.io/kubernetes/pkg/controller/nodelifecycle). Each zone, by the nodes' labels
// topology.kubernetes.io/region and /zone, has a token bucket of size one: the first node is tainted at once, the next ones in the
// order in which they were lost. When no zone has a ready node left, nothing is evicted, and pending evictions are cancelled. Its
// methods are safe for concurrent use.
type zones struct {
	limits Evictions
	mu     sync.Mutex
	nodes  map[string]standing // the nodes that count, by name
	counts map[string]*zoneCount
	states map[string]zoneState
	halted bool // every zone is fully disrupted
	queues map[string]*zoneQueue
	// admitted are the nodes that may be tainted but have not been yet.
	admitted map[string]bool
}

// zoneQueue holds a zone's nodes that wait to be tainted, first in, first out.
type zoneQueue struct {
	limiter *rate.Limiter
	waiting []string
}

func newZones(limits Evictions) *zones {
	return &zones{limits: limits, states: map[string]zoneState{}, queues: map[string]*zoneQueue{}, admitted: map[string]bool{}}
}

// standing is the part of a node's state that counts for its zone.
type standing struct {
	zone  string
	ready bool
}

// zoneCount is how many nodes of a zone are ready and how many are not.
type zoneCount struct{ ready, lost int }

func (c *zoneCount) add(ready bool, n int) {
	if ready {
		c.ready += n
	} else {
		c.lost += n
	}
}

// reset counts the nodes of a view anew.
func (z *zones) reset(v client.View, now time.Time) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.nodes, z.counts = map[string]standing{}, map[string]*zoneCount{}
	client.Each(v, "", func(n *corev1.Node) bool {
		z.count(n.Name, n)
		return true
	})
	z.judge(now)
}

// follow applies a change of a node, nil if it was deleted, and reports whether that changed the rate at which nodes are tainted.
func (z *zones) follow(name string, node *corev1.Node, now time.Time) (changed bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.count(name, node) && z.judge(now)
}

// count updates the counts for a node, and reports whether they changed. The caller holds mu.
func (z *zones) count(name string, node *corev1.Node) bool {
	before, counted := z.nodes[name]
	var after standing
	counts := node != nil
	if counts {
		status, _ := ready(node)
		after = standing{topology.GetZoneKey(node), status == corev1.ConditionTrue}
		_, excluded := node.Labels[excludeLabel]
		counts = !excluded
	}
	if counted == counts && (!counts || before == after) {
		return false
	}
	if counted {
		c := z.counts[before.zone]
		if c.add(before.ready, -1); *c == (zoneCount{}) {
			delete(z.counts, before.zone)
		}
		delete(z.nodes, name)
	}
	if counts {
		if z.counts[after.zone] == nil {
			z.counts[after.zone] = &zoneCount{}
		}
		z.counts[after.zone].add(after.ready, 1)
		z.nodes[name] = after
	}
	return true
}

// judge derives the zones' states from the counts, and reports whether they changed. The caller holds mu.
func (z *zones) judge(now time.Time) (changed bool) {
	halted := len(z.counts) > 0
	states := map[string]zoneState{}
	for zone, c := range z.counts {
		switch {
		case c.ready == 0:
			states[zone] = zoneFully
		case c.lost >= unhealthyAtLeast && float64(c.lost) >= z.limits.UnhealthyZone*float64(c.lost+c.ready):
			states[zone] = zonePartially
		default:
			states[zone] = zoneNormal
		}
		halted = halted && states[zone] == zoneFully
		limit := rate.Limit(z.limits.Rate)
		if states[zone] == zonePartially {
			if limit = 0; c.lost+c.ready > z.limits.LargeCluster {
				limit = rate.Limit(z.limits.SecondaryRate)
			}
		}
		q := z.queue(zone)
		if q.limiter.Limit() != limit {
			q.limiter.SetLimitAt(now, limit)
		}
		if was, known := z.states[zone]; !known || was != states[zone] {
			changed = true
		}
	}
	changed = changed || halted != z.halted || len(states) != len(z.states)
	z.states, z.halted = states, halted
	return changed
}

// queue returns a zone's queue. The caller holds mu.
func (z *zones) queue(zone string) *zoneQueue {
	q := z.queues[zone]
	if q == nil {
		q = &zoneQueue{limiter: rate.NewLimiter(rate.Limit(z.limits.Rate), 1)}
		z.queues[zone] = q
	}
	return q
}

// stopped reports whether nothing is evicted because no node is ready.
func (z *zones) stopped() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.halted
}

// admit reports whether a node may be tainted now. If not, it waits in its zone's queue; after is when to call again, 0 for when
// the zones have changed.
func (z *zones) admit(node *corev1.Node, now time.Time) (ok bool, after time.Duration) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.halted {
		return false, 0
	}
	if z.admitted[node.Name] {
		return true, 0 // the previous write failed
	}
	q := z.queue(topology.GetZoneKey(node))
	place := slices.Index(q.waiting, node.Name)
	if place < 0 {
		place = len(q.waiting)
		q.waiting = append(q.waiting, node.Name)
	}
	if q.limiter.Limit() == 0 {
		return false, 0
	}
	if place == 0 && q.limiter.AllowN(now, 1) {
		q.waiting = q.waiting[1:]
		z.admitted[node.Name] = true
		return true, 0
	}
	// A waiting node calls again for each token: those before it may have left the queue.
	missing := 1 - q.limiter.TokensAt(now)
	return false, max(time.Duration(missing/float64(q.limiter.Limit())*float64(time.Second)), admitPause)
}

// admitPause is the shortest time between two calls for a waiting node.
const admitPause = 100 * time.Millisecond

// forget removes a node from the queues, because it is ready, tainted or deleted.
func (z *zones) forget(name string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	delete(z.admitted, name)
	for _, q := range z.queues {
		if i := slices.Index(q.waiting, name); i >= 0 {
			q.waiting = slices.Delete(q.waiting, i, i+1)
		}
	}
}
