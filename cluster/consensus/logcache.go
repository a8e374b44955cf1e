package consensus

import (
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// agingCache is a raft.LogCache that can be emptied. A LogCache keeps its entries until others overwrite them, which after a burst of
// large writes never happens on an idle master. Everything in it is also on disk, so replacing it loses nothing: reads of older entries go
// to the disk, and what is stored while it is replaced is at worst not cached.
type agingCache struct {
	disk raft.LogStore
	size int
	now  atomic.Pointer[raft.LogCache]

	mu     sync.Mutex
	stored int // entries that were stored since the cache was replaced
	rounds int // of age since then
}

func newAgingCache(size int, disk raft.LogStore) (*agingCache, error) {
	c := &agingCache{disk: disk, size: size}
	return c, c.replace()
}

func (c *agingCache) replace() error {
	cache, err := raft.NewLogCache(c.size, c.disk)
	if err != nil {
		return err
	}
	c.now.Store(cache)
	return nil
}

// age empties the cache every few rounds. It returns the number of entries that it held at most.
func (c *agingCache) age(rounds int) (entries int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rounds++; c.rounds < rounds || c.stored == 0 {
		return 0, nil
	}
	entries = min(c.stored, c.size)
	c.stored, c.rounds = 0, 0
	return entries, c.replace()
}

func (c *agingCache) count(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stored += n
}

// FirstIndex implements raft.LogStore.
func (c *agingCache) FirstIndex() (uint64, error) { return c.now.Load().FirstIndex() }

// LastIndex implements raft.LogStore.
func (c *agingCache) LastIndex() (uint64, error) { return c.now.Load().LastIndex() }

// GetLog implements raft.LogStore.
func (c *agingCache) GetLog(index uint64, log *raft.Log) error {
	return c.now.Load().GetLog(index, log)
}

// StoreLog implements raft.LogStore.
func (c *agingCache) StoreLog(log *raft.Log) error {
	c.count(1)
	return c.now.Load().StoreLog(log)
}

// StoreLogs implements raft.LogStore.
func (c *agingCache) StoreLogs(logs []*raft.Log) error {
	c.count(len(logs))
	return c.now.Load().StoreLogs(logs)
}

// DeleteRange implements raft.LogStore.
func (c *agingCache) DeleteRange(first, last uint64) error {
	return c.now.Load().DeleteRange(first, last)
}
