package dns

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	longestCached         = 30 * time.Second
	longestNegativeCached = negativeTTL * time.Second
)

// cache remembers forwarded responses. It is small and short-lived: it only absorbs the repeated queries of busy programs. It is
// safe for concurrent use.
type cache struct {
	size int
	now  func() time.Time

	mu sync.Mutex
	m  map[cacheKey]cached
}

type cacheKey struct {
	name  string // lower case
	qtype uint16
}

type cached struct {
	reply
	at, until time.Time
}

func newCache(size int) *cache {
	return &cache{size: size, now: time.Now, m: map[cacheKey]cached{}}
}

// get returns a copy with the remaining TTLs.
func (c *cache) get(k cacheKey) (reply, bool) {
	c.mu.Lock()
	e, ok := c.m[k]
	now := c.now()
	if ok && !now.Before(e.until) {
		delete(c.m, k)
		ok = false
	}
	c.mu.Unlock()
	if !ok {
		return reply{}, false
	}
	age := uint32(now.Sub(e.at) / time.Second)
	r := e.reply
	r.answer, r.authority, r.extra = aged(r.answer, age), aged(r.authority, age), aged(r.extra, age)
	return r, true
}

func aged(rrs []dns.RR, age uint32) []dns.RR {
	out := make([]dns.RR, len(rrs))
	for i, rr := range rrs {
		out[i] = dns.Copy(rr)
		out[i].Header().Ttl -= min(age, out[i].Header().Ttl)
	}
	return out
}

// put caches positive and negative responses; errors are never cached.
func (c *cache) put(k cacheKey, r reply) {
	keep := longestCached
	switch {
	case r.rcode == dns.RcodeNameError, r.rcode == dns.RcodeSuccess && len(r.answer) == 0:
		keep = longestNegativeCached
		if len(r.authority) == 0 {
			return // without an SOA there is no TTL for a negative response
		}
	case r.rcode != dns.RcodeSuccess:
		return
	}
	for _, rrs := range [][]dns.RR{r.answer, r.authority} {
		for _, rr := range rrs {
			keep = min(keep, time.Duration(rr.Header().Ttl)*time.Second)
			if soa, ok := rr.(*dns.SOA); ok && len(r.answer) == 0 {
				keep = min(keep, time.Duration(soa.Minttl)*time.Second)
			}
		}
	}
	if keep <= 0 {
		return
	}
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.m[k]; !known && len(c.m) >= c.size {
		c.shrink(now)
	}
	c.m[k] = cached{r, now, now.Add(keep)}
}

// shrink frees space: it drops expired entries and, if these are few, some of the others in no particular order.
func (c *cache) shrink(now time.Time) {
	for k, e := range c.m {
		if !now.Before(e.until) {
			delete(c.m, k)
		}
	}
	for k := range c.m {
		if len(c.m) <= c.size*3/4 {
			return
		}
		delete(c.m, k)
	}
}
