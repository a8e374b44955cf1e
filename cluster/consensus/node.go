package consensus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/raftfix"
	"github.com/kontiki/kontiki/cluster/storage"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/failpoint"
)

const (
	maxAppendEntries  = 512
	logCacheEntries   = 8192
	transportPool     = 3
	raftShutdownBound = 5 * time.Second
)

// applier adapts the state machine to raft. Its effects must depend only on the log: Apply and ApplyBatch behave alike, because
// raft.RecoverCluster uses Apply.
type applier struct {
	store   *fsm.Store
	applied func() // called after each batch of commands; must not block
	// reconfigured is called after a batch with a configuration change; it must not block.
	reconfigured func()
	// halted is closed when the store stops applying entries, because the program is too old for what is in the log.
	halted chan struct{}
	halt   *sync.Once
	// metrics count batches; nil counts nothing.
	metrics *metrics
}

// appliedOutcome is raft's answer for a command that was applied: its outcome, and when the batch with it began to be applied.
type appliedOutcome struct {
	fsm.Outcome
	began time.Time
}

func newApplier(store *fsm.Store, applied, reconfigured func()) applier {
	return applier{store: store, applied: applied, reconfigured: reconfigured, halted: make(chan struct{}), halt: new(sync.Once)}
}

// after is called after each batch. A halted store must not be snapshotted either: raft counts the entry as applied.
func (a applier) after() {
	if a.store.Halted() != nil {
		a.halt.Do(func() { close(a.halted) })
	}
	a.applied()
}

var _ raft.BatchingFSM = applier{}

// Apply implements raft.FSM.
func (a applier) Apply(entry *raft.Log) any {
	began := time.Now()
	result, err := a.store.Apply(entry.Index, entry.Data)
	a.after()
	return appliedOutcome{fsm.Outcome{Result: result, Err: err}, began}
}

// ApplyBatch implements raft.BatchingFSM. A batch may contain configuration entries besides commands.
func (a applier) ApplyBatch(entries []*raft.Log) []any {
	commands := make([]fsm.Entry, 0, len(entries))
	for _, entry := range entries {
		if entry.Type == raft.LogCommand {
			commands = append(commands, fsm.Entry{Index: entry.Index, Data: entry.Data})
		}
	}
	answers := make([]any, len(entries))
	if len(commands) < len(entries) {
		defer a.reconfigured()
	}
	if len(commands) == 0 {
		return answers
	}
	failpoint.Hit("cluster.apply.before")
	began := time.Now()
	outcomes := a.store.ApplyBatch(commands)
	a.metrics.batch(len(commands), time.Since(began))
	failpoint.Hit("cluster.apply.after")
	for i, entry := range entries {
		if entry.Type == raft.LogCommand {
			answers[i] = appliedOutcome{outcomes[0], began}
			outcomes = outcomes[1:]
		}
	}
	a.after()
	return answers
}

// Snapshot implements raft.FSM in constant time.
func (a applier) Snapshot() (raft.FSMSnapshot, error) {
	if err := a.store.Halted(); err != nil {
		return nil, err
	}
	return snapshot{a.store.Snapshot()}, nil
}

// Restore implements raft.FSM.
func (a applier) Restore(from io.ReadCloser) error {
	err := a.store.Restore(from)
	return errors.Join(err, from.Close())
}

type snapshot struct{ io.WriterTo }

func (s snapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := s.WriteTo(sink); err != nil {
		return errors.Join(fmt.Errorf("write a snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

func (snapshot) Release() {}

// Disk stores a replica's log, votes and snapshots: storage.Store, or a simulated disk. What it stores is durable when the call has
// returned; see storage.Store for its errors.
type Disk interface {
	raft.LogStore
	raft.StableStore
	Snapshots() raft.SnapshotStore
	Health() storage.Health
	Guard()
	Release()
	Close() error
}

var _ raftfix.Wire = networkWire{}

// networkWire is raft's own transport over streams of the mTLS port.
type networkWire struct {
	*raft.NetworkTransport
	stream *mtls.Stream
}

func NewNetworkWire(stream *mtls.Stream, t Timings, log *slog.Logger) networkWire {
	return networkWire{raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:  stream,
		MaxPool: transportPool,
		Timeout: t.Transport,
		Logger:  &raftLog{log: log, name: "raft transport"},
	}), stream}
}

func (w networkWire) Suspend(suspended bool)        { w.stream.Suspend(suspended) }
func (w networkWire) Cut(target raft.ServerAddress) { w.stream.Cut(target) }
func (w networkWire) HangUp()                       { w.stream.Close() }

// raftNode is one raft node with its disk and its transport.
type raftNode struct {
	store     *fsm.Store
	raft      *raft.Raft
	config    *raft.Config
	transport *raftfix.Transport
	disk      Disk
	announce  *raftfix.Announcer
	ahead     *ahead
	cache     *agingCache
	verifier  *raftfix.Verifier
	// verify is verifier.Verify; tests replace it to show that it is necessary.
	verify func(ctx context.Context, term uint64) error
	halted <-chan struct{} // see applier
	log    *slog.Logger

	// gate guards proposals against shutdown: raft does not resolve those that it has not yet looked at.
	gate    sync.RWMutex
	closing bool
	pending sync.WaitGroup
}

// openNode starts raft with what is on disk, or starts a cluster of one if bootstrap is set and the disk is empty.
func openNode(disk Disk, name, address string, bootstrap bool, t Timings, store *fsm.Store, w raftfix.Wire, reconfigured func(), metrics *metrics, log *slog.Logger) (_ *raftNode, err error) {
	cache, err := newAgingCache(logCacheEntries, disk)
	if err != nil {
		return nil, fmt.Errorf("make the log cache: %w", err)
	}
	ahead := newAhead(cache)
	logs, snapshots, transport, err := raftfix.Wrap(w, aheadLog{cache, ahead}, disk.Snapshots(), t.Heartbeat, log)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			transport.Close()
		}
	}()

	config := raft.DefaultConfig()
	config.LocalID = raft.ServerID(name)
	config.HeartbeatTimeout, config.ElectionTimeout = t.Heartbeat, t.Election
	config.LeaderLeaseTimeout, config.CommitTimeout = t.Lease, t.Commit
	config.MaxAppendEntries, config.BatchApplyCh = maxAppendEntries, true
	config.SnapshotInterval, config.SnapshotThreshold, config.TrailingLogs = t.SnapshotInterval, t.SnapshotThreshold, t.TrailingLogs
	config.NoLegacyTelemetry = true
	config.ShutdownOnRemove = false     // the caller decides when to stop
	config.RestoreCommittedLogs = false // hangs NewRaft on a long log
	config.Logger = &raftLog{log: log, name: "raft"}

	if bootstrap {
		servers := raft.Configuration{Servers: []raft.Server{{ID: config.LocalID, Address: raft.ServerAddress(address)}}}
		if err := raft.BootstrapCluster(config, logs, disk, snapshots, transport, servers); err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
			return nil, fmt.Errorf("start a new cluster: %w", err)
		}
	}
	announce := raftfix.NewAnnouncer()
	machine := newApplier(store, announce.Committed, reconfigured)
	machine.metrics = metrics
	node, err := raft.NewRaft(config, machine, logs, disk, snapshots, transport)
	if err != nil {
		return nil, fmt.Errorf("start raft: %w", err)
	}
	transport.Started(node)
	disk.Guard()
	header := raft.RPCHeader{
		ProtocolVersion: config.ProtocolVersion, ID: []byte(name), Addr: transport.EncodePeer(config.LocalID, transport.LocalAddr()),
	}
	// Announcements, heartbeats and entries sent by this program itself must not be delayed when they fail: they use the wire
	// directly.
	announce.Started(node, w, header)
	ahead.start(node, w, header)
	verifier := raftfix.NewVerifier(node, w, header)
	return &raftNode{
		announce: announce, ahead: ahead, cache: cache, verifier: verifier, verify: verifier.Verify, halted: machine.halted, store: store, raft: node, config: config, transport: transport, disk: disk, log: log,
	}, nil
}

// await waits for a raft future until the context ends: futures can hang forever once raft is shut down, so only this goroutine may
// be left behind, never a caller.
func (r *raftNode) await(ctx context.Context, start func() raft.Future) error {
	if !r.enter() {
		return raft.ErrRaftShutdown
	}
	done := make(chan error, 1)
	go func() {
		defer r.pending.Done()
		err := start().Error()
		r.announce.Committed()
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// enter counts a call to raft; it returns false if the replica is closing.
func (r *raftNode) enter() bool {
	r.gate.RLock()
	defer r.gate.RUnlock()
	if r.closing {
		return false
	}
	r.pending.Add(1)
	return true
}

// barrier waits until everything committed before has been applied here.
func (r *raftNode) barrier(ctx context.Context) error {
	return r.await(ctx, func() raft.Future { return r.raft.Barrier(0) })
}

// servers returns the members in raft's latest configuration.
func (r *raftNode) servers() []raft.Server {
	future := r.raft.GetConfiguration() // has already been resolved
	if future.Error() != nil {
		return nil
	}
	return future.Configuration().Servers
}

// drain refuses new calls and waits a bounded time for those in progress: raft resolves all of them while it is running, but not
// after its shutdown.
func (r *raftNode) drain(bound time.Duration) {
	r.gate.Lock()
	r.closing = true
	r.gate.Unlock()
	done := make(chan struct{})
	go func() {
		r.pending.Wait()
		close(done)
	}()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		r.log.Warn("shutting down with unfinished calls to raft")
	}
}

// close stops raft and releases the disk, in bounded time.
func (r *raftNode) close() error {
	r.gate.Lock()
	r.closing = true
	r.gate.Unlock()
	r.transport.Release()
	r.transport.HangUp() // ends calls to peers that raft would wait for
	r.ahead.close()
	r.verifier.Close()
	stopping := r.raft.Shutdown()
	r.disk.Release()
	err := within("raft", stopping.Error)
	// If raft did not stop, an open transaction would block the log's closing.
	return errors.Join(err, r.transport.Close(), within("the raft log", r.disk.Close))
}

// within runs a function that should end soon, and returns an error if it does not.
func within(what string, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	timer := time.NewTimer(raftShutdownBound)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("%s did not stop in time", what)
	}
}
