package consensus

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	"github.com/kontiki/kontiki/internal/turn"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
	"github.com/kontiki/kontiki/test/robustness/history"
)

// simTimings are those of the product, with more frequent snapshots.
var simTimings = func() Timings {
	t := DefaultTimings
	t.SnapshotThreshold, t.TrailingLogs, t.SnapshotInterval = 24, 6, 500*time.Millisecond
	return t
}()

// simService and simDiskService serve the calls of other masters to a simulated one.
type simService struct {
	clusterv1.UnimplementedClusterServiceServer
	c *Replica
}

func (s simService) Propose(ctx context.Context, r *clusterv1.ProposeRequest) (*clusterv1.ProposeResponse, error) {
	return s.c.ServePropose(ctx, r), nil
}

func (s simService) ReadIndex(ctx context.Context, _ *clusterv1.ReadIndexRequest) (*clusterv1.ReadIndexResponse, error) {
	return s.c.ServeReadIndex(ctx)
}

func (s simService) NodeStatus(context.Context, *clusterv1.NodeStatusRequest) (*clusterv1.NodeStatusResponse, error) {
	return s.c.Status(), nil
}

type simDiskService struct {
	clusterv1.UnimplementedDiskServiceServer
	c *Replica
}

func (s simDiskService) Report(ctx context.Context, r *clusterv1.ReportRequest) (*clusterv1.ReportResponse, error) {
	return s.c.ServeReport(ctx, r)
}

// simMaster is a machine with the part of a master that is in this package.
type simMaster struct {
	s             *schedule
	name, address string
	turn          turn.Turn // one change of it at a time
	starts        int64
	platter       simPlatter              // what its disk holds while it is down
	life          atomic.Pointer[simLife] // nil while it is down
}

// simLife is one run of a master's process.
type simLife struct {
	c       *Replica
	host    *simHost
	disk    *simDisk
	cancel  context.CancelFunc
	running *errgroup.Group
	leading <-chan struct{}
}

// start starts the master, if it is down, with the content of its disk.
func (m *simMaster) start() {
	m.turn <- struct{}{}
	defer m.turn.Leave()
	if m.life.Load() != nil {
		return
	}
	m.starts++
	host := m.s.net.host(m.name, m.address, simTimings.Transport)
	host.wire.installed = func() { m.s.count("a snapshot was installed") }
	store := fsm.New(fsm.Options{Remembered: simRemembered})
	c := New(Options{Name: m.name, Address: m.address, Timings: simTimings, Store: store, Connect: host.lines, Log: m.s.log.With("master", m.name)})
	disk := newSimDisk(m.platter, m.s.seed*1000+m.starts, simTimings.DiskStall, func() { broadcast.Poke(c.disk.changed) })
	disk.lies = m.s.bugs.lyingDisks
	c.disk.store = disk
	if err := c.Start(host.wire, false, func() {}); err != nil {
		m.s.fail(err)
		return
	}
	if m.s.bugs.oldAnswers {
		c.node.verify = func(ctx context.Context, _ uint64) error { return c.node.await(ctx, c.node.raft.VerifyLeader) }
	}
	clusterv1.RegisterClusterServiceServer(host, simService{c: c})
	clusterv1.RegisterDiskServiceServer(host, simDiskService{c: c})
	ctx, cancel := context.WithCancel(context.Background())
	life := &simLife{c: c, host: host, disk: disk, cancel: cancel, running: new(errgroup.Group)}
	life.leading = c.Run(ctx, life.running)
	host.enter()
	m.life.Store(life)
}

// kill kills the process, or cuts the machine's power: from then on nothing that it does reaches another process or a disk. It
// returns whether the master was up.
func (m *simMaster) kill(power bool) bool {
	m.turn <- struct{}{}
	defer m.turn.Leave()
	life := m.life.Swap(nil)
	if life == nil {
		return false
	}
	life.host.leave(power)
	var lost bool
	m.platter, lost = life.disk.crash(power)
	if kept := len(m.platter.entries) - 5; m.s.bugs.losesEnds && kept > 0 {
		m.platter.entries = m.platter.entries[:kept:kept]
	}
	if lost {
		m.s.count("an unsynced write was dropped")
	}
	life.cancel()
	m.s.ending.Go(life.end)
	return true
}

// stop ends the process cleanly: it transfers leadership first. It returns whether the master was up.
func (m *simMaster) stop() bool {
	m.turn <- struct{}{}
	defer m.turn.Leave()
	life := m.life.Swap(nil)
	if life == nil {
		return false
	}
	life.cancel()
	life.c.StepAside(life.leading)
	life.end()
	life.host.leave(false)
	m.platter, _ = life.disk.crash(false)
	return true
}

// end stops the goroutines of a process. While raft runs, it responds to all requests, but not to those that it has not read when
// it is shut down: so it is drained first, also after a crash, when the responses reach no other process.
func (l *simLife) end() {
	l.c.End()
	<-l.leading
	l.c.Drain(time.Minute)
	_ = l.c.Close() // what did not end is found at the schedule's end
	_ = l.running.Wait()
}

// Read and transact implement asker: a process that has ended does not respond.
func (l *simLife) Read(ctx context.Context) (b history.Bank, err error) {
	view, err := l.c.Consistent(ctx)
	if err == nil && l.host.isGone() {
		err = errSimReset
	}
	if err != nil {
		return b, err
	}
	return history.BankOf(view), nil
}

func (l *simLife) Transact(ctx context.Context, ops []kv.Op) (kv.Result, error) {
	result, err := l.c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: ops})
	if l.host.isGone() {
		err = errSimReset
	}
	return result, err
}

// Watch implements watchSource. Events of a process that has ended are still valid: their commands were committed.
func (l *simLife) Watch(ctx context.Context, after uint64) (history.Watched, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.c.life, cancel)()
	return history.InProcess{Master: l.c, Store: l.c.store}.Watch(ctx, after)
}

// simRemembered is how many results are remembered: few, so that delayed commands arrive after their results were forgotten.
const simRemembered = 6

// simBoot is a disk with a new cluster of these masters on it, at a feature level.
func simBoot(masters []*simMaster, level int) simPlatter {
	set, err := fsm.EncodeCommand(&kv.Command{ID: kv.CommandID{1}, Ops: []kv.Op{SetLevel(level, 0)}})
	if err != nil {
		panic(err)
	}
	var servers raft.Configuration
	for _, m := range masters {
		servers.Servers = append(servers.Servers, raft.Server{ID: raft.ServerID(m.name), Address: raft.ServerAddress(m.address)})
	}
	return simPlatter{
		first: 1,
		entries: []*raft.Log{
			{Index: 1, Term: 1, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(servers)},
			{Index: 2, Term: 1, Type: raft.LogCommand, Data: set},
		},
		stable: [][2]string{{"CurrentTerm", "1"}},
	}
}

// simEvents are warnings of the product, and the names under which they are counted.
var simEvents = map[string]string{
	"the log contains entries that were never committed and conflict with the snapshot: discarding them": "a log that conflicts with a snapshot was given up",
	"the log conflicts with the snapshot that was installed last: dropping the log":                      "a log that conflicts with a snapshot was dropped after a crash",
}

// simLog records a master's warnings, and counts events that are visible only in the log.
type simLog struct {
	s     *schedule
	attrs []slog.Attr
}

func (l simLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (l simLog) WithAttrs(attrs []slog.Attr) slog.Handler         { return simLog{l.s, attrs} }
func (l simLog) WithGroup(string) slog.Handler                    { return l }

func (l simLog) Handle(_ context.Context, r slog.Record) error {
	if name, ok := simEvents[r.Message]; ok {
		l.s.count(name)
	}
	r.AddAttrs(l.attrs...)
	l.s.note(r)
	return nil
}
