package consensus

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/robustness/history"
	"github.com/kontiki/kontiki/test/robustness/watchcheck"
)

// simBugs are bugs that the product does not have, for a test of the tests.
type simBugs struct {
	lyingDisks bool // a write is answered before it is durable
	staleReads bool // a read asks nobody
	losesEnds  bool // a crash loses the last entries of the log, which were synced
	oldAnswers bool // a leader counts answers to heartbeats that it sent before it was asked
	undated    bool // a command that comes after its result was forgotten is applied again
	freshIDs   bool // a retry is a new command
	splits     bool // a watch tells each event by a call of its own
	forgets    bool // a watch that is resumed begins one event late
	invents    bool // a watch tells another value than was written
}

// asker is a process as clients use it.
func (b simBugs) asker(life *simLife) history.Client {
	if b == (simBugs{}) {
		return life
	}
	return buggy{life, b}
}

type buggy struct {
	*simLife
	bugs simBugs
}

func (b buggy) Read(ctx context.Context) (history.Bank, error) {
	if b.bugs.staleReads {
		return history.BankOf(b.c.View()), nil
	}
	return b.simLife.Read(ctx)
}

func (b buggy) Transact(ctx context.Context, ops []kv.Op) (kv.Result, error) {
	if !b.bugs.freshIDs {
		return b.simLife.Transact(ctx, ops)
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		result, err := b.simLife.Transact(attempt, ops)
		cancel()
		if !errors.Is(err, kv.ErrOutcomeUnknown) || ctx.Err() != nil {
			return result, err
		}
	}
}

// watchSource is a process as watchers use it.
func (b simBugs) watchSource(life *simLife) history.Source {
	if b == (simBugs{}) {
		return life
	}
	return buggy{life, b}
}

func (b buggy) Watch(ctx context.Context, after uint64) (told history.Watched, err error) {
	if told, err = b.simLife.Watch(ctx, after); err != nil {
		return told, err
	}
	var calls []history.NextCall
	for _, call := range told.Calls {
		switch n := len(call.Events); {
		case b.bugs.splits && n > 1:
			for _, e := range call.Events[:n-1] {
				calls = append(calls, history.NextCall{Events: []watchcheck.Event{e}, Progress: e.Revision})
			}
			call.Events = call.Events[n-1:]
		case b.bugs.forgets && n > 0 && len(calls) == 0 && after > 0:
			call.Events = call.Events[1:]
		case b.bugs.invents && n > 0:
			call.Events[n-1].Now.Value += "?"
		}
		calls = append(calls, call)
	}
	told.Calls = calls
	return told, nil
}

// TestSchedulesFindBugs: the checker must find each bug, and soon.
func TestSchedulesFindBugs(t *testing.T) {
	for name, x := range map[string]struct {
		bugs simBugs
		want error
	}{
		"a disk answers before it has stored":            {simBugs{lyingDisks: true}, history.ErrNotLinearizable},
		"a disk loses the last of what it has stored":    {simBugs{losesEnds: true}, history.ErrNotLinearizable},
		"a master reads its own state and asks nobody":   {simBugs{staleReads: true}, history.ErrNotLinearizable},
		"a leader counts answers that are older":         {simBugs{oldAnswers: true}, history.ErrNotLinearizable},
		"a command comes after its result was forgotten": {simBugs{undated: true}, history.ErrNotLinearizable},
		"a command is proposed again under another name": {simBugs{freshIDs: true}, history.ErrNotLinearizable},
		"a watch tells a command in pieces":              {simBugs{splits: true}, watchcheck.ErrBrokeAtomic},
		"a watch that is resumed begins one event late":  {simBugs{forgets: true}, watchcheck.ErrBrokeReliable},
		"a watch tells another value than was written":   {simBugs{invents: true}, watchcheck.ErrBrokeReliable},
	} {
		t.Run(name, func(t *testing.T) {
			const enough = 500
			for seed := range int64(enough) {
				if err := newSchedule(seed, x.bugs).check(t); errors.Is(err, x.want) {
					t.Logf("schedule %d: %v", seed, err)
					return
				}
			}
			t.Errorf("%d schedules did not find it", enough)
		})
	}
}
