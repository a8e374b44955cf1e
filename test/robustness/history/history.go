// Package history records the requests of a cluster's clients, on any master, and the responses, and checks that the record is
// linearizable: as if every command and every read had happened at one instant between its request and its response (Herlihy and
// Wing 1990; the checker is porcupine). Watchers follow masters beside the clients, and are checked by package watchcheck.
package history

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

	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/test/robustness/watchcheck"
)

// Keys is the number of keys that clients use.
const Keys = 5

func key(i int) string { return fmt.Sprintf("/t/things/ns/%d", i) }

// Cell is the content of one key: a value and the revision at which it was written; both are zero if the key is absent. The
// revision unknownRevision means one that no client was told.
type Cell struct {
	Value    string
	Revision uint64
}

const unknownRevision = math.MaxUint64

// Bank is the content of all keys.
type Bank [Keys]Cell

// Asked is a read of all keys, or a transaction.
type Asked struct {
	Client int
	Ops    []kv.Op // nil for a read
}

// Told is the response to a request.
type Told struct {
	Unknown bool
	Read    Bank
	Failed  bool
	Written []uint64 // revisions, by operation
}

func keyIndex(key string) int { return int(key[len(key)-1] - '0') }

// step returns the states that may follow.
func step(s Bank, in Asked, out Told) []Bank {
	if in.Ops == nil {
		for i, have := range s {
			switch {
			case have.Value != out.Read[i].Value:
				return nil
			case have.Revision == unknownRevision:
				s[i].Revision = out.Read[i].Revision
			case have.Revision != out.Read[i].Revision:
				return nil
			}
		}
		return []Bank{s}
	}
	// Whether the conditions hold may depend on an unknown revision.
	holds, fails := true, false
	for _, op := range in.Ops {
		have := s[keyIndex(op.Key)]
		switch op.Cond {
		case kv.Absent:
			holds = holds && have.Revision == 0
			fails = fails || have.Revision != 0
		case kv.Exists:
			holds = holds && have.Revision != 0
			fails = fails || have.Revision == 0
		case kv.AtRevision:
			holds = holds && (have.Revision == op.Revision || have.Revision == unknownRevision)
			fails = fails || have.Revision != op.Revision
		}
	}
	var next []Bank
	if fails && (out.Unknown || out.Failed) {
		next = append(next, s)
	}
	if holds && !out.Failed {
		for i, op := range in.Ops {
			if op.Check {
				continue
			}
			revision := uint64(unknownRevision)
			if !out.Unknown {
				revision = out.Written[i]
			}
			if op.Delete {
				s[keyIndex(op.Key)] = Cell{}
				continue
			}
			s[keyIndex(op.Key)] = Cell{string(op.Value), revision}
		}
		next = append(next, s)
	}
	return next
}

var model = porcupine.NondeterministicModel{
	Init: func() []any { return []any{Bank{}} },
	Step: func(state, in, out any) []any {
		var next []any
		for _, s := range step(state.(Bank), in.(Asked), out.(Told)) {
			next = append(next, s)
		}
		return next
	},
	DescribeOperation: func(in, out any) string { return fmt.Sprintf("%+v -> %+v", in, out) },
}

// History collects operations. Its time is a counter, since virtual time stands still while operations run.
type History struct {
	clock atomic.Int64
	mu    sync.Mutex
	Done  []porcupine.Operation
}

// Tick returns the next instant.
func (h *History) Tick() int64 { return h.clock.Add(1) }

// Add records an operation that began at the instant call and ends now.
func (h *History) Add(client int, call int64, in Asked, out Told) {
	op := porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: h.Tick()}
	if out.Unknown {
		op.Return = math.MaxInt64 // it may still take effect
	}
	h.mu.Lock()
	h.Done = append(h.Done, op)
	h.mu.Unlock()
}

// Count returns the number of operations.
func (h *History) Count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.Done)
}

// Check fails the test if the history is not linearizable. It runs in real time.
func (h *History) Check(t testing.TB) {
	t.Helper()
	err := h.Linearizable()
	if errors.Is(err, errGaveUp) {
		t.Error(err)
	} else if err != nil {
		_, info := porcupine.CheckOperationsVerbose(checkedModel, h.Done, checkBound)
		path := fmt.Sprintf("%s/history.html", t.ArtifactDir())
		if err := porcupine.VisualizePath(checkedModel, info, path); err != nil {
			path = err.Error()
		}
		t.Errorf("%v; see %s", err, path)
	}
}

// checkBound is the checker's time limit for one history.
const checkBound = 2 * time.Minute

var (
	checkedModel       = model.ToModel()
	ErrNotLinearizable = errors.New("ErrNotLinearizable")
	errGaveUp          = errors.New("ErrGaveUp: the checker found no answer in time, so nothing is shown")
	ErrDiverged        = errors.New("ErrDiverged: two masters hold different states")
)

// Linearizable checks the history. It returns an error if the checker gives up.
func (h *History) Linearizable() error { return h.linearizableWithin(checkBound) }

func (h *History) linearizableWithin(bound time.Duration) error {
	switch porcupine.CheckOperationsTimeout(checkedModel, h.Done, bound) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("%w: a history of %d operations, %v", errGaveUp, len(h.Done), bound)
	}
	return fmt.Errorf("%w: a history of %d operations", ErrNotLinearizable, len(h.Done))
}

// Commands returns the commands that were carried out, or may have been.
func (h *History) Commands() (all []watchcheck.Command) {
	for _, done := range h.Done {
		in, out := done.Input.(Asked), done.Output.(Told)
		if in.Ops == nil || out.Failed {
			continue
		}
		c := watchcheck.Command{Unknown: out.Unknown}
		for i, op := range in.Ops {
			if op.Check {
				continue
			}
			w := watchcheck.Write{Key: op.Key, Value: string(op.Value), Deleted: op.Delete}
			if !out.Unknown {
				w.Revision = out.Written[i]
			}
			c.Writes = append(c.Writes, w)
		}
		all = append(all, c)
	}
	return all
}

// Client reads and carries out transactions through a master.
type Client interface {
	Read(ctx context.Context) (Bank, error)
	Transact(ctx context.Context, ops []kv.Op) (kv.Result, error)
}

// InProcess is a master in this process: its proposals and reads, and the store behind it.
type InProcess struct {
	Master interface {
		Consistent(ctx context.Context) (kv.View, error)
		Propose(ctx context.Context, cmd *kv.Command) (kv.Result, error)
	}
	Store *fsm.Store
}

func (p InProcess) Read(ctx context.Context) (b Bank, err error) {
	view, err := p.Master.Consistent(ctx)
	if err != nil {
		return b, err
	}
	return BankOf(view), nil
}

func (p InProcess) Transact(ctx context.Context, ops []kv.Op) (kv.Result, error) {
	return p.Master.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops})
}

// BankOf returns the content of all keys in a view.
func BankOf(view kv.View) (b Bank) {
	for i := range Keys {
		if v, ok := view.Get(key(i)); ok {
			b[i] = Cell{string(v.Value), v.ModRevision}
		}
	}
	return b
}

// Ask carries out one random operation on a master and records it. last is what the client saw last, which conditions are made
// from.
func (h *History) Ask(ctx context.Context, client int, c Client, r interface {
	Intn(int) int
}, last *Bank) {
	call := h.Tick()
	if r.Intn(2) == 0 {
		read, err := c.Read(ctx)
		if err != nil {
			return // a read without a response shows nothing
		}
		*last = read
		h.Add(client, call, Asked{Client: client}, Told{Read: read})
		return
	}
	in := Asked{Client: client}
	for _, i := range pick(r, 1+r.Intn(3)) {
		op := kv.Op{Key: key(i), Value: []byte(fmt.Sprintf("%d-%d", client, call))}
		switch r.Intn(5) {
		case 0:
			op.Delete, op.Value = true, nil
		case 1:
			op.Check, op.Value = true, nil
		}
		if seen := last[i].Revision; r.Intn(3) > 0 {
			op.Cond = kv.Absent
			if seen != 0 {
				op.Cond, op.Revision = kv.AtRevision, seen
			}
		}
		if op.Delete && op.Cond == kv.Absent || op.Check && op.Cond == kv.Always {
			op.Cond = kv.Exists
		}
		in.Ops = append(in.Ops, op)
	}
	result, err := c.Transact(ctx, in.Ops)
	switch {
	case errors.Is(err, kv.ErrNoLeader), errors.Is(err, kv.ErrDiskFull):
		return // certainly not carried out
	case err != nil:
		h.Add(client, call, in, Told{Unknown: true})
	case result.Failed != nil:
		h.Add(client, call, in, Told{Failed: true})
	default:
		h.Add(client, call, in, Told{Written: result.Revisions})
		for i, op := range in.Ops {
			if !op.Check {
				last[keyIndex(op.Key)].Revision = result.Revisions[i]
			}
		}
	}
}

func pick(r interface{ Intn(int) int }, n int) []int {
	all := make([]int, Keys)
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
