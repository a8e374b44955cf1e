package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

const epochKey = kv.OwnPrefix + "epoch"

// revisionGap is how far revisions jump where the state follows a past that it does not know to the end: more than any
// cluster can have written beyond what is known.
const revisionGap = 1 << 30

// Reasons of epochs.
const (
	EpochStart    = "start"
	EpochRestore  = "restore"
	EpochRecovery = "recovery"
)

// Epoch counts the times that the cluster's state did not simply follow from what was before: a backup was brought back, or
// the cluster went on from a survivor. It is part of the state.
type Epoch struct {
	Number uint64 `json:"epoch"`
	// Lineage is random. It is another one where revisions may have been handed out that the state does not know of: after a
	// start, and after a recovery.
	Lineage string    `json:"lineage"`
	Since   time.Time `json:"since"`
	Reason  string    `json:"reason"`
	// Backup is what was brought back by a restore.
	Backup *BackupInfo `json:"backup,omitempty"`
}

func epochOf(v kv.View) (epoch Epoch, revision uint64, err error) {
	version, ok := v.Get(epochKey)
	if !ok {
		return Epoch{}, 0, nil
	}
	if err := json.Unmarshal(version.Value, &epoch); err != nil {
		return Epoch{}, version.ModRevision, fmt.Errorf("%s: %w", epochKey, err)
	}
	return epoch, version.ModRevision, nil
}

func newEpoch(number uint64, lineage, reason string) Epoch {
	return Epoch{Number: number, Lineage: lineage, Reason: reason, Since: time.Now().UTC().Truncate(time.Second)}
}

// awaitEpoch waits until the first epoch has begun, which a new cluster's leader does a moment after its start.
func (c *Cluster) awaitEpoch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, quiesceBound)
	defer cancel()
	err := c.awaitState(ctx, epochKey, func(v kv.View) bool {
		epoch, _, err := epochOf(v)
		return err != nil || epoch.Number > 0
	})
	if err != nil {
		return fmt.Errorf("the cluster's first epoch has not begun within %s: %w", quiesceBound, err)
	}
	return nil
}

// beginEpoch is the duty of the leader that begins the first epoch of a new cluster, and a new one after a recovery. The
// latter skips revisions: the survivor may lack some that were handed out.
func (c *Cluster) beginEpoch(ctx context.Context) error {
	for {
		err := c.beginEpochOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, errclass.ErrFeatureLevel) {
			c.log.Warn("the epoch could not be begun yet, trying again", "error", err)
		}
		if !c.leaders.current().pause(ctx, 200*time.Millisecond) {
			return nil
		}
	}
}

func (c *Cluster) beginEpochOnce(ctx context.Context) error {
	view := c.store.View()
	current, revision, err := epochOf(view)
	if err != nil {
		return err
	}
	recovered := c.memberNow().Recovered
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
		if err := c.requireLevel(ctx, 2, "going on after a recovery"); err != nil {
			return err
		}
		command.Restore = &kv.Restore{Revision: view.Revision() + revisionGap}
	default:
		return c.changeMember(func(m *member) { m.Recovered = "" }) // it was begun before a crash
	}
	value, err := json.Marshal(next)
	if err != nil {
		return err
	}
	command.Ops = []kv.Op{{Key: epochKey, Value: value, Cond: atOrAbsent(revision), Revision: revision}}
	result, err := c.Propose(ctx, command)
	if err != nil {
		return err
	}
	if result.Failed != nil {
		return fmt.Errorf("begin an epoch: %w", result.Failed)
	}
	c.log.Info("a new epoch of the cluster has begun", "epoch", next.Number, "reason", next.Reason)
	if recovered != "" {
		return c.changeMember(func(m *member) { m.Recovered = "" })
	}
	return nil
}
