package fsm

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/kontiki/kontiki/internal/kv"
)

// Options limit what a store keeps beside the state. They may differ between replicas. Zero means the default.
type Options struct {
	// HistoryEvents limits the number of events in the history; default 131,072.
	HistoryEvents int
	// HistoryBytes limits the memory in bytes that only the history keeps; default 64 MiB.
	HistoryBytes int64
	// FormBytes limits the memory of the forms that readers build of stored versions (kv.FormCache); default 64 MiB.
	FormBytes int64

	// NewestCommand is the newest command version that the store knows; default CommandVersion. It is for tests of upgrades: a
	// store with an older one behaves like a replica of an older program.
	NewestCommand uint64

	// Remembered is for tests: the number of results that are kept (RememberedCommands), which is a rule of the log.
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

// Store is one replica's state. Apply, ApplyBatch, Snapshot and Restore exclude each other, and must be called in the order of the
// log. All other methods are safe for concurrent use and wait for a writer at most while it publishes a batch.
type Store struct {
	options Options
	forms   *kv.FormCache
	history *history
	current atomic.Pointer[state]

	remembered atomic.Int64 // memory.len(), for Stats
	halted     atomic.Pointer[error]

	indexes waitQueue

	mu     sync.Mutex // guards the fields below: there is one writer
	memory *memory
	edit   uint64 // counts the edits of the tree
	cmd    kv.Command
	events []*record
	// rewritten has the versions that the batch replaced without a change.
	rewritten []rewrite
}

// rewrite is the replacement of a version by one with another value and the same revisions.
type rewrite struct{ old, new *kv.Version }

var _ kv.Reader = (*Store)(nil)

// state is the whole state after some log entry. It is immutable, and implements kv.View.
type state struct {
	root     *node
	revision uint64
	applied  uint64
}

// New creates an empty store at revision 0.
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
	Data  []byte // must not be changed afterwards, see DecodeCommand
}

// Outcome is the result of applying one entry.
type Outcome struct {
	Result kv.Result
	// Err is not nil if the entry is not a valid command (ErrBadCommand, kv.ErrTooLarge, ErrNewerCommand), if the backup that it
	// restores is not a valid snapshot (ErrBadSnapshot), and if it may have been applied before (ErrForgotten). Then nothing was
	// changed. If a command's condition did not hold, Err is nil and Result.Failed is set.
	Err error
}

// Apply applies one log entry. It is ApplyBatch with one entry.
func (s *Store) Apply(index uint64, data []byte) (kv.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.begin()
	r, err := t.apply(index, data)
	t.commit()
	return r, err
}

// ApplyBatch applies log entries in order and returns an outcome for each. State, results, revisions and snapshots are the same as
// if Apply had been called for each; readers see the state only after the whole batch. The caller provides the indexes, which
// should grow; the applied index becomes that of the last entry.
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

// edit is the change of the state by one batch: Apply works on it. The caller holds the store's mu.
type edit struct {
	s  *Store
	id uint64
	state
	// jumped means that revisions were skipped: the history restarts.
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
	defer func() { // do not pin any entry's memory
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
	done := newRememberedResult(c.ID, &r)
	if c.Since != 0 {
		done.index = index
	}
	t.s.memory.remember(done)
	return r, nil
}

// test returns the first operation whose condition does not hold. No key appears twice, so all are tested before any is applied.
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
		case op.Cond == kv.AtMost:
			if count := kv.Counter(v); op.Exceeds(count) {
				return &kv.Failure{Index: i, Cond: op.Cond, Current: current, Count: count}
			}
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
		case op.Rewrite:
			t.rewrite(t.root.get(op.Key), keep(op.Value, entry))
			continue
		default:
			t.revision++
			value := keep(op.Value, entry)
			if op.Add != 0 {
				value = kv.CounterValue(kv.AddSaturated(kv.Counter(t.root.get(op.Key)), op.Add))
			}
			v := t.s.forms.NewVersion(op.Key, value, t.revision, t.revision)
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

// rewrite replaces a version, also where the batch's own events refer to it.
func (t *edit) rewrite(old *kv.Version, value []byte) {
	v := t.s.forms.NewVersion(old.Key, value, old.CreateRevision, old.ModRevision)
	t.root, _ = t.root.put(t.id, v)
	for _, e := range t.s.events {
		if e.Current == old {
			e.Current = v
		}
	}
	t.s.rewritten = append(t.s.rewritten, rewrite{old, v})
}

func (t *edit) event(typ kv.EventType, current, previous *kv.Version) {
	t.s.events = append(t.s.events, &record{Event: kv.Event{Type: typ, Revision: t.revision, Current: current, Previous: previous}})
}

// commit makes state and events of the batch visible at once, then wakes waiters.
func (t *edit) commit() {
	s := t.s
	next := new(state)
	*next = t.state
	if t.jumped {
		s.history.reset(next.revision, func() { s.current.Store(next) })
		s.forms.Clear() // also those of versions that only the history had
	} else {
		s.history.publish(s.events, s.rewritten, next.revision, func() { s.current.Store(next) })
	}
	clear(s.rewritten)
	s.rewritten = s.rewritten[:0]
	clear(s.events)
	if s.events = s.events[:0]; cap(s.events) > 4096 {
		s.events = nil
	}
	s.remembered.Store(int64(s.memory.len()))
	s.indexes.advance(next.applied)
}

// Halted returns why the store stopped applying entries, or nil: it met a command of a newer version (ErrNewerCommand). Its state
// remains the one before that command; later entries of the log must not be considered applied.
func (s *Store) Halted() error {
	if err := s.halted.Load(); err != nil {
		return *err
	}
	return nil
}

// Age forgets, of what readers and watchers share, what is old: events that were in the history before the last rounds calls of it, but
// for the newest few thousand, and forms that nobody has read since then. It returns the bytes that this frees. Called at regular
// intervals, it makes a store that was busy and is idle now small again. A store that is not aged keeps both until they are replaced.
func (s *Store) Age(rounds int) (freed int64) {
	return s.history.age(rounds) + s.forms.Age(rounds)
}

// View returns the state after the last batch. It is one atomic load.
func (s *Store) View() kv.View { return s.current.Load() }

// AppliedIndex returns the raft index of the last entry that this store applied. No-ops, barriers and configuration changes do not
// reach the store, so this is not raft's own applied index.
func (s *Store) AppliedIndex() uint64 { return s.current.Load().applied }

// WaitIndex blocks until AppliedIndex is at least index and View shows the effect of that entry. Errors: ctx's; and
// kv.ErrFutureRevision if a restore set the store back to before the index.
func (s *Store) WaitIndex(ctx context.Context, index uint64) error { return s.indexes.wait(ctx, index) }

func (v *state) Revision() uint64 { return v.revision }

func (v *state) Get(key string) (*kv.Version, bool) {
	got := v.root.get(key)
	return got, got != nil
}

func (v *state) Range(start, end string, visit func(*kv.Version) bool) {
	v.root.visit(start, end, visit)
}

// Count takes time logarithmic in the number of keys.
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

// Stats describes what a store holds, for metrics.
type Stats struct {
	Objects       int
	Revision      uint64
	AppliedIndex  uint64
	HistoryEvents int
	HistoryBytes  int64
	HistoryFloor  uint64 // a watch can begin after this revision or any later one
	Watchers      int
	Remembered    int
	FormBytes     int64
	Forms         int
}

// Stats takes O(1) time.
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
