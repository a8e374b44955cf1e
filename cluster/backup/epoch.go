package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/internal/random"
)

const epochKey = kv.OwnPrefix + "epoch"

// epochBound is how long a restore waits for the first epoch.
const epochBound = 30 * time.Second

// revisionGap is how far revisions jump if the state lacks the end of the log that it came from: more than any cluster can have
// written there.
const revisionGap = 1 << 30

// Reasons of epochs.
const (
	EpochStart    = "start"
	EpochRestore  = "restore"
	EpochRecovery = "recovery"
)

// Epoch counts how often the cluster's state was not simply the continuation of the previous one: a backup was restored, or the
// cluster was recovered from a survivor. It is part of the state.
type Epoch struct {
	Number uint64 `json:"epoch"`
	// Lineage is random. It changes when revisions may have been assigned that the state does not contain: after a start, and after
	// a recovery.
	Lineage string    `json:"lineage"`
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"`
	// Backup describes the backup that was restored.
	Backup *Info `json:"backup,omitempty"`
}

func EpochOf(v kv.View) (epoch Epoch, revision uint64, err error) {
	version, ok := v.Get(epochKey)
	if !ok {
		return Epoch{}, 0, nil
	}
	if err := json.Unmarshal(version.Value, &epoch); err != nil {
		return Epoch{}, version.ModRevision, fmt.Errorf("%s: %w", epochKey, err)
	}
	return epoch, version.ModRevision, nil
}

// EpochUnchanged returns the condition that no epoch has begun since the present one's key had a revision.
func EpochUnchanged(revision uint64) kv.Op {
	return kv.Op{Key: epochKey, Check: true, Cond: kv.AtOrAbsent(revision), Revision: revision}
}

func newEpoch(number uint64, lineage, reason string) Epoch {
	return Epoch{Number: number, Lineage: lineage, Reason: reason, Since: time.Now().UTC().Truncate(time.Second)}
}

// awaitEpoch waits until the first epoch has begun, which is shortly after a new cluster's start.
func (b *Backups) awaitEpoch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, epochBound)
	defer cancel()
	err := b.state.AwaitState(ctx, epochKey, func(v kv.View) bool {
		epoch, _, err := EpochOf(v)
		return err != nil || epoch.Number > 0
	})
	if err != nil {
		return fmt.Errorf("the cluster's first epoch has not begun within %s: %w", epochBound, err)
	}
	return nil
}

// BeginEpoch is the leader's duty that begins the first epoch of a new cluster, and a new one after a recovery. The latter skips
// revisions: the survivor may lack some that were assigned.
func (b *Backups) BeginEpoch(ctx context.Context) error {
	for {
		err := b.beginEpochOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, errclass.ErrFeatureLevel) {
			b.log.Warn("the epoch could not be begun yet, trying again", "error", err)
		}
		if !pause.For(ctx, 200*time.Millisecond) {
			return nil
		}
	}
}

func (b *Backups) beginEpochOnce(ctx context.Context) error {
	view := b.state.View()
	current, revision, err := EpochOf(view)
	if err != nil {
		return err
	}
	recovered := b.o.Recovered()
	if recovered == "" && current.Number > 0 {
		return nil
	}
	next := newEpoch(current.Number+1, recovered, EpochRecovery)
	command := &kv.Command{ID: random.CommandID()}
	switch {
	case recovered == "":
		next.Reason = EpochStart
		next.Lineage = random.Hex(8)
	case current.Lineage != recovered:
		if err := b.o.RequireLevel(ctx, 2, "going on after a recovery"); err != nil {
			return err
		}
		command.Restore = &kv.Restore{Revision: view.Revision() + revisionGap}
	default:
		return b.o.EpochBegun() // it was begun before a crash
	}
	value, err := json.Marshal(next)
	if err != nil {
		return err
	}
	command.Ops = []kv.Op{{Key: epochKey, Value: value, Cond: kv.AtOrAbsent(revision), Revision: revision}}
	result, err := b.state.Propose(ctx, command)
	if err != nil {
		return err
	}
	if result.Failed != nil {
		return fmt.Errorf("begin an epoch: %w", result.Failed)
	}
	b.log.Info("a new epoch of the cluster has begun", "epoch", next.Number, "reason", next.Reason)
	if recovered != "" {
		return b.o.EpochBegun()
	}
	return nil
}
