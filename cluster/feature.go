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

// FeatureLevel is the highest level of replicated features that this program supports. The cluster's level rises to N once every master
// supports N, and never falls, because commands that a level allows stay in the log.
//
//	1  the commands of the first release
//	2  commands of version 2: restoring backups, skipping revisions
//	3  commands of version 3: they carry kv.Command.Since, and are refused if they may have been applied before
//	4  commands of version 4: additions to counters (kv.Op.Add), which quotas need
//	5  commands of version 5: rewriting of values (kv.Op.Rewrite), which the rotation of the key of Secrets needs
//
// A level allows the commands of its own number and below (fsm.CommandVersion).
const FeatureLevel = fsm.CommandVersion

// requireLevel returns errclass.ErrFeatureLevel if the cluster's level is lower than the given one; the text names the masters that do not
// support it.
func (c *Cluster) requireLevel(ctx context.Context, level int, what string) error {
	have := c.FeatureLevel()
	if have >= level {
		return nil
	}
	_, behind := c.lowestLevel(ctx, level)
	return fmt.Errorf("%w: %s needs level %d, the cluster is at %d, and rises when every master supports it; missing: %s",
		errclass.ErrFeatureLevel, what, level, have, strings.Join(behind, ", "))
}

// lowestLevel asks every master for the level that it supports, and returns the lowest one. behind describes the masters that support less
// than the wanted level or do not respond; the level of a master that does not respond counts as 0.
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

// featurePause is how often a leader checks whether the level can rise, while it is below its own program's.
const featurePause = 10 * time.Second

// keepFeatureLevel is the leader's duty that raises the level after upgrades.
func (c *Cluster) keepFeatureLevel(ctx context.Context) error {
	for {
		changed := c.consensus.Leadership()
		err := c.raiseFeatureLevel(ctx)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("the feature level could not be raised", "error", err)
		}
		pause := featurePause
		if c.FeatureLevel() >= c.cfg.FeatureLevel {
			pause = time.Hour // the level can only rise once a newer program leads
		}
		if !changed.Pause(ctx, pause) {
			return nil
		}
	}
}

func (c *Cluster) raiseFeatureLevel(ctx context.Context) error {
	if err := c.memberChange.Take(ctx); err != nil { // no master may join between the check and the change
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

// checkLevel returns an error if this program is too old for the cluster's level. Such a master must not run, since it could not apply newer
// commands.
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

// admitLevel returns an error if a master that wants to join does not support the cluster's level.
func (c *Cluster) admitLevel(name, version string, supports int) error {
	if level := c.FeatureLevel(); supports < level {
		return fmt.Errorf("%w: the cluster is at level %d and the master %s (version %s) supports %d: run a newer version of it there",
			errclass.ErrFeatureLevel, level, name, version, supports)
	}
	return nil
}
