package fsm

import (
	"sort"
	"strings"
	"sync"

	"github.com/kontiki/kontiki/internal/kv"
)

// eventOverhead is the memory in bytes that one event takes beside the version that it keeps: its record and its place in three
// lists.
const eventOverhead = 128

// record is one event of the history.
type record struct {
	kv.Event
	end  uint64 // the last revision of the command it belongs to
	cost int64  // the bytes that dropping it frees
}

// history keeps the latest changes in order of revision: a window bounded in bytes and number. Each event is in the list of all
// events, in the list of its resource (/group/resource/) and in that of its namespace (/group/resource/namespace/). A watcher reads
// the narrowest list that contains its whole prefix, and only events with its prefix wake it; so the cost of a write depends on the
// number of watchers that get it, not on the number of all watchers.
//
// Nothing is ever sent: watchers are cursors that read the window at their own pace, so publishing never waits for them. A reader
// holds the lock for at most scanLimit events.
type history struct {
	maxEvents int
	maxBytes  int64
	forms     *kv.FormCache

	mu       sync.RWMutex
	all      *bucket
	buckets  map[string]*bucket
	bytes    int64
	last     uint64 // the newest revision
	floor    uint64 // every event after this revision is in the window
	epoch    uint64 // counts restores
	restored uint64 // the revision of the last restore
	open     int    // open watchers
	wake     []*watcher
	marks    []uint64 // the newest revision at each of the last calls of age, oldest first
}

// Limits below which age keeps events however old they are.
const (
	agedEvents = 4096
	agedBytes  = 4 << 20
)

// bucket is the events of the window under one prefix.
type bucket struct {
	prefix  string
	events  ring
	evicted uint64 // the newest revision that left the window (or was cut off by a restore)
	refs    int    // open watchers

	mu      sync.Mutex // guards waiting, beside a read lock of the history
	waiting map[*watcher]struct{}
}

func newHistory(maxEvents int, maxBytes int64, forms *kv.FormCache) *history {
	return &history{
		maxEvents: maxEvents, maxBytes: maxBytes, forms: forms,
		all: &bucket{}, buckets: make(map[string]*bucket),
	}
}

// levels returns the lengths of a key's prefixes up to its third and its fourth slash, 0 if it has fewer.
func levels(key string) (resource, namespace int) {
	slashes := 0
	for i := 0; i < len(key); i++ {
		if key[i] != '/' {
			continue
		}
		if slashes++; slashes == 3 {
			resource = i + 1
		} else if slashes == 4 {
			return resource, i + 1
		}
	}
	return resource, 0
}

// bucketOf returns the bucket of exactly this prefix, creating it if necessary. The caller holds mu.
func (h *history) bucketOf(prefix string) *bucket {
	if prefix == "" {
		return h.all
	}
	b := h.buckets[prefix]
	if b == nil {
		b = &bucket{prefix: strings.Clone(prefix), evicted: h.floor}
		h.buckets[b.prefix] = b
	}
	return b
}

// publish puts rewritten versions into the window, and appends the events of one or more commands up to the given revision. It calls swap at the moment when the new state and
// its events become visible together, and wakes the waiting watchers of these events after it has released the lock.
func (h *history) publish(events []*record, rewritten []rewrite, revision uint64, swap func()) {
	if len(events)+len(rewritten) == 0 {
		swap()
		return
	}
	h.mu.Lock()
	for _, r := range rewritten {
		h.rewrite(r)
	}
	for _, r := range events {
		h.append(r)
	}
	if len(events) > 0 {
		h.last = revision
		h.evict()
	}
	swap()
	wake := h.wake
	h.wake = nil
	h.mu.Unlock()
	for _, w := range wake {
		w.signal()
	}
}

func (h *history) append(r *record) {
	key := r.Current.Key
	r.cost = eventOverhead
	if r.Previous != nil { // Current is in the state, or will be the next event's Previous
		r.cost += int64(len(r.Previous.Value))
	}
	h.bytes += r.cost
	h.add(h.all, r)
	resource, namespace := levels(key)
	if resource > 0 {
		h.add(h.bucketOf(key[:resource]), r)
	}
	if namespace > 0 {
		h.add(h.bucketOf(key[:namespace]), r)
	}
}

// rewrite replaces the event that wrote the old version by one with the new version. Watchers may still have the old event.
func (h *history) rewrite(w rewrite) {
	h.forms.Forget(w.old)
	revision := w.old.ModRevision
	i := h.all.events.after(revision - 1)
	if i == h.all.events.len() {
		return
	}
	found := h.all.events.at(i)
	if found.Current != w.old {
		return
	}
	replaced := *found
	replaced.Current = w.new
	h.all.events.set(i, &replaced)
	resource, namespace := levels(w.old.Key)
	for _, n := range [2]int{resource, namespace} {
		if n > 0 {
			q := &h.buckets[w.old.Key[:n]].events
			q.set(q.after(revision-1), &replaced)
		}
	}
}

// compact drops whole commands up to a revision, as if the window had become too small for them.
func (h *history) compact(revision uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.all.events.len() > 0 {
		end := h.all.events.at(0).end
		if end > revision || end == h.last {
			return
		}
		h.dropCommand(end)
	}
}

// versions visits the versions that events of keys with the prefix refer to, until visit returns false.
func (h *history) versions(prefix string, visit func(*kv.Version) bool) {
	q, next := &h.all.events, uint64(0)
	for more := true; more; {
		h.mu.RLock()
		i := q.after(next)
		for stop := i + scanLimit; i < q.len() && i < stop; i++ {
			r := q.at(i)
			next = r.Revision
			if !strings.HasPrefix(r.Current.Key, prefix) {
				continue
			}
			if !visit(r.Current) || r.Previous != nil && !visit(r.Previous) {
				h.mu.RUnlock()
				return
			}
		}
		more = i < q.len()
		h.mu.RUnlock()
	}
}

func (h *history) add(b *bucket, r *record) {
	b.events.push(r)
	for w := range b.waiting {
		if len(w.prefix) == len(b.prefix) || strings.HasPrefix(r.Current.Key, w.prefix) {
			delete(b.waiting, w)
			w.cursor.Store(h.last) // before this batch: w is waiting, so it has read everything
			h.wake = append(h.wake, w)
		}
	}
}

// evict drops whole commands from the window until it fits its bounds. The newest command always stays, so a watcher that keeps up
// never loses events, however large a command is.
func (h *history) evict() {
	for h.all.events.len() > h.maxEvents || h.bytes > h.maxBytes {
		end := h.all.events.at(0).end
		if end == h.last {
			return
		}
		h.dropCommand(end)
	}
}

// dropCommand drops the oldest command, whose last revision is end.
func (h *history) dropCommand(end uint64) {
	for h.all.events.len() > 0 && h.all.events.at(0).end == end {
		h.drop(h.all.events.at(0))
	}
	h.floor = end
}

// age drops the events that were there before the last rounds calls of it, as long as there are many of them, and returns the bytes that
// this freed. It releases the lock now and then.
func (h *history) age(rounds int) (freed int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.marks = append(h.marks, h.last)
	if len(h.marks) <= rounds {
		return 0
	}
	old := h.marks[0]
	h.marks = append(h.marks[:0], h.marks[1:]...)
	before := h.bytes
	for n := 0; h.all.events.len() > agedEvents || h.bytes > agedBytes; n++ {
		end := h.all.events.at(0).end
		if end > old || end == h.last {
			break
		}
		h.dropCommand(end)
		if n%scanLimit == scanLimit-1 {
			h.mu.Unlock()
			h.mu.Lock()
		}
	}
	return max(before-h.bytes, 0)
}

func (h *history) drop(r *record) {
	key := r.Current.Key
	h.all.events.pop()
	h.all.evicted = r.end
	resource, namespace := levels(key)
	for _, n := range [2]int{resource, namespace} {
		if n == 0 {
			continue
		}
		b := h.buckets[key[:n]]
		b.events.pop()
		b.evicted = r.end
		h.tidy(b)
	}
	h.bytes -= r.cost
	// From now on only readers that already have them can reach these versions.
	if r.Previous != nil {
		h.forms.Forget(r.Previous)
	}
	if r.Type == kv.Deleted {
		h.forms.Forget(r.Current)
	}
}

// tidy removes a bucket that is empty and has no watchers.
func (h *history) tidy(b *bucket) {
	if b.refs == 0 && b.events.len() == 0 && b != h.all {
		delete(h.buckets, b.prefix)
	}
}

// reset empties the window at the revision of a restored state and wakes every watcher.
func (h *history) reset(revision uint64, swap func()) {
	h.mu.Lock()
	var wake []*watcher
	for _, b := range h.buckets {
		wake = append(wake, h.resetBucket(b, revision)...)
	}
	wake = append(wake, h.resetBucket(h.all, revision)...)
	h.bytes, h.last, h.floor, h.marks = 0, revision, revision, nil
	h.epoch++
	h.restored = revision
	swap()
	h.mu.Unlock()
	for _, w := range wake {
		w.signal()
	}
}

func (h *history) resetBucket(b *bucket, revision uint64) (wake []*watcher) {
	b.events = ring{}
	b.evicted = revision
	for w := range b.waiting {
		w.cursor.Store(h.last) // as in add
		wake = append(wake, w)
	}
	b.waiting = nil
	h.tidy(b)
	return wake
}

// ring is a queue of records in ascending order of revision.
type ring struct {
	buf  []*record // its length is a power of two, or zero
	head int
	n    int
}

func (q *ring) len() int { return q.n }

func (q *ring) at(i int) *record { return q.buf[(q.head+i)&(len(q.buf)-1)] }

func (q *ring) set(i int, r *record) { q.buf[(q.head+i)&(len(q.buf)-1)] = r }

func (q *ring) push(r *record) {
	if q.n == len(q.buf) {
		q.resize(max(2*q.n, 4))
	}
	q.buf[(q.head+q.n)&(len(q.buf)-1)] = r
	q.n++
}

func (q *ring) pop() {
	q.buf[q.head] = nil
	q.head = (q.head + 1) & (len(q.buf) - 1)
	q.n--
	if len(q.buf) > 16 && q.n <= len(q.buf)/4 {
		q.resize(len(q.buf) / 2)
	}
}

func (q *ring) resize(size int) {
	buf := make([]*record, size)
	for i := range q.n {
		buf[i] = q.at(i)
	}
	q.buf, q.head = buf, 0
}

// after returns the index of the first event after the revision.
func (q *ring) after(revision uint64) int {
	return sort.Search(q.n, func(i int) bool { return q.at(i).Revision > revision })
}
