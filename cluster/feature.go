package cluster

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// FeatureLevel is the newest level of replicated features that this program has. The cluster's own level rises to N only
// when every master has N, and never falls: what a level allows may then be written to the log for good.
//
//	1  what the first release writes
//	2  commands of version 2: restoring backups, skipping revisions
//	3  commands of version 3: they are dated, and not applied when they may have been before (kv.Command.Since)
//
// A level allows the commands of its own number and below (fsm.CommandVersion).
const FeatureLevel = fsm.CommandVersion

// requireLevel refuses what the cluster's level does not allow yet, and says who holds it back.
func (c *Cluster) requireLevel(ctx context.Context, level int, what string) error {
	have := c.FeatureLevel()
	if have >= level {
		return nil
	}
	_, behind := c.lowestLevel(ctx, level)
	return fmt.Errorf("%w: %s needs level %d, the cluster is at %d, and rises when every master supports it; missing: %s",
		errclass.ErrFeatureLevel, what, level, have, strings.Join(behind, ", "))
}

// lowestLevel asks every master for the level that it supports. behind names those that are below the wanted one or do not
// answer; the level of who does not answer counts as 0.
func (c *Cluster) lowestLevel(ctx context.Context, wanted int) (lowest int, behind []string) {
	lowest = c.cfg.FeatureLevel
	for _, answer := range c.askAll(ctx) {
		level := 0
		switch {
		case answer.status == nil:
			behind = append(behind, fmt.Sprintf("%s (does not answer)", answer.server.ID))
		default:
			level = max(int(answer.status.FeatureLevel), 1)
			if level < wanted {
				behind = append(behind, fmt.Sprintf("%s (version %s supports level %d)", answer.server.ID, answer.status.Version, level))
			}
		}
		lowest = min(lowest, level)
	}
	return lowest, behind
}

// featurePause is how often a leader looks whether the level can rise while it is below what its own program has.
const featurePause = 10 * time.Second

// keepFeatureLevel is the duty of the leader that raises the level as upgrades end.
func (c *Cluster) keepFeatureLevel(ctx context.Context) error {
	for {
		changed := c.consensus.Leadership()
		err := c.raiseFeatureLevel(ctx)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("the feature level could not be raised", "error", err)
		}
		pause := featurePause
		if c.FeatureLevel() >= c.cfg.FeatureLevel {
			pause = time.Hour // nothing is left to do before another program leads
		}
		if !changed.Pause(ctx, pause) {
			return nil
		}
	}
}

func (c *Cluster) raiseFeatureLevel(ctx context.Context) error {
	if err := c.memberChange.Take(ctx); err != nil { // nobody joins between the question and the answer
		return err
	}
	defer c.memberChange.Leave()
	level, revision := consensus.LevelOf(c.store.View())
	if level >= c.cfg.FeatureLevel {
		return nil
	}
	lowest, _ := c.lowestLevel(ctx, c.cfg.FeatureLevel)
	if lowest <= level {
		return nil
	}
	result, err := c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{consensus.SetLevel(lowest, revision)}})
	if err != nil {
		return err
	}
	if result.Failed == nil {
		c.log.Info("the cluster's feature level has risen", "level", lowest, "from", level)
	}
	return nil
}

// checkLevel says whether this program is too old for the cluster's state. Such a master must not run: commands would come
// that it cannot apply.
func (c *Cluster) checkLevel() error {
	if err := c.store.Halted(); err != nil {
		return fmt.Errorf("%w: %w: run a newer version of this program", errclass.ErrFeatureLevel, err)
	}
	if level := c.FeatureLevel(); level > c.cfg.FeatureLevel {
		return fmt.Errorf("%w: the cluster is at level %d and this program (version %s) supports %d: run a newer version of it",
			errclass.ErrFeatureLevel, level, c.cfg.Version, c.cfg.FeatureLevel)
	}
	return nil
}

// admitLevel says whether a master that wants to join supports what the cluster may have written already.
func (c *Cluster) admitLevel(name, version string, supports int) error {
	if level := c.FeatureLevel(); supports < level {
		return fmt.Errorf("%w: the cluster is at level %d and the master %s (version %s) supports %d: run a newer version of it there",
			errclass.ErrFeatureLevel, level, name, version, supports)
	}
	return nil
}
