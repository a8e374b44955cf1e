package fsm

import "github.com/kontiki/kontiki/internal/kv"

// The results of the last commands are kept by command id, so that a repeated command gets its first result and is not applied
// again. Which results are kept depends only on the log (first in, first out, in log order), so every replica keeps the same.
const (
	// RememberedCommands is the number of results that are kept. It is a rule of the log, not a setting: replicas that forget at
	// different times diverge. At 18,000 commands per second it covers 3.6 seconds; at low rates, hours. A command that arrives
	// later than that is refused with ErrForgotten, if it has a Since.
	RememberedCommands = 65536
	// rememberedExtraBytes limits the extra memory for the results of commands with more than 64 operations.
	rememberedExtraBytes = 4 << 20

	memoryChunk = 1024
)

// rememberedResult is the result of one command in compact form. It has one bit for each operation that took a revision: these revisions are
// consecutive, and the last one is the command's.
type rememberedResult struct {
	id       kv.CommandID
	revision uint64
	index    uint64 // if the command has a Since, its raft index; otherwise 0
	ops      uint32
	failed   bool
	cond     kv.Condition // if it failed: the condition
	bits     uint64       // if it failed: the operation; otherwise: which of the first 64 operations took a revision
	more     []uint64     // the same for the operations after those; if it failed: the current revision, and the counter unless it is 0
}

func newRememberedResult(id kv.CommandID, r *kv.Result) rememberedResult {
	o := rememberedResult{id: id, revision: r.Revision, ops: uint32(len(r.Revisions))}
	if f := r.Failed; f != nil {
		o.failed, o.cond, o.bits = true, f.Cond, uint64(f.Index)
		switch {
		case f.Count != 0:
			o.more = []uint64{f.Current, uint64(f.Count)}
		case f.Current != 0:
			o.more = []uint64{f.Current}
		}
		return o
	}
	if o.ops > 64 {
		o.more = make([]uint64, (o.ops-1)/64)
	}
	for i, rev := range r.Revisions {
		if rev != 0 {
			o.setBit(i)
		}
	}
	return o
}

func (o *rememberedResult) setBit(i int) {
	if i < 64 {
		o.bits |= 1 << i
	} else {
		o.more[i/64-1] |= 1 << (i % 64)
	}
}

func (o *rememberedResult) bit(i int) bool {
	if i < 64 {
		return o.bits&(1<<i) != 0
	}
	return o.more[i/64-1]&(1<<(i%64)) != 0
}

func (o *rememberedResult) result() kv.Result {
	r := kv.Result{Revision: o.revision}
	if o.failed {
		r.Failed = &kv.Failure{Index: int(o.bits), Cond: o.cond}
		if len(o.more) > 0 {
			r.Failed.Current = o.more[0]
		}
		if len(o.more) > 1 {
			r.Failed.Count = int64(o.more[1])
		}
		return r
	}
	r.Revisions = make([]uint64, o.ops)
	next := o.revision
	for i := int(o.ops) - 1; i >= 0; i-- {
		if o.bit(i) {
			r.Revisions[i] = next
			next--
		}
	}
	return r
}

// extra returns the bytes of the result that count towards rememberedExtraBytes.
func (o *rememberedResult) extra() int { return 8 * len(o.more) }

// memory is a queue of the remembered results, first in, first out. Chunks are only ever appended to, so a snapshot of it is a
// copy of the few chunk pointers and two numbers.
type memory struct {
	limit  int
	byID   map[kv.CommandID]uint64 // position in the sequence
	chunks []*[memoryChunk]rememberedResult
	base   uint64 // sequence number of chunks[0][0]
	first  uint64 // the oldest that is kept
	next   uint64 // one past the newest
	extra  int
	// forgotten is the raft index of the newest result with an index that is no longer kept.
	forgotten uint64
}

func newMemory(limit int) *memory {
	return &memory{limit: limit, byID: make(map[kv.CommandID]uint64)}
}

func (m *memory) at(seq uint64) *rememberedResult {
	return &m.chunks[(seq-m.base)/memoryChunk][(seq-m.base)%memoryChunk]
}

func (m *memory) find(id kv.CommandID) (*rememberedResult, bool) {
	seq, ok := m.byID[id]
	if !ok {
		return nil, false
	}
	return m.at(seq), true
}

// remember adds a result under an id that is not kept yet, and forgets the oldest results while there are too many.
func (m *memory) remember(o rememberedResult) {
	if m.next-m.base == uint64(len(m.chunks))*memoryChunk {
		m.chunks = append(m.chunks, new([memoryChunk]rememberedResult))
	}
	*m.at(m.next) = o
	m.byID[o.id] = m.next
	m.next++
	m.extra += o.extra()
	for m.next-m.first > uint64(m.limit) || m.extra > rememberedExtraBytes {
		old := m.at(m.first)
		m.extra -= old.extra()
		delete(m.byID, old.id)
		m.forgotten = max(m.forgotten, old.index)
		m.first++
		if m.first-m.base == memoryChunk {
			m.chunks = append([]*[memoryChunk]rememberedResult(nil), m.chunks[1:]...)
			m.base = m.first
		}
	}
}

// freeze returns a copy that later changes do not affect; it has no index by id.
func (m *memory) freeze() *memory {
	f := *m
	f.byID = nil
	f.chunks = append([]*[memoryChunk]rememberedResult(nil), m.chunks...)
	return &f
}

func (m *memory) each(f func(*rememberedResult) error) error {
	for seq := m.first; seq < m.next; seq++ {
		if err := f(m.at(seq)); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) len() int { return int(m.next - m.first) }
