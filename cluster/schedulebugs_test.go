package cluster

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kontiki/kontiki/internal/kv"
)

// simBugs are mistakes that the product does not have, for a test of the tests.
type simBugs struct {
	lyingDisks bool // a write is answered before it is durable
	staleReads bool // a read asks nobody
	losesEnds  bool // a crash loses the last entries of the log, which were synced
	freshIDs   bool // a retry is a new command
}

// asker is a process as clients have it.
func (b simBugs) asker(life *simLife) asker {
	if b == (simBugs{}) {
		return life
	}
	return buggy{life, b}
}

type buggy struct {
	*simLife
	bugs simBugs
}

func (b buggy) read(ctx context.Context) (bank, error) {
	if b.bugs.staleReads {
		return bankOf(b.c.View()), nil
	}
	return b.simLife.read(ctx)
}

func (b buggy) transact(ctx context.Context, ops []kv.Op) (kv.Result, error) {
	if !b.bugs.freshIDs {
		return b.simLife.transact(ctx, ops)
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		result, err := b.simLife.transact(attempt, ops)
		cancel()
		if !errors.Is(err, kv.ErrOutcomeUnknown) || ctx.Err() != nil {
			return result, err
		}
	}
}

// TestSchedulesFindBugs: the checker must find each mistake, and soon.
func TestSchedulesFindBugs(t *testing.T) {
	for name, bugs := range map[string]simBugs{
		"a disk answers before it has stored":            {lyingDisks: true},
		"a disk loses the last of what it has stored":    {losesEnds: true},
		"a master reads its own state and asks nobody":   {staleReads: true},
		"a command is proposed again under another name": {freshIDs: true},
	} {
		t.Run(name, func(t *testing.T) {
			const enough = 500
			for seed := range int64(enough) {
				if err := newSchedule(seed, bugs).check(t); errors.Is(err, errNotLinearizable) {
					t.Logf("schedule %d: %v", seed, err)
					return
				}
			}
			t.Errorf("%d schedules did not find it", enough)
		})
	}
}
