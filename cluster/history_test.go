package cluster

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/test/robustness/watchcheck"
)

// The history of a test: what clients asked, on whichever master, and what they were answered. It is checked to be
// linearizable: as if every command and every read had happened at one instant between its question and its answer.

const historyKeys = 5

func historyKey(i int) string { return fmt.Sprintf("/t/things/ns/%d", i) }

// cell is what one key holds: a value and the revision it was written at; both zero when it is not there. A revision of
// unknownRevision stands for one that nobody was told.
type cell struct {
	value    string
	revision uint64
}

const unknownRevision = math.MaxUint64

type bank [historyKeys]cell

// asked is a read of all keys, or a transaction.
type asked struct {
	client int
	ops    []kv.Op // nil for a read
}

// told is an answer.
type told struct {
	unknown bool
	read    bank
	failed  bool
	written []uint64 // revisions, by operation
}

func keyIndex(key string) int { return int(key[len(key)-1] - '0') }

// step answers the states that may follow.
func step(s bank, in asked, out told) []bank {
	if in.ops == nil {
		for i, have := range s {
			switch {
			case have.value != out.read[i].value:
				return nil
			case have.revision == unknownRevision:
				s[i].revision = out.read[i].revision
			case have.revision != out.read[i].revision:
				return nil
			}
		}
		return []bank{s}
	}
	// Whether the conditions hold may depend on a revision that nobody knows.
	holds, fails := true, false
	for _, op := range in.ops {
		have := s[keyIndex(op.Key)]
		switch op.Cond {
		case kv.Absent:
			holds = holds && have.revision == 0
			fails = fails || have.revision != 0
		case kv.Exists:
			holds = holds && have.revision != 0
			fails = fails || have.revision == 0
		case kv.AtRevision:
			holds = holds && (have.revision == op.Revision || have.revision == unknownRevision)
			fails = fails || have.revision != op.Revision
		}
	}
	var next []bank
	if fails && (out.unknown || out.failed) {
		next = append(next, s)
	}
	if holds && !out.failed {
		for i, op := range in.ops {
			if op.Check {
				continue
			}
			revision := uint64(unknownRevision)
			if !out.unknown {
				revision = out.written[i]
			}
			if op.Delete {
				s[keyIndex(op.Key)] = cell{}
				continue
			}
			s[keyIndex(op.Key)] = cell{string(op.Value), revision}
		}
		next = append(next, s)
	}
	return next
}

var historyModel = porcupine.NondeterministicModel{
	Init: func() []any { return []any{bank{}} },
	Step: func(state, in, out any) []any {
		var next []any
		for _, s := range step(state.(bank), in.(asked), out.(told)) {
			next = append(next, s)
		}
		return next
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
}

// history collects operations. Time is a count of what happened, since virtual time stands still while things happen.
type history struct {
	clock atomic.Int64
	mu    sync.Mutex
	done  []porcupine.Operation
}

func (h *history) tick() int64 { return h.clock.Add(1) }

func (h *history) add(client int, call int64, in asked, out told) {
	op := porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: h.tick()}
	if out.unknown {
		op.Return = math.MaxInt64 // it may still happen
	}
	h.mu.Lock()
	h.done = append(h.done, op)
	h.mu.Unlock()
}

// check says whether the history is linearizable. It runs in real time.
func (h *history) check(t testing.TB) {
	t.Helper()
	err := h.linearizable()
	if errors.Is(err, errGaveUp) {
		t.Error(err)
	} else if err != nil {
		_, info := porcupine.CheckOperationsVerbose(checkedModel, h.done, checkBound)
		path := fmt.Sprintf("%s/history.html", t.ArtifactDir())
		if err := porcupine.VisualizePath(checkedModel, info, path); err != nil {
			path = err.Error()
		}
		t.Errorf("%v; see %s", err, path)
	}
}

// checkBound is how long the checker may think about one history.
const checkBound = 2 * time.Minute

var (
	checkedModel       = historyModel.ToModel()
	errNotLinearizable = errors.New("ErrNotLinearizable")
	errGaveUp          = errors.New("ErrGaveUp: the checker found no answer in time, so nothing is shown")
	errDiverged        = errors.New("ErrDiverged: two masters hold different states")
)

// linearizable checks the history. One that the checker gives up on does not pass.
func (h *history) linearizable() error { return h.linearizableWithin(checkBound) }

func (h *history) linearizableWithin(bound time.Duration) error {
	switch porcupine.CheckOperationsTimeout(checkedModel, h.done, bound) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("%w: a history of %d operations, %v", errGaveUp, len(h.done), bound)
	}
	return fmt.Errorf("%w: a history of %d operations", errNotLinearizable, len(h.done))
}

// commands are those that were carried out, or may have been.
func (h *history) commands() (all []watchcheck.Command) {
	for _, done := range h.done {
		in, out := done.Input.(asked), done.Output.(told)
		if in.ops == nil || out.failed {
			continue
		}
		c := watchcheck.Command{Unknown: out.unknown}
		for i, op := range in.ops {
			if op.Check {
				continue
			}
			w := watchcheck.Write{Key: op.Key, Value: string(op.Value), Deleted: op.Delete}
			if !out.unknown {
				w.Revision = out.written[i]
			}
			c.Writes = append(c.Writes, w)
		}
		all = append(all, c)
	}
	return all
}

// asker is a master that reads and carries out transactions.
type asker interface {
	read(ctx context.Context) (bank, error)
	transact(ctx context.Context, ops []kv.Op) (kv.Result, error)
}

// inProcess is a master of this process.
type inProcess struct{ c *consensus }

func (p inProcess) read(ctx context.Context) (b bank, err error) {
	view, err := p.c.Consistent(ctx)
	if err != nil {
		return b, err
	}
	return bankOf(view), nil
}

func (p inProcess) transact(ctx context.Context, ops []kv.Op) (kv.Result, error) {
	return p.c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops})
}

func bankOf(view kv.View) (b bank) {
	for i := range historyKeys {
		if v, ok := view.Get(historyKey(i)); ok {
			b[i] = cell{string(v.Value), v.ModRevision}
		}
	}
	return b
}

// ask does one random operation on a master, and notes it.
func (h *history) ask(ctx context.Context, client int, c asker, r interface {
	Intn(int) int
}, last *bank) {
	call := h.tick()
	if r.Intn(2) == 0 {
		read, err := c.read(ctx)
		if err != nil {
			return // a read that was not answered says nothing
		}
		*last = read
		h.add(client, call, asked{client: client}, told{read: read})
		return
	}
	in := asked{client: client}
	for _, i := range pick(r, 1+r.Intn(3)) {
		op := kv.Op{Key: historyKey(i), Value: []byte(fmt.Sprintf("%d-%d", client, call))}
		switch r.Intn(5) {
		case 0:
			op.Delete, op.Value = true, nil
		case 1:
			op.Check, op.Value = true, nil
		}
		if seen := last[i].revision; r.Intn(3) > 0 {
			op.Cond = kv.Absent
			if seen != 0 {
				op.Cond, op.Revision = kv.AtRevision, seen
			}
		}
		if op.Delete && op.Cond == kv.Absent || op.Check && op.Cond == kv.Always {
			op.Cond = kv.Exists
		}
		in.ops = append(in.ops, op)
	}
	result, err := c.transact(ctx, in.ops)
	switch {
	case errors.Is(err, kv.ErrNoLeader), errors.Is(err, kv.ErrDiskFull):
		return // certainly not done
	case err != nil:
		h.add(client, call, in, told{unknown: true})
	case result.Failed != nil:
		h.add(client, call, in, told{failed: true})
	default:
		h.add(client, call, in, told{written: result.Revisions})
		for i, op := range in.ops {
			if !op.Check {
				last[keyIndex(op.Key)].revision = result.Revisions[i]
			}
		}
	}
}

func pick(r interface{ Intn(int) int }, n int) []int {
	all := make([]int, historyKeys)
	for i := range all {
		all[i] = i
	}
	for i := range all {
		j := i + r.Intn(len(all)-i)
		all[i], all[j] = all[j], all[i]
	}
	slices.Sort(all[:n])
	return all[:n]
}

// TestTheCheckerSeesWhatIsWrong: histories that must not pass.
func TestTheCheckerSeesWhatIsWrong(t *testing.T) {
	put := func(key int, value string, cond kv.Condition, revision uint64) asked {
		return asked{ops: []kv.Op{{Key: historyKey(key), Value: []byte(value), Cond: cond, Revision: revision}}}
	}
	one := func(value string, revision uint64) told { return told{read: bank{{value, revision}}} }
	type event struct {
		in        asked
		out       told
		call, ret int64
	}
	for name, x := range map[string]struct {
		events []event
		good   bool
	}{
		"a read of what was written":         {[]event{{put(0, "a", 0, 0), told{written: []uint64{7}}, 1, 2}, {asked{}, one("a", 7), 3, 4}}, true},
		"a stale read":                       {[]event{{put(0, "a", 0, 0), told{written: []uint64{7}}, 1, 2}, {asked{}, one("", 0), 3, 4}}, false},
		"a read beside the write":            {[]event{{put(0, "a", 0, 0), told{written: []uint64{7}}, 1, 5}, {asked{}, one("", 0), 3, 4}}, true},
		"a lost write":                       {[]event{{put(0, "a", 0, 0), told{written: []uint64{7}}, 1, 2}, {put(0, "b", kv.Absent, 0), told{written: []uint64{8}}, 3, 4}}, false},
		"an unknown write that happens late": {[]event{{put(0, "a", 0, 0), told{unknown: true}, 1, math.MaxInt64}, {asked{}, one("", 0), 2, 3}, {asked{}, one("a", 9), 4, 5}}, true},
		"an unknown write that goes back":    {[]event{{put(0, "a", 0, 0), told{unknown: true}, 1, math.MaxInt64}, {asked{}, one("a", 9), 2, 3}, {asked{}, one("", 0), 4, 5}}, false},
		"both of two compare-and-swaps":      {[]event{{put(0, "a", 0, 0), told{written: []uint64{7}}, 1, 2}, {put(0, "b", kv.AtRevision, 7), told{written: []uint64{8}}, 3, 6}, {put(0, "c", kv.AtRevision, 7), told{written: []uint64{9}}, 4, 7}}, false},
		"half a transaction": {[]event{{asked{ops: []kv.Op{{Key: historyKey(0), Value: []byte("a")}, {Key: historyKey(1), Value: []byte("a")}}}, told{written: []uint64{7, 8}}, 1, 6},
			{asked{}, told{read: bank{{"a", 7}, {}}}, 2, 3}}, false},
	} {
		var ops []porcupine.Operation
		for i, e := range x.events {
			ops = append(ops, porcupine.Operation{ClientId: i, Input: e.in, Output: e.out, Call: e.call, Return: e.ret})
		}
		if got := porcupine.CheckOperations(historyModel.ToModel(), ops); got != x.good {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestAHistoryThatIsTooHardDoesNotPass: many writes at once that nobody was told of, and a read that none of them explains.
func TestAHistoryThatIsTooHardDoesNotPass(t *testing.T) {
	var h history
	for i := range 40 {
		ops := []kv.Op{{Key: historyKey(i % historyKeys), Value: []byte(fmt.Sprint(i))}}
		h.add(i, h.tick(), asked{client: i, ops: ops}, told{unknown: true})
	}
	h.add(99, h.tick(), asked{}, told{read: bank{{"never", 1}}})
	if err := h.linearizableWithin(50 * time.Millisecond); !errors.Is(err, errGaveUp) {
		t.Errorf("the checker says: %v", err)
	}
}
