package proxy

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/knftables"
)

// staleAge is how long an unreferenced chain stays before it is deleted.
const staleAge = time.Second

// state is the kernel's content, as last written. It may be used only if valid.
type state struct {
	valid  bool
	ranges ranges
	at     place
	units  map[string]*unit // by namespace/name
	// claims are the services that use an element, with its value for each. Two services may use one external IP: the first by name
	// gets it.
	claims map[elementID]map[string]string
	stale  map[string]time.Time // emptied chains, and since when
}

type applyStats struct{ changed, operations int }

// apply changes the kernel from p.applied to the given services in at most one transaction. It changes p.applied even if the
// transaction fails; then the caller must mark it invalid. anew first deletes the table.
func (p *Proxy) apply(ctx context.Context, services []*corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, r ranges, at place, anew bool) (applyStats, error) {
	c := &change{p: p, tx: p.nft.NewTransaction(), full: !p.applied.valid, touched: map[elementID]string{}}
	if c.full {
		if err := c.begin(ctx, r, anew); err != nil {
			return applyStats{}, err
		}
	} else if p.applied.ranges != r {
		writeRanges(c.tx, r)
	}
	moved := p.applied.at != at // the node's zone, or where connections wait, changed
	p.applied.ranges, p.applied.at = r, at

	bySvc := map[string][]*discoveryv1.EndpointSlice{}
	for _, s := range endpointSlices {
		if name := s.Labels[discoveryv1.LabelServiceName]; name != "" && s.AddressType == discoveryv1.AddressTypeIPv4 {
			key := s.Namespace + "/" + name
			bySvc[key] = append(bySvc[key], s)
		}
	}
	seen := make(map[string]bool, len(services))
	var changed []string
	fresh := map[string]*unit{}
	for _, s := range services {
		key := s.Namespace + "/" + s.Name
		seen[key] = true
		old := p.applied.units[key]
		if old != nil && !moved && sameService(old.service, s) && sameSlices(old.slices, bySvc[key]) {
			continue
		}
		fresh[key] = renderUnit(s, bySvc[key], at, p.local, p.o.Reserved)
		changed = append(changed, key)
	}
	for key := range p.applied.units {
		if !seen[key] {
			changed = append(changed, key)
		}
	}
	sort.Strings(changed) // so that equal changes give equal transactions
	for _, key := range changed {
		c.replace(key, p.applied.units[key], fresh[key])
	}
	c.finish()
	stats := applyStats{len(changed), c.tx.NumOperations()}
	if stats.operations > 0 {
		if err := p.inside(func() error { return p.nft.Run(ctx, c.tx) }); err != nil {
			return stats, fmt.Errorf("nftables transaction of %d operations: %w", stats.operations, err)
		}
	}
	p.applied.valid = true
	p.forgetFlows(c.flows)
	return stats, nil
}

// change collects one transaction. nft carries out the operations in order, so objects are created before they are referenced, and
// references are removed before their objects.
type change struct {
	p       *Proxy
	tx      *knftables.Transaction
	full    bool
	touched map[elementID]string // elements whose claims changed, with their value before ("\x00" for none)

	makeSets    []string
	setTimeouts map[string]time.Duration
	makeChains  []string
	writeChains map[string][]string
	dropChains  []string
	dropSets    []string
	flows       []flows
}

const absent = "\x00"

// begin starts without knowledge of the kernel's content: rules are flushed, and objects that no service refers to are removed.
func (c *change) begin(ctx context.Context, r ranges, anew bool) error {
	a := &c.p.applied
	*a = state{units: map[string]*unit{}, claims: map[elementID]map[string]string{}, stale: map[string]time.Time{}}
	c.tx.Add(&knftables.Table{})
	if anew {
		c.tx.Delete(&knftables.Table{})
		c.tx.Add(&knftables.Table{})
	} else {
		err := c.p.inside(func() error {
			all, err := c.p.nft.ListAll(ctx)
			if err != nil && !knftables.IsNotFound(err) {
				return fmt.Errorf("list table %s: %w", tableName, err)
			}
			for _, name := range all["chain"] {
				if isServiceChain(name) {
					a.stale[name] = time.Now() // replace removes those that are in use
				}
			}
			for _, name := range all["set"] {
				if strings.HasPrefix(name, "aff-") {
					c.dropSets = append(c.dropSets, name)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		c.tx.Flush(&knftables.Table{})
	}
	writeBase(c.tx)
	writeRanges(c.tx, r)
	return nil
}

// replace changes one service's unit to another; nil means none.
func (c *change) replace(key string, old, new *unit) {
	a := &c.p.applied
	if old == nil {
		old = &unit{}
	}
	if new != nil {
		a.units[key] = new
	} else {
		delete(a.units, key)
		new = &unit{}
	}
	for name, timeout := range new.affinity {
		if _, ok := old.affinity[name]; !ok {
			if c.setTimeouts == nil {
				c.setTimeouts = map[string]time.Duration{}
			}
			c.makeSets, c.setTimeouts[name] = append(c.makeSets, name), timeout
		}
	}
	for name := range old.affinity {
		if _, ok := new.affinity[name]; !ok {
			c.dropSets = append(c.dropSets, name)
		}
	}
	if c.writeChains == nil {
		c.writeChains = map[string][]string{}
	}
	for name, rules := range new.chains {
		if had, ok := old.chains[name]; !ok || !slices.Equal(had, rules) {
			c.writeChains[name] = rules
			c.makeChains = append(c.makeChains, name)
		}
	}
	for name := range old.chains {
		if _, ok := new.chains[name]; !ok {
			c.dropChains = append(c.dropChains, name)
		}
	}
	for id, value := range new.elements {
		if had, ok := old.elements[id]; !ok || had != value {
			c.touch(id)
			if a.claims[id] == nil {
				a.claims[id] = map[string]string{}
			}
			a.claims[id][key] = value
		}
	}
	for id := range old.elements {
		if _, ok := new.elements[id]; !ok {
			c.touch(id)
			if delete(a.claims[id], key); len(a.claims[id]) == 0 {
				delete(a.claims, id)
			}
		}
	}
	if !sameFlows(old.flows, new.flows) {
		c.flows = append(c.flows, new.flows...)
		for _, f := range old.flows { // addresses that the service no longer has keep no endpoint
			if !slices.ContainsFunc(new.flows, func(g flows) bool { return g.addr == f.addr && g.port == f.port }) {
				c.flows = append(c.flows, flows{addr: f.addr, port: f.port})
			}
		}
	}
}

// touch records an element's value before its claims change.
func (c *change) touch(id elementID) {
	if _, ok := c.touched[id]; !ok {
		c.touched[id] = c.p.applied.value(id)
	}
}

// value returns an element's value: that of the first claimant by name.
func (a *state) value(id elementID) string {
	first, value := "", absent
	for who, v := range a.claims[id] {
		if first == "" || who < first {
			first, value = who, v
		}
	}
	return value
}

func (c *change) finish() {
	a := &c.p.applied
	sort.Strings(c.makeSets)
	sort.Strings(c.makeChains)
	sort.Strings(c.dropChains)
	sort.Strings(c.dropSets)
	for _, name := range c.makeSets {
		timeout := c.setTimeouts[name]
		c.tx.Add(&knftables.Set{Name: name, Type: "ipv4_addr", Flags: []knftables.SetFlag{knftables.DynamicFlag, knftables.TimeoutFlag}, Timeout: &timeout})
	}
	for _, name := range c.makeChains {
		c.tx.Add(&knftables.Chain{Name: name})
		if !c.full {
			c.tx.Flush(&knftables.Chain{Name: name})
		}
		delete(a.stale, name)
	}
	for _, name := range c.makeChains {
		for _, rule := range c.writeChains[name] {
			c.tx.Add(&knftables.Rule{Chain: name, Rule: rule})
		}
	}
	ids := make([]elementID, 0, len(c.touched))
	for id := range c.touched {
		ids = append(ids, id)
	}
	sort.Slice(ids, func(i, j int) bool {
		if ids[i].in != ids[j].in {
			return ids[i].in < ids[j].in
		}
		return ids[i].key < ids[j].key
	})
	for _, id := range ids {
		before, after := c.touched[id], a.value(id)
		if before == after {
			continue
		}
		if before != absent {
			c.tx.Delete(element(id, before))
		}
		if after != absent {
			c.tx.Add(element(id, after))
		}
	}
	for _, name := range c.dropChains {
		if _, used := c.writeChains[name]; !used {
			c.tx.Flush(&knftables.Chain{Name: name})
			a.stale[name] = time.Now()
		}
	}
	for _, name := range c.dropSets {
		if _, used := c.setTimeouts[name]; !used {
			c.tx.Delete(&knftables.Set{Name: name})
		}
	}
}

// deleteStale deletes chains that were emptied long enough ago. After a failure they stay until the next attempt.
func (p *Proxy) deleteStale(ctx context.Context) (again time.Duration) {
	if !p.applied.valid || len(p.applied.stale) == 0 {
		return 0
	}
	tx := p.nft.NewTransaction()
	var old []string
	for name, since := range p.applied.stale {
		if wait := staleAge - time.Since(since); wait > 0 {
			again = max(again, wait)
			continue
		}
		old = append(old, name)
		tx.Delete(&knftables.Chain{Name: name})
	}
	if len(old) == 0 {
		return again
	}
	if err := p.inside(func() error { return p.nft.Run(ctx, tx) }); err != nil && ctx.Err() == nil {
		p.log.Warn("delete chains of services that are gone", "chains", len(old), "err", err)
		p.applied.valid = false // read the kernel's content again
		return 0
	}
	for _, name := range old {
		delete(p.applied.stale, name)
	}
	return again
}

func isServiceChain(name string) bool {
	for _, kind := range []string{"svc-", "loc-", "ext-", "lb-", "ep-", "hold-"} {
		if strings.HasPrefix(name, kind) {
			return true
		}
	}
	return false
}

func element(id elementID, value string) *knftables.Element {
	e := &knftables.Element{Key: strings.Split(id.key, " . ")}
	if id.in == hairpinSet {
		e.Set = id.in
	} else {
		e.Map, e.Value = id.in, []string{value}
	}
	return e
}

func sameService(a, b *corev1.Service) bool {
	return a == b || a.UID == b.UID && a.ResourceVersion == b.ResourceVersion && a.ResourceVersion != ""
}

func sameSlices(a, b []*discoveryv1.EndpointSlice) bool {
	return slices.EqualFunc(a, b, func(a, b *discoveryv1.EndpointSlice) bool {
		return a == b || a.UID == b.UID && a.ResourceVersion == b.ResourceVersion && a.ResourceVersion != ""
	})
}
