package cluster

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/storage"
	"github.com/kontiki/kontiki/internal/failpoint"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// Conditions of a master, in Status.
const (
	ConditionDiskFull    = "disk-full"    // no room: the master leads only if nobody else can, and then refuses writes
	ConditionDiskStalled = "disk-stalled" // an operation has been under way for longer than Timings.DiskStall
)

const (
	snapshotsKept = 2
	// diskRetry is how often a leader that has no room looks for one that has.
	diskRetry = time.Second
	// reportBound bounds one report of a condition to the leader.
	reportBound = time.Second
)

// disk is what this master knows of its own disk, and, while it leads, of the other masters'.
type disk struct {
	store   raftDisk
	changed chan struct{} // has room for one
	failed  chan error    // has room for the one
	lost    chan struct{} // a snapshot was; has room for one

	mu     sync.Mutex
	others map[string][]string // conditions that other masters reported
}

func newDisk() *disk {
	return &disk{changed: make(chan struct{}, 1), failed: make(chan error, 1), lost: make(chan struct{}, 1), others: map[string][]string{}}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// open opens what is in the directory; expect says that there must be something.
func (d *disk) open(dir string, expect bool, cfg *Config) error {
	store, err := storage.Open(dir, storage.Options{
		Expect: expect, Keep: snapshotsKept, Reserve: cfg.DiskReserve, Low: cfg.DiskLow, Stall: cfg.Timings.DiskStall,
		Changed:      func() { poke(d.changed) },
		Failed:       func(err error) { d.failed <- err },
		SnapshotLost: func() { poke(d.lost) },
		Log:          cfg.Logger.With("master", cfg.Name),
	})
	if err != nil {
		return err
	}
	d.store = store
	return nil
}

// conditions are what is wrong with this master's disk now.
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

// openDisk opens this master's disk. What is damaged or lost is set aside and fetched again from the leader, once a leader has
// agreed; where nobody can, it stays as it is and the error says what to do.
func (c *Cluster) openDisk(ctx context.Context) error {
	dir := filepath.Join(c.cfg.DataDir, "raft")
	fresh := !hasRaftState(dir)
	bootstrap := c.memberNow().Bootstrap && !c.memberNow().Complete
	err := c.disk.open(dir, c.memberNow().Complete, &c.cfg)
	switch {
	case err == nil && fresh && !bootstrap:
		// It was never a member, unless it crashed while it joined and lost its disk then.
		if err := c.readmit(ctx, errors.New("the disk is empty"), 0); err != nil {
			return errors.Join(err, c.disk.store.Close())
		}
		return nil
	case !errors.Is(err, storage.ErrDamaged):
		return err
	case bootstrap:
		return fmt.Errorf("%w; this master has not yet started its cluster: remove %s and start it again", err, c.cfg.DataDir)
	}
	damage := err
	c.log.Error("this master's raft data are damaged; asking the leader to send them again", "error", damage)
	if err := c.readmit(ctx, damage, c.cfg.Timings.Readmit); err != nil {
		return err
	}
	failpoint.Hit("cluster.readmit.granted")
	// From here on this master is new to its cluster, also after a crash between these steps.
	err = c.changeMember(func(m *member) {
		m.Bootstrap, m.Complete, m.Join = false, false, join.MergeAddresses(m.Masters, m.Join, c.address)
	})
	if err != nil {
		return err
	}
	failpoint.Hit("cluster.readmit.forgotten")
	to, err := storage.SetAside(dir, time.Now())
	if err != nil {
		return err
	}
	failpoint.Hit("cluster.readmit.setAside")
	c.log.Warn("the damaged raft data are set aside, and fetched again from the leader", "set_aside", to, "damage", damage)
	return c.disk.open(dir, false, &c.cfg)
}

// readmit asks the leader, through any master, to take this one's vote away, so that it may come back with an empty disk: a
// voter that forgot what it acknowledged could help to elect a leader that lacks it. It asks for as long as the bound says, 0 for as long as the context lives. Errors: ErrRemoved, ErrNameTaken.
func (c *Cluster) readmit(ctx context.Context, damage error, bound time.Duration) error {
	others := join.MergeAddresses(join.MergeAddresses(c.memberNow().Masters, c.memberNow().Join, c.address), c.cfg.Join, c.address)
	if len(others) == 0 {
		return c.lastCopy(damage, "no other master is known")
	}
	request := &clusterv1.ReadmitRequest{Name: c.cfg.Name, Address: c.address, Damage: damage.Error(), Recoveries: c.memberNow().Recoveries}
	patience := ctx
	if bound > 0 {
		var cancel context.CancelFunc
		patience, cancel = context.WithTimeout(ctx, bound)
		defer cancel()
	}
	for {
		var failures []string
		for _, address := range others {
			conn, err := c.peers.Line(address)
			if err == nil {
				call, cancel := context.WithTimeout(patience, join.DialBound)
				var answer *clusterv1.ReadmitResponse
				answer, err = clusterv1.NewDiskServiceClient(conn).Readmit(call, request)
				cancel()
				if err == nil {
					return c.changeMember(func(m *member) { m.Masters = join.MergeAddresses(answer.Masters, others, c.address) })
				}
			}
			if status.Code(err) == codes.Unimplemented && bound == 0 {
				return nil // a master of an earlier version: a new member has no vote to lose
			}
			switch err = join.FromStatus(err); {
			case errors.Is(err, join.ErrRemoved):
				return fmt.Errorf("%w (%w): to join again, remove %s and start with a token", err, damage, c.cfg.DataDir)
			case errors.Is(err, join.ErrNameTaken):
				return err
			}
			failures = append(failures, fmt.Sprintf("%s: %v", address, err))
		}
		c.log.Warn("no leader has agreed yet to send this master its data again", "asked", strings.Join(failures, "; "))
		timer := time.NewTimer(join.Pause)
		select {
		case <-timer.C:
		case <-patience.Done():
			timer.Stop()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return c.lastCopy(damage, "no leader has answered for "+bound.String()+" ("+strings.Join(failures, "; ")+")")
		}
	}
}

// lastCopy is why a master whose data are damaged does not start: nobody else can make up for them.
func (c *Cluster) lastCopy(damage error, known string) error {
	return fmt.Errorf("%w. This master cannot start: its disk may hold the last copy of the cluster's state, and %s. Nothing was changed. "+
		"If other masters come back so that they elect a leader, start this one again, and it fetches everything from them. Otherwise copy %s to a safe place, "+
		"and either recover on the master with the best copy with `kontiki cluster recover`, or restore a snapshot with `kontiki snapshot restore FILE`",
		damage, known, c.cfg.DataDir)
}

// watchDisk acts on what the disk is like, until the context ends or the disk fails.
func (c *Cluster) watchDisk(ctx context.Context) error {
	var last []string
	var reports reports
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		lead := c.leaders.current()
		select {
		case <-c.disk.changed:
		case <-lead.changed:
		case <-retry.C:
		case <-c.disk.lost:
			c.tasks.start(func() { c.snapshotAgain(ctx) })
		case err := <-c.disk.failed:
			return fmt.Errorf("the disk of this master has failed, it stops: %w", err)
		case <-ctx.Done():
			return nil
		}
		health := c.disk.store.Health()
		// Raft's heartbeats go on while its main loop waits for the disk: a leader that stores nothing would stay one.
		c.replica.transport.Suspend(health.Stalled)
		conditions := c.disk.conditions()
		if !slices.Equal(conditions, last) {
			c.logDisk(health, last)
			last = conditions
		}
		lead = c.leaders.current()
		if lead.self {
			if health.Full {
				c.leaveToRoom(ctx)
				retry.Reset(diskRetry)
			}
			continue
		}
		c.disk.forget()
		if lead.name == "" {
			continue
		}
		term := c.replica.raft.CurrentTerm()
		if !reports.due(lead.name, term, conditions) {
			continue
		}
		if err := c.report(ctx, lead, conditions); err != nil {
			retry.Reset(diskRetry)
			continue
		}
		reports.made(lead.name, term, conditions)
	}
}

// reports is what this master has told of its disk, and to whom: a leader, in one term. A leader that led before and leads again knows
// nothing any more.
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

// logDisk tells of a change.
func (c *Cluster) logDisk(h storage.Health, last []string) {
	where := []any{"dir", h.Dir, "free", h.Free, "needed", h.Needed}
	was := func(condition string) bool { return slices.Contains(last, condition) }
	switch {
	case h.Full && !was(ConditionDiskFull):
		c.log.Error("the disk is full: this master takes no more writes until there is room again", where...)
	case !h.Full && was(ConditionDiskFull):
		c.log.Info("the disk has room again", where...)
	}
	switch {
	case h.Stalled && !was(ConditionDiskStalled):
		c.log.Error("the disk has stalled: this master takes no part until it moves again", where...)
	case !h.Stalled && was(ConditionDiskStalled):
		c.log.Info("the disk moves again", where...)
	}
}

// snapshotAgain takes a snapshot in place of a damaged one.
func (c *Cluster) snapshotAgain(ctx context.Context) {
	err := c.replica.await(ctx, func() raft.Future { return c.replica.raft.Snapshot() })
	if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) && ctx.Err() == nil {
		c.log.Warn("no new snapshot could be taken in place of the damaged one", "error", err)
	}
}

// leaveToRoom hands leadership to a master whose disk has room, if one answers.
func (c *Cluster) leaveToRoom(ctx context.Context) {
	ask, cancel := context.WithTimeout(ctx, heardBound)
	defer cancel()
	for _, s := range c.replica.servers() {
		if s.ID == c.replica.config.LocalID || s.Suffrage != raft.Voter {
			continue
		}
		answer, err := c.ask(ask, string(s.Address))
		if err != nil || answer.Name != string(s.ID) || len(answer.Conditions) > 0 {
			continue
		}
		if err := c.transfer(ctx, string(s.ID)); err != nil {
			c.log.Warn("a leader with a full disk could not hand leadership over", "to", s.ID, "error", err)
			continue
		}
		return
	}
}

// errNoRoom is why a leader takes no proposals; nil where it does.
func (c *Cluster) errNoRoom() error {
	if h := c.disk.store.Health(); h.Full {
		return fmt.Errorf("the disk of the leader %s is full: %s has %d MiB free and needs %d; free some space there, it goes on by itself",
			c.cfg.Name, h.Dir, h.Free>>20, h.Needed>>20)
	}
	// Followers with a full disk store nothing: what they would have to acknowledge would wait.
	c.disk.mu.Lock()
	defer c.disk.mu.Unlock()
	if len(c.disk.others) == 0 {
		return nil
	}
	voters := 0
	var full []string
	for _, s := range c.replica.servers() {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if slices.Contains(c.disk.others[string(s.ID)], ConditionDiskFull) {
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

// report tells the leader of this master's conditions.
func (c *Cluster) report(ctx context.Context, lead leader, conditions []string) error {
	conn, err := c.peers.Line(lead.address)
	if err != nil {
		return err
	}
	call, cancel := lead.attempt(ctx, reportBound)
	defer cancel()
	_, err = clusterv1.NewDiskServiceClient(conn).Report(call, &clusterv1.ReportRequest{Name: c.cfg.Name, Conditions: conditions})
	return err
}

// forget drops what others reported to this master while it led.
func (d *disk) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.others)
}
