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

// ErrStale says that the cluster went on without this master: it was recovered on another one. It is a kind of ErrRemoved.
var ErrStale = fmt.Errorf("%w: the cluster was recovered without it", errclass.ErrRemoved)

// Recovery is what recovering on this master means.
type Recovery struct {
	Name string
	// Left are the masters that are left out for good, by name and address.
	Left []raft.Server
	// LastIndex is the end of this master's log. What others acknowledged beyond it is lost.
	LastIndex uint64
	// Lineage is the new lineage, set by Recover.
	Lineage string
}

// PlanRecovery answers what Recover would do with the stopped master whose data is in dir, and changes nothing.
func PlanRecovery(dir string, log *slog.Logger) (*Recovery, error) {
	return recoverMember(dir, log, true)
}

// Recover makes the stopped master whose data is in dir the only one of its cluster, for when a quorum is lost for good. Every
// entry of its log counts as committed from then on, also those that never were; what only the others had is lost. Start it
// afterwards as before; others join again with empty data directories. Masters that were left out stop by themselves
// once they see the new cluster, and their raft cannot reach it; until then they must be kept from running.
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
	// The member first: if we crash in between, recovering again is what there is to do.
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

// recoveryCheck is how often a master that may have been recovered without this one is asked while it does not answer.
const recoveryCheck = time.Second

// watchRecoveries stops a master that the cluster went on without. Gossip tells of that, but may be old: hosts repeat what they heard
// of a master before its machine, or the whole cluster, began anew under the same keys. So the master itself is asked.
func (c *Cluster) watchRecoveries(ctx context.Context) error {
	events := c.gossip.Events()
	defer events.Close()
	asked := map[string]gossip.Member{} // those that did not answer yet
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
			return nil // the context's end, or gossip's
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

// wentOnWithout asks a master whether the cluster was recovered without this one: ErrStale. It answers false where the master does not.
func (c *Cluster) wentOnWithout(ctx context.Context, m gossip.Member) (known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, aliveBound)
	defer cancel()
	answer, err := c.consensus.Ask(ctx, m.Address)
	if err != nil || answer.Name != m.Name {
		return false, nil
	}
	if answer.Recoveries > c.memberNow().Recoveries {
		return true, fmt.Errorf("%w on %s: what is in %s is of a past that is over; remove it and join again with a token", ErrStale, m.Name, c.cfg.DataDir)
	}
	return true, nil
}

// watchHalt stops a master whose program is too old for what is in the log.
func (c *Cluster) watchHalt(ctx context.Context) error {
	select {
	case <-c.consensus.Halted():
		return c.checkLevel()
	case <-ctx.Done():
		return nil
	}
}
