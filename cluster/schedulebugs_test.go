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
	proudReads bool // a leader's read does not ask whether it still leads
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
	if b.bugs.staleReads || b.bugs.proudReads && b.c.IsLeader() {
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

// TestSchedulesFindBugs: each mistake must be found, and soon.
func TestSchedulesFindBugs(t *testing.T) {
	for name, x := range map[string]struct {
		bugs simBugs
		want error
	}{
		"a disk answers before it has stored":            {simBugs{lyingDisks: true}, errNotLinearizable},
		"a master reads its own state and asks nobody":   {simBugs{staleReads: true}, errNotLinearizable},
		"a leader reads and does not ask if it leads":    {simBugs{proudReads: true}, errNotLinearizable},
		"a command is proposed again under another name": {simBugs{freshIDs: true}, errNotLinearizable},
	} {
		t.Run(name, func(t *testing.T) {
			const enough = 2000
			for seed := range int64(enough) {
				if err := newSchedule(seed, x.bugs).check(t); err != nil {
					if !errors.Is(err, x.want) {
						t.Errorf("schedule %d: %v", seed, err)
					}
					t.Logf("schedule %d: %v", seed, err)
					return
				}
			}
			t.Errorf("%d schedules did not find it", enough)
		})
	}
}
