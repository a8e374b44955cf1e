package flow

import (
	"cmp"
	"context"
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
)

// Upstream's defaults for the two limits that add up to the number of seats.
const (
	DefaultReadOnly = 400
	DefaultMutating = 200
)

// Control decides about requests. It is safe for concurrent use; nil means no limits.
type Control struct {
	seats    int
	seed     maphash.Seed
	schemas  atomic.Pointer[[]*schema] // in order of precedence
	watchers watchers
	bodies   bodies
	metrics  *metrics

	mu       sync.Mutex // guards the configuration
	given    configuration
	levels   map[string]*level
	nominal  int // the sum of the levels' nominal limits
	fraction float64
}

// schema is a FlowSchema with its level.
type schema struct {
	*flowcontrolv1.FlowSchema
	level *level
	flow  *flowCounters
	class Class
}

// New creates a Control that divides a number of seats, with upstream's mandatory configuration until Configure is called.
func New(seats int) *Control {
	c := &Control{seats: seats, seed: maphash.MakeSeed(), levels: map[string]*level{}, metrics: newMetrics()}
	c.watchers.count = map[watchKey]int{}
	c.Configure(nil, nil)
	return c
}

// Enter decides about a request: it returns once the request may be served, or with the error TooManyRequests if it is refused. The
// Seat must be left when the request has ended, or earlier.
func (c *Control) Enter(ctx context.Context, r Request) (*Seat, Class, error) {
	if c == nil {
		return nil, Class{}, nil
	}
	s := c.classify(&r)
	seat := &Seat{request{Request: r, level: s.level, flow: s.flow, width: c.estimate(&r, s), schema: s.Name}}
	var hash uint64
	if !s.level.exempt {
		seat.distinguisher = r.distinguisher(s.Spec.DistinguisherMethod)
		hash = c.hash(s.Name, seat.distinguisher)
	}
	if s.level.enter(ctx, &seat.request, hash) {
		s.flow.waited[1].Observe(seat.dispatched.Sub(seat.arrived).Seconds())
		return seat, s.class, nil
	}
	s.flow.waited[0].Observe(time.Since(seat.arrived).Seconds())
	c.metrics.dropped[kindOf(&r)].Add(1)
	return nil, s.class, apierrors.NewTooManyRequests("Too many requests, please try again later.", s.level.retry.after(time.Now()))
}

// classify returns the first schema that matches.
func (c *Control) classify(r *Request) *schema {
	schemas := *c.schemas.Load()
	for _, s := range schemas {
		if matches(s.FlowSchema, r) {
			return s
		}
	}
	// Only users who are in none of the groups system:authenticated and system:unauthenticated get here.
	i := slices.IndexFunc(schemas, func(s *schema) bool { return s.Name == flowcontrolv1.FlowSchemaNameCatchAll })
	return schemas[i]
}

func (c *Control) hash(schema, distinguisher string) uint64 {
	var h maphash.Hash
	h.SetSeed(c.seed)
	h.WriteString(schema)
	h.WriteByte(0)
	h.WriteString(distinguisher)
	return h.Sum64()
}

// configuration has the objects that Configure was given.
type configuration struct {
	schemas []*flowcontrolv1.FlowSchema
	levels  []*flowcontrolv1.PriorityLevelConfiguration
}

// Configure replaces the configuration. Mandatory objects that are missing are supplied; levels that are not valid are ignored, and
// so are schemas whose level does not exist. The objects are not modified, now or later.
func (c *Control) Configure(schemas []*flowcontrolv1.FlowSchema, levels []*flowcontrolv1.PriorityLevelConfiguration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.given = configuration{schemas, levels}
	c.configure()
}

// configure applies the given objects. The caller holds mu.
func (c *Control) configure() {
	wanted := map[string]bool{}
	for _, config := range slices.Concat(c.given.levels, bootstrap.MandatoryPriorityLevelConfigurations) {
		dealer, err := checkLevel(config)
		if err != nil || wanted[config.Name] {
			continue
		}
		wanted[config.Name] = true
		l := c.levels[config.Name]
		if l == nil {
			l = &level{name: config.Name, exempt: config.Spec.Type == flowcontrolv1.PriorityLevelEnablementExempt, metered: time.Now()}
			c.levels[config.Name] = l
		}
		l.set(config, dealer)
	}
	var list []*schema
	used := map[flowKey]bool{}
	for _, object := range slices.Concat(c.given.schemas, bootstrap.MandatoryFlowSchemas) {
		name := object.Spec.PriorityLevelConfiguration.Name
		if !wanted[name] || slices.ContainsFunc(list, func(s *schema) bool { return s.Name == object.Name }) {
			continue
		}
		l := c.levels[name]
		key := flowKey{level: name, schema: object.Name}
		used[key] = true
		list = append(list, &schema{FlowSchema: object, level: l, flow: c.metrics.of(key), class: Class{schema: object.UID, level: l.config.UID}})
	}
	slices.SortFunc(list, func(a, b *schema) int {
		return cmp.Or(cmp.Compare(a.Spec.MatchingPrecedence, b.Spec.MatchingPrecedence), strings.Compare(a.Name, b.Name))
	})
	c.schemas.Store(&list)
	for name, l := range c.levels {
		if !wanted[name] && l.quiesce() {
			delete(c.levels, name)
		}
	}
	c.metrics.keep(used)
	c.share()
}

// quiesce says whether a level that is no longer wanted can go away. Until its requests have ended it keeps its share.
func (l *level) quiesce() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.quiescing = true
	return l.idle()
}

// adjust divides the seats anew, and drops levels that have become idle after their objects were deleted.
func (c *Control) adjust() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.levels {
		l.mu.Lock()
		over := l.quiescing && l.idle()
		l.mu.Unlock()
		if over {
			c.configure()
			return
		}
	}
	c.lend()
}
