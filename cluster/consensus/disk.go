package consensus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/storage"
	"github.com/kontiki/kontiki/internal/broadcast"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// Conditions of a master in Status.
const (
	ConditionDiskFull    = "disk-full"    // no space: the master leads only if no other can, and then refuses writes
	ConditionDiskStalled = "disk-stalled" // an operation has been running for longer than Timings.DiskStall
)

const (
	SnapshotsKept = 2
	// diskRetry is the interval at which a leader without space looks for a master with space.
	diskRetry = time.Second
	// reportBound is the time limit of one report of a condition to the leader.
	reportBound = time.Second
)

// disk is what this master knows of its own disk and, while it leads, of the other masters'.
type disk struct {
	store   Disk
	changed chan struct{} // has capacity one
	failed  chan error    // has capacity one
	lost    chan struct{} // a snapshot was lost; has capacity one

	mu     sync.Mutex
	others map[string][]string // conditions reported by other masters
}

func newDisk() *disk {
	return &disk{changed: make(chan struct{}, 1), failed: make(chan error, 1), lost: make(chan struct{}, 1), others: map[string][]string{}}
}

// DiskOptions are the options of a replica's own disk.
type DiskOptions struct {
	// Expect means that the directory must contain a log: a disk that lost everything counts as damaged then.
	Expect bool
	// Reserve and Low are as in storage.Options, in bytes.
	Reserve, Low int64
}

// OpenDisk opens this master's log, votes and snapshots in a directory. Errors: storage.ErrDamaged, storage.ErrLocked.
func (n *Replica) OpenDisk(dir string, o DiskOptions) error {
	d := n.disk
	store, err := storage.Open(dir, storage.Options{
		Expect: o.Expect, Keep: SnapshotsKept, Reserve: o.Reserve, Low: o.Low, Stall: n.timings.DiskStall,
		Changed:      func() { broadcast.Poke(d.changed) },
		Failed:       func(err error) { d.failed <- err },
		SnapshotLost: func() { broadcast.Poke(d.lost) },
		Log:          n.log,
	})
	if err != nil {
		return err
	}
	d.store = store
	return nil
}

// HasState says whether a directory contains a replica's log.
func HasState(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "raft.db"))
	return err == nil
}

// DiskHealth returns the state of this master's disk.
func (n *Replica) DiskHealth() storage.Health { return n.disk.store.Health() }

// conditions returns the present problems of this master's disk.
func (d *disk) conditions() []string {
	var conditions []string
	h := d.store.Health()
	if h.Full {
		conditions = append(conditions, ConditionDiskFull)
	}
	if h.Stalled {
		conditions = append(conditions, ConditionDiskStalled)
	}
	return conditions
}

// watchDisk reacts to the disk's state, until the context ends or the disk fails.
func (n *Replica) watchDisk(ctx context.Context) error {
	var last []string
	var reports reports
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		lead := n.leaders.current()
		select {
		case <-n.disk.changed:
		case <-lead.changed:
		case <-retry.C:
		case <-n.disk.lost:
			n.tasks.start(func() { n.snapshotAgain(ctx) })
		case err := <-n.disk.failed:
			return fmt.Errorf("the disk of this master has failed, stopping: %w", err)
		case <-ctx.Done():
			return nil
		}
		health := n.disk.store.Health()
		// Raft sends heartbeats even while its main loop waits for the disk: a leader that can store nothing would remain leader.
		n.node.transport.Suspend(health.Stalled)
		conditions := n.disk.conditions()
		if !slices.Equal(conditions, last) {
			n.logDisk(health, last)
			last = conditions
		}
		lead = n.leaders.current()
		if lead.Self {
			if health.Full {
				n.leaveToRoom(ctx)
				retry.Reset(diskRetry)
			}
			continue
		}
		n.disk.forget()
		if lead.Name == "" {
			continue
		}
		term := n.node.raft.CurrentTerm()
		if !reports.due(lead.Name, term, conditions) {
			continue
		}
		if err := n.report(ctx, lead, conditions); err != nil {
			retry.Reset(diskRetry)
			continue
		}
		reports.made(lead.Name, term, conditions)
	}
}

// reports is what this master has reported about its disk, and to whom: a leader, in one term. A leader that leads again after it
// had lost leadership no longer has the reports.
type reports struct {
	leader     string
	term       uint64
	conditions []string
}

func (r *reports) due(leader string, term uint64, conditions []string) bool {
	if leader != r.leader || term != r.term {
		return len(conditions) > 0 || r.leader == ""
	}
	return !slices.Equal(conditions, r.conditions)
}

func (r *reports) made(leader string, term uint64, conditions []string) {
	*r = reports{leader, term, conditions}
}

// logDisk logs a change.
func (n *Replica) logDisk(h storage.Health, last []string) {
	where := []any{"dir", h.Dir, "free", h.Free, "needed", h.Needed}
	was := func(condition string) bool { return slices.Contains(last, condition) }
	switch {
	case h.Full && !was(ConditionDiskFull):
		n.log.Error("the disk is full: this master accepts no more writes until there is space again", where...)
	case !h.Full && was(ConditionDiskFull):
		n.log.Info("the disk has space again", where...)
	}
	switch {
	case h.Stalled && !was(ConditionDiskStalled):
		n.log.Error("the disk has stalled: this master takes no part in consensus until the disk responds again", where...)
	case !h.Stalled && was(ConditionDiskStalled):
		n.log.Info("the disk moves again", where...)
	}
}

// snapshotAgain takes a snapshot to replace a damaged one.
func (n *Replica) snapshotAgain(ctx context.Context) {
	err := n.node.await(ctx, func() raft.Future { return n.node.raft.Snapshot() })
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) && ctx.Err() == nil {
		n.log.Warn("no new snapshot could be taken in place of the damaged one", "error", err)
	}
}

// leaveToRoom transfers leadership to a master whose disk has space, if one responds.
func (n *Replica) leaveToRoom(ctx context.Context) {
	ask, cancel := context.WithTimeout(ctx, heardBound)
	defer cancel()
	for _, s := range n.node.servers() {
		if s.ID == n.node.config.LocalID || s.Suffrage != raft.Voter {
			continue
		}
		answer, err := n.Ask(ask, string(s.Address))
		if err != nil || answer.Name != string(s.ID) || len(answer.Conditions) > 0 {
			continue
		}
		if err := n.Transfer(ctx, string(s.ID)); err != nil {
			n.log.Warn("a leader with a full disk could not transfer leadership", "to", s.ID, "error", err)
			continue
		}
		return
	}
}

// errNoRoom returns why a leader accepts no proposals, or nil.
func (n *Replica) errNoRoom() error {
	if h := n.disk.store.Health(); h.Full {
		return fmt.Errorf("the disk of the leader %s is full: %s has %d MiB free and needs %d; free some space there, it goes on by itself",
			n.name, h.Dir, h.Free>>20, h.Needed>>20)
	}
	// Followers with a full disk store nothing, so writes would wait for their acknowledgement.
	n.disk.mu.Lock()
	defer n.disk.mu.Unlock()
	if len(n.disk.others) == 0 {
		return nil
	}
	voters := 0
	var full []string
	for _, s := range n.node.servers() {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if slices.Contains(n.disk.others[string(s.ID)], ConditionDiskFull) {
			full = append(full, string(s.ID))
		}
	}
	if voters-len(full) > voters/2 {
		return nil
	}
	slices.Sort(full)
	return fmt.Errorf("the disks of the masters %s are full, and no quorum is left that could store more; free some space there, they go on by themselves",
		strings.Join(full, ", "))
}

// report reports this master's conditions to the leader.
func (n *Replica) report(ctx context.Context, lead Leadership, conditions []string) error {
	conn, err := n.peers.Line(lead.Address)
	if err != nil {
		return err
	}
	call, cancel := lead.attempt(ctx, reportBound)
	defer cancel()
	_, err = clusterv1.NewDiskServiceClient(conn).Report(call, &clusterv1.ReportRequest{Name: n.name, Conditions: conditions})
	return err
}

// forget drops what others reported to this master while it led.
func (d *disk) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.others)
}
