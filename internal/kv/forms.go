package kv

import (
	"sync"
	"sync/atomic"
)

// formOverhead is the memory in bytes of a kept form beside its own bytes: the entry and its share of the version's slots.
const formOverhead = 128

// formSet has the slots of one version that have been used, in the order of their first use. It is immutable: a further slot makes a
// new set. A version that is never read costs only a pointer.
type formSet []*formSlot

type formSlot struct {
	slot  FormSlot
	entry atomic.Pointer[formEntry]
	build sync.Mutex // held while the form is built
}

// formEntry is one kept form, and a link of its cache's ring.
type formEntry struct {
	form       any
	size       int64
	used       atomic.Bool // read since the clock hand last passed
	slot       *formSlot
	unread     int        // rounds of Age since it was read; guarded by the cache
	prev, next *formEntry // guarded by the cache; nil when it is not in the ring
}

// FormCache limits the bytes of the forms of all versions of one store. It evicts by second chance (the clock algorithm): a read
// marks its form (an atomic load, and a store only for the first read since the mark was cleared); to free space, the clock hand
// clears marks and drops forms that it finds unmarked. A form that was read only once is the first to be dropped, so one large list
// does not evict forms that are read all the time. Safe for concurrent use.
type FormCache struct {
	limit int64

	mu    sync.Mutex
	hand  *formEntry // the next to examine; new entries are inserted behind it, so they are examined last
	bytes int64
	count int
}

// NewFormCache creates a cache that keeps at most limit bytes of forms.
func NewFormCache(limit int64) *FormCache { return &FormCache{limit: limit} }

// NewVersion creates a version whose forms the cache limits. With a nil cache they are not limited.
func (c *FormCache) NewVersion(key string, value []byte, create, mod uint64) *Version {
	return &Version{Key: key, Value: value, CreateRevision: create, ModRevision: mod, cache: c}
}

// Usage returns the bytes of the kept forms, as their builders reported them plus a fixed overhead, and their number.
func (c *FormCache) Usage() (bytes int64, forms int) {
	if c == nil {
		return 0, 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes, c.count
}

// Form returns the form in a slot, which is read-only. It is built once for all concurrent readers and shared by them until the
// cache evicts it; readers that have it may continue to use it then. An error is not cached: the next reader builds the form again.
func (v *Version) Form(slot FormSlot, build BuildForm) (any, error) {
	s := v.slot(slot)
	if s == nil { // an earlier generation, of a reader that is about to end
		form, _, err := build(v)
		return form, err
	}
	if e := s.entry.Load(); e != nil {
		return e.read(), nil
	}
	s.build.Lock()
	defer s.build.Unlock()
	if e := s.entry.Load(); e != nil {
		return e.read(), nil
	}
	form, size, err := build(v)
	if err != nil {
		return nil, err
	}
	e := &formEntry{form: form, size: int64(size) + formOverhead, slot: s}
	if v.cache == nil {
		s.entry.Store(e)
	} else {
		v.cache.add(e)
	}
	return form, nil
}

// Has says whether the form in a slot is kept now.
func (v *Version) Has(slot FormSlot) bool {
	set := v.forms.Load()
	if set == nil {
		return false
	}
	for _, s := range *set {
		if s.slot == slot {
			return s.entry.Load() != nil
		}
	}
	return false
}

// slot returns a slot of the version, and adds it on first use. It returns nil if there are slots of a later generation.
func (v *Version) slot(wanted FormSlot) *formSlot {
	var added *formSlot
	for {
		set := v.forms.Load()
		var have formSet
		if set != nil {
			have = *set
		}
		for _, s := range have {
			if s.slot == wanted {
				return s
			}
		}
		if len(have) > 0 && have[0].slot.generation() != wanted.generation() { // all of a set are of one generation
			if have[0].slot.generation() > wanted.generation() {
				return nil
			}
			if v.forms.CompareAndSwap(set, nil) {
				v.cache.forget(have)
			}
			continue
		}
		if added == nil {
			added = &formSlot{slot: wanted}
		}
		grown := make(formSet, len(have)+1)
		copy(grown, have)
		grown[len(have)] = added
		if v.forms.CompareAndSwap(set, &grown) {
			return added
		}
	}
}

func (e *formEntry) read() any {
	if !e.used.Load() {
		e.used.Store(true)
	}
	return e.form
}

// add inserts an entry and evicts others until all fit. A form larger than the whole cache is not kept.
func (c *FormCache) add(e *formEntry) {
	if e.size > c.limit {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.bytes+e.size > c.limit {
		if h := c.hand; h.used.Load() {
			h.used.Store(false)
			h.unread = 0
			c.hand = h.next
		} else {
			c.drop(h)
		}
	}
	if c.hand == nil {
		e.prev, e.next = e, e
		c.hand = e
	} else {
		e.prev, e.next = c.hand.prev, c.hand
		e.prev.next, e.next.prev = e, e
	}
	c.bytes += e.size
	c.count++
	e.slot.entry.Store(e)
}

// Age drops the forms that were not read between the last rounds calls of it, and returns their bytes.
func (c *FormCache) Age(rounds int) (freed int64) {
	if c == nil {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.hand
	for range c.count {
		next := e.next
		if e.used.Swap(false) {
			e.unread = 0
		} else if e.unread++; e.unread >= rounds {
			freed += e.size
			c.drop(e)
		}
		e = next
	}
	return freed
}

// drop removes an entry from its slot and from the ring. The caller holds mu.
func (c *FormCache) drop(e *formEntry) {
	e.slot.entry.Store(nil)
	if c.hand == e {
		c.hand = e.next
	}
	if c.hand == e { // it was the only entry
		c.hand = nil
	}
	e.prev.next, e.next.prev = e.next, e.prev
	e.prev, e.next = nil, nil
	c.bytes -= e.size
	c.count--
}

// Forget drops the forms of a version that the store no longer holds, instead of leaving them until the clock hand passes. Readers
// that still have the version may continue to use it.
func (c *FormCache) Forget(v *Version) {
	set := v.forms.Load()
	if set == nil || v.cache != c {
		return
	}
	c.forget(*set)
}

// forget drops the forms of slots.
func (c *FormCache) forget(set formSet) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range set {
		if e := s.entry.Load(); e != nil {
			c.drop(e)
		}
	}
}

// Clear drops every form.
func (c *FormCache) Clear() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.hand != nil {
		c.drop(c.hand)
	}
}
