package consensus

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/storage"
	"github.com/kontiki/kontiki/fsm"
)

// Survivor is the disk of a stopped master that is to continue alone, because a quorum is lost for good.
type Survivor struct {
	// Servers are the masters in its latest configuration, LastIndex the last index of its log or snapshot.
	Servers   []raft.Server
	LastIndex uint64

	dir       string
	disk      *storage.Store
	config    *raft.Config
	transport raft.LoopbackTransport
}

// OpenSurvivor opens the disk in a directory and reads it; inspect opens it read-only. It must be closed.
func OpenSurvivor(dir, name, address string, inspect bool, log *slog.Logger) (_ *Survivor, err error) {
	disk, err := storage.Open(dir, storage.Options{Expect: true, Inspect: inspect, Keep: SnapshotsKept, Log: log})
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	s := &Survivor{dir: dir, disk: disk, config: raft.DefaultConfig()}
	s.config.LocalID, s.config.Logger, s.config.NoLegacyTelemetry = raft.ServerID(name), &raftLog{log: log, name: "raft"}, true
	_, s.transport = raft.NewInmemTransport(raft.ServerAddress(address))
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	// GetConfiguration reads snapshot and log as a start would, and would write the term again.
	present, err := raft.GetConfiguration(s.config, scratch(), disk, unwritten{disk}, disk.Snapshots(), s.transport)
	if err != nil {
		return nil, fmt.Errorf("read the log in %s: %w", dir, err)
	}
	s.Servers = present.Servers
	if s.LastIndex, err = disk.LastIndex(); err != nil {
		return nil, fmt.Errorf("read the log in %s: %w", dir, err)
	}
	if list, err := disk.Snapshots().List(); err == nil && len(list) > 0 {
		s.LastIndex = max(s.LastIndex, list[0].Index)
	}
	return s, nil
}

// GoOnAlone makes the survivor the only master. From then on every entry of its log counts as committed.
func (s *Survivor) GoOnAlone() error {
	alone := raft.Configuration{Servers: []raft.Server{{ID: s.config.LocalID, Address: s.transport.LocalAddr()}}}
	machine := scratch()
	if err := raft.RecoverCluster(s.config, machine, s.disk, s.disk, s.disk.Snapshots(), s.transport, alone); err != nil {
		return fmt.Errorf("recover from %s: %w", s.dir, err)
	}
	if err := machine.store.Halted(); err != nil {
		return fmt.Errorf("recover from %s: %w", s.dir, err)
	}
	return nil
}

// Close closes the disk.
func (s *Survivor) Close() error { return errors.Join(s.transport.Close(), s.disk.Close()) }

// scratch returns a state machine that is discarded.
func scratch() applier { return newApplier(fsm.New(fsm.Options{}), func() {}, func() {}) }

// unwritten is a stable store that ignores writes.
type unwritten struct{ raft.StableStore }

func (unwritten) Set(_, _ []byte) error              { return nil }
func (unwritten) SetUint64(_ []byte, _ uint64) error { return nil }
