package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/internal/random"
)

// ErrStale means that the cluster was recovered on another master without this one. It wraps errclass.ErrRemoved.
var ErrStale = fmt.Errorf("%w: the cluster was recovered without it", errclass.ErrRemoved)

// Recovery describes a recovery.
type Recovery struct {
	Name string
	// Left are the masters that the recovery excludes permanently.
	Left []raft.Server
	// LastIndex is the last index of this master's log. Entries beyond it, even acknowledged ones, are lost.
	LastIndex uint64
	// Lineage is the new lineage, set by Recover.
	Lineage string
}

// PlanRecovery returns what Recover would do with the stopped master whose data is in dir. It changes nothing.
func PlanRecovery(dir string, log *slog.Logger) (*Recovery, error) {
	return recoverMember(dir, log, true)
}

// Recover makes the stopped master whose data is in dir the only one of its cluster, for when a quorum is lost permanently. From then on
// every entry of its log counts as committed, even if it never was; entries that only other masters had are lost. Start the master as
// before afterwards; the others join again with empty data directories. Excluded masters stop once they see the new cluster, and their raft
// cannot reach it; until then they must not run.
func Recover(dir string, log *slog.Logger) (*Recovery, error) { return recoverMember(dir, log, false) }

func recoverMember(dir string, log *slog.Logger, dry bool) (_ *Recovery, err error) {
	self, err := loadMember(dir)
	if err != nil {
		return nil, err
	}
	raftDir := filepath.Join(dir, "raft")
	if self == nil || !consensus.HasState(raftDir) {
		return nil, fmt.Errorf("%s holds no master's data to recover from", dir)
	}
	if log == nil {
		log = slog.Default()
	}
	survivor, err := consensus.OpenSurvivor(raftDir, self.Name, self.Address, dry, log)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, survivor.Close()) }()
	plan := &Recovery{Name: self.Name, LastIndex: survivor.LastIndex}
	for _, s := range survivor.Servers {
		if string(s.ID) != self.Name {
			plan.Left = append(plan.Left, s)
		}
	}
	if dry {
		return plan, nil
	}
	plan.Lineage = random.Hex(8)
	// The member is saved first: after a crash in between, the recovery can be run again.
	self.Complete, self.Recovered = true, plan.Lineage
	self.Recoveries++
	if err := self.save(dir); err != nil {
		return nil, err
	}
	if err := survivor.GoOnAlone(); err != nil {
		return nil, err
	}
	return plan, nil
}

// recoveryCheck is how often a master that may have been recovered without this one is asked, until it responds.
const recoveryCheck = time.Second

// watchRecoveries returns ErrStale if the cluster was recovered without this master. Gossip shows that, but it may be outdated, since hosts
// repeat what they heard of a master before its machine, or the whole cluster, was set up again with the same keys. So the master in
// question is asked itself.
func (c *Cluster) watchRecoveries(ctx context.Context) error {
	events := c.gossip.Events()
	defer events.Close()
	asked := map[string]gossip.Member{} // the masters that have not responded yet
	for {
		wait, cancel := ctx, context.CancelFunc(func() {})
		if len(asked) > 0 {
			wait, cancel = context.WithTimeout(ctx, recoveryCheck)
		}
		m, err := events.Next(wait)
		cancel()
		switch {
		case err == nil && m.Role == mtls.RoleMaster:
			delete(asked, m.Name)
			if m.State == gossip.Alive && m.Recoveries > c.memberNow().Recoveries {
				asked[m.Name] = m
			}
		case err != nil && (ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded)):
			return nil // the context or gossip has ended
		}
		for name, m := range asked {
			known, err := c.wentOnWithout(ctx, m)
			if err != nil {
				return err
			}
			if known {
				delete(asked, name)
			}
		}
	}
}

// wentOnWithout asks a master whether the cluster was recovered without this one, and returns ErrStale if so. known is false if the master
// does not respond.
func (c *Cluster) wentOnWithout(ctx context.Context, m gossip.Member) (known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, aliveBound)
	defer cancel()
	answer, err := c.consensus.Ask(ctx, m.Address)
	if err != nil || answer.Name != m.Name {
		return false, nil
	}
	if answer.Recoveries > c.memberNow().Recoveries {
		return true, fmt.Errorf("%w on %s: the data in %s are from before the recovery; remove them and join again with a token", ErrStale, m.Name, c.cfg.DataDir)
	}
	return true, nil
}

// watchHalt returns an error once the log has a command that is too new for this program.
func (c *Cluster) watchHalt(ctx context.Context) error {
	select {
	case <-c.consensus.Halted():
		return c.checkLevel()
	case <-ctx.Done():
		return nil
	}
}
