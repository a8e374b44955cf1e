// Package recent has a cache of what was used recently.
package recent

import "sync"

// Cache keeps values in two generations: when the young one is full it becomes the old one, so values in use stay and others are dropped.
// Limit bounds the costs of a generation together. It is safe for concurrent use. The zero value with a Limit is empty and ready.
type Cache[K comparable, V any] struct {
	Limit int

	mu         sync.Mutex
	young, old map[K]entry[V]
	cost       int // of the young generation
}

type entry[V any] struct {
	value V
	cost  int
}

// Get returns the value of a key, if it is kept.
func (c *Cache[K, V]) Get(key K) (value V, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.young[key]
	if ok {
		return e.value, true
	}
	if e, ok = c.old[key]; ok {
		c.add(key, e)
	}
	return e.value, ok
}

// Put keeps a value, unless its cost is above the limit.
func (c *Cache[K, V]) Put(key K, value V, cost int) {
	if cost > c.Limit {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(key, entry[V]{value, cost})
}

// Len returns the number of kept values; one that is in both generations counts twice.
func (c *Cache[K, V]) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.young) + len(c.old)
}

func (c *Cache[K, V]) add(key K, e entry[V]) {
	if c.young == nil || c.cost+e.cost > c.Limit {
		c.old, c.young, c.cost = c.young, map[K]entry[V]{}, 0
	}
	c.cost += e.cost - c.young[key].cost
	c.young[key] = e
}
