package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/storage"
	"github.com/kontiki/kontiki/fsm"
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
	if self == nil || !hasRaftState(raftDir) {
		return nil, fmt.Errorf("%s holds no master's data to recover from", dir)
	}
	if log == nil {
		log = slog.Default()
	}
	disk, err := storage.Open(raftDir, storage.Options{Expect: true, Inspect: dry, Keep: snapshotsKept, Log: log})
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	snapshots := disk.Snapshots()
	config := raft.DefaultConfig()
	config.LocalID, config.Logger, config.NoLegacyTelemetry = raft.ServerID(self.Name), &raftLog{log: log, name: "raft"}, true
	_, transport := raft.NewInmemTransport(raft.ServerAddress(self.Address))
	defer transport.Close()
	scratch := func() applier { return newApplier(fsm.New(fsm.Options{}), func() {}, func() {}) }
	// GetConfiguration reads snapshot and log as a start would, and would write the term again.
	present, err := raft.GetConfiguration(config, scratch(), disk, unwritten{disk}, snapshots, transport)
	if err != nil {
		return nil, fmt.Errorf("read the log in %s: %w", raftDir, err)
	}
	plan := &Recovery{Name: self.Name}
	for _, s := range present.Servers {
		if s.ID != config.LocalID {
			plan.Left = append(plan.Left, s)
		}
	}
	if plan.LastIndex, err = disk.LastIndex(); err != nil {
		return nil, fmt.Errorf("read the log in %s: %w", raftDir, err)
	}
	if list, err := snapshots.List(); err == nil && len(list) > 0 {
		plan.LastIndex = max(plan.LastIndex, list[0].Index)
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
	alone := raft.Configuration{Servers: []raft.Server{{ID: config.LocalID, Address: raft.ServerAddress(self.Address)}}}
	machine := scratch()
	if err := raft.RecoverCluster(config, machine, disk, disk, snapshots, transport, alone); err != nil {
		return nil, fmt.Errorf("recover from %s: %w", raftDir, err)
	}
	if err := machine.store.Halted(); err != nil {
		return nil, fmt.Errorf("recover from %s: %w", raftDir, err)
	}
	return plan, nil
}

// unwritten is a stable store that keeps what it has.
type unwritten struct{ raft.StableStore }

func (unwritten) Set(_, _ []byte) error              { return nil }
func (unwritten) SetUint64(_ []byte, _ uint64) error { return nil }

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
	answer, err := c.ask(ctx, m.Address)
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
	case <-c.replica.halted:
		return c.checkLevel()
	case <-ctx.Done():
		return nil
	}
}
