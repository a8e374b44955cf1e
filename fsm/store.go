package fsm

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/kontiki/kontiki/internal/kv"
)

// Options bound what a store keeps beside the state. They differ between replicas without harm. Zero means the default.
type Options struct {
	// HistoryEvents bounds the events of the history; default 131,072.
	HistoryEvents int
	// HistoryBytes bounds the memory that only the history holds; default 64 MiB.
	HistoryBytes int64
	// FormBytes bounds the forms that readers build of stored versions (kv.FormCache); default 64 MiB.
	FormBytes int64

	// NewestCommand is the newest version of commands to know; default CommandVersion. It is for tests of upgrades: a store with
	// an older one is a replica of an older program.
	NewestCommand uint64

	// Remembered is for tests: how many results are kept (RememberedCommands), a rule of the log.
	Remembered int
}

func (o Options) withDefaults() Options {
	if o.HistoryEvents == 0 {
		o.HistoryEvents = 131072
	}
	if o.HistoryBytes == 0 {
		o.HistoryBytes = 64 << 20
	}
	if o.FormBytes == 0 {
		o.FormBytes = 64 << 20
	}
	if o.NewestCommand == 0 {
		o.NewestCommand = CommandVersion
	}
	if o.Remembered == 0 {
		o.Remembered = RememberedCommands
	}
	return o
}

// Store is one replica's state. Apply, ApplyBatch, Snapshot and Restore wait for each other; they are called in
// the order of the log. Everything else is safe for concurrent use and never waits for a writer longer than it takes to
// publish a batch.
type Store struct {
	options Options
	forms   *kv.FormCache
	history *history
	current atomic.Pointer[state]

	remembered atomic.Int64 // memory.len(), for Stats
	halted     atomic.Pointer[error]

	indexes waitQueue

	mu     sync.Mutex // guards what follows: one writer
	memory *memory
	edit   uint64 // the last edit of the tree
	cmd    kv.Command
	events []*record
}

var _ kv.Reader = (*Store)(nil)

// state is the whole state after some log entry. It is immutable, and is the kv.View of it.
type state struct {
	root     *node
	revision uint64
	applied  uint64
}

// New makes an empty store at revision 0.
func New(o Options) *Store {
	o = o.withDefaults()
	s := &Store{options: o, forms: kv.NewFormCache(o.FormBytes), memory: newMemory(o.Remembered)}
	s.history = newHistory(o.HistoryEvents, o.HistoryBytes, s.forms)
	s.current.Store(&state{})
	return s
}

// Entry is one log entry that holds a command.
type Entry struct {
	Index uint64 // its raft index
	Data  []byte // see DecodeCommand: not to be changed afterwards
}

// Outcome is what applying one entry gave.
type Outcome struct {
	Result kv.Result
	// Err is not nil when the entry is no command (ErrBadCommand, kv.ErrTooLarge, ErrNewerCommand), when what it brings back is
	// no snapshot (ErrBadSnapshot), and when it may have been applied before (ErrForgotten). Nothing was changed. A command whose condition did not hold has no Err, but Result.Failed.
	Err error
}

// Apply applies one log entry. It is ApplyBatch of one.
func (s *Store) Apply(index uint64, data []byte) (kv.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.begin()
	r, err := t.apply(index, data)
	t.commit()
	return r, err
}

// ApplyBatch applies log entries in order, with an outcome for each. State, results, revisions and snapshots are those that
// Apply one by one would give; readers see the state only after the whole batch. Indexes are the log's business: they
// should grow, and the applied index is that of the last entry.
func (s *Store) ApplyBatch(entries []Entry) []Outcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	outcomes := make([]Outcome, len(entries))
	t := s.begin()
	for i, e := range entries {
		outcomes[i].Result, outcomes[i].Err = t.apply(e.Index, e.Data)
	}
	t.commit()
	return outcomes
}

// edit is the change of the state by one batch: what Apply works on. The caller holds the store's mu.
type edit struct {
	s  *Store
	id uint64
	state
	// jumped says that revisions were skipped: the history begins anew.
	jumped bool
}

func (s *Store) begin() edit {
	s.edit++
	return edit{s: s, id: s.edit, state: *s.current.Load()}
}

func (t *edit) apply(index uint64, data []byte) (kv.Result, error) {
	if err := t.s.Halted(); err != nil {
		return kv.Result{}, err
	}
	c := &t.s.cmd
	defer func() { // hold on to no entry's memory
		clear(c.Ops)
		if cap(c.Ops) > 1024 {
			c.Ops = nil
		}
	}()
	err := decodeCommand(c, data, t.s.options.NewestCommand)
	if errors.Is(err, ErrNewerCommand) {
		t.s.halted.Store(&err)
		return kv.Result{}, err
	}
	t.applied = index
	if err != nil {
		return kv.Result{}, err
	}
	if o, ok := t.s.memory.find(c.ID); ok {
		return o.result(), nil
	}
	if c.Since != 0 && c.Since < t.s.memory.forgotten {
		return kv.Result{}, ErrForgotten
	}
	r := kv.Result{Revision: t.revision}
	if r.Failed = t.test(c.Ops); r.Failed == nil {
		first := len(t.s.events)
		if c.Restore != nil {
			if err := t.restore(c.Restore); err != nil {
				return kv.Result{}, err
			}
		}
		r.Revisions = t.execute(c.Ops, len(data))
		r.Revision = t.revision
		for _, e := range t.s.events[first:] {
			e.end = t.revision
		}
	}
	done := newOutcome(c.ID, &r)
	if c.Since != 0 {
		done.index = index
	}
	t.s.memory.remember(done)
	return r, nil
}

// test answers the first operation whose condition does not hold. No key appears twice, so all are tested before any is done.
func (t *edit) test(ops []kv.Op) *kv.Failure {
	for i := range ops {
		op := &ops[i]
		if op.Cond == kv.Always {
			continue
		}
		current := uint64(0)
		v := t.root.get(op.Key)
		if v != nil {
			current = v.ModRevision
		}
		switch {
		case op.Cond == kv.Absent && v == nil,
			op.Cond == kv.Exists && v != nil,
			op.Cond == kv.AtRevision && v != nil && current == op.Revision:
		default:
			return &kv.Failure{Index: i, Cond: op.Cond, Current: current}
		}
	}
	return nil
}

func (t *edit) execute(ops []kv.Op, entry int) []uint64 {
	revisions := make([]uint64, len(ops))
	for i := range ops {
		op := &ops[i]
		switch {
		case op.Check:
			continue
		case op.Delete:
			root, prev := t.root.remove(t.id, op.Key)
			if prev == nil {
				continue
			}
			t.root = root
			t.revision++
			gone := t.s.forms.NewVersion(prev.Key, prev.Value, prev.CreateRevision, t.revision)
			t.event(kv.Deleted, gone, prev)
		default:
			t.revision++
			v := t.s.forms.NewVersion(op.Key, keep(op.Value, entry), t.revision, t.revision)
			var prev *kv.Version
			if t.root, prev = t.root.put(t.id, v); prev != nil {
				v.Key, v.CreateRevision = prev.Key, prev.CreateRevision
			}
			t.event(kv.Put, v, prev)
		}
		revisions[i] = t.revision
	}
	return revisions
}

func (t *edit) event(typ kv.EventType, current, previous *kv.Version) {
	t.s.events = append(t.s.events, &record{Event: kv.Event{Type: typ, Revision: t.revision, Current: current, Previous: previous}})
}

// commit makes the batch visible: state and events at once, then those who wait.
func (t *edit) commit() {
	s := t.s
	next := new(state)
	*next = t.state
	if t.jumped {
		s.history.reset(next.revision, func() { s.current.Store(next) })
		s.forms.Clear() // also of versions that only the history held
	} else {
		s.history.publish(s.events, next.revision, func() { s.current.Store(next) })
	}
	clear(s.events)
	if s.events = s.events[:0]; cap(s.events) > 4096 {
		s.events = nil
	}
	s.remembered.Store(int64(s.memory.len()))
	s.indexes.advance(next.applied)
}

// Halted answers why the store goes no further: it met a command of a newer version (ErrNewerCommand). Its state is the one
// before that command, and stays so; nothing that comes later in the log may be taken for applied.
func (s *Store) Halted() error {
	if err := s.halted.Load(); err != nil {
		return *err
	}
	return nil
}

// View answers the state after the last batch: one atomic load.
func (s *Store) View() kv.View { return s.current.Load() }

// AppliedIndex is the raft index of the last entry that this store applied itself. No-ops, barriers and
// configuration changes do not reach it, so it is not raft's own applied index.
func (s *Store) AppliedIndex() uint64 { return s.current.Load().applied }

// WaitIndex blocks until AppliedIndex is at least index, and what that entry did is in View. Errors: ctx's; and
// kv.ErrFutureRevision when a restore took the store back to before the index.
func (s *Store) WaitIndex(ctx context.Context, index uint64) error { return s.indexes.wait(ctx, index) }

func (v *state) Revision() uint64 { return v.revision }

func (v *state) Get(key string) (*kv.Version, bool) {
	got := v.root.get(key)
	return got, got != nil
}

func (v *state) Range(start, end string, visit func(*kv.Version) bool) {
	v.root.visit(start, end, visit)
}

// Count is logarithmic in the number of keys.
func (v *state) Count(start, end string) int {
	n := v.root.len()
	if end != "" {
		if end <= start {
			return 0
		}
		n = v.root.rank(end)
	}
	return n - v.root.rank(start)
}

// Stats is a look at what a store holds, for metrics.
type Stats struct {
	Objects       int
	Revision      uint64
	AppliedIndex  uint64
	HistoryEvents int
	HistoryBytes  int64
	HistoryFloor  uint64 // a watch can begin after this revision or later
	Watchers      int
	Remembered    int
	FormBytes     int64
	Forms         int
}

// Stats is O(1).
func (s *Store) Stats() Stats {
	st := s.current.Load()
	r := Stats{Objects: st.root.len(), Revision: st.revision, AppliedIndex: st.applied}
	r.FormBytes, r.Forms = s.forms.Usage()
	r.Remembered = int(s.remembered.Load())
	h := s.history
	h.mu.RLock()
	defer h.mu.RUnlock()
	r.HistoryEvents, r.HistoryBytes, r.HistoryFloor, r.Watchers = h.all.events.len(), h.bytes, h.floor, h.open
	return r
}
