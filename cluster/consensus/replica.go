package consensus

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/raftfix"
	"github.com/kontiki/kontiki/fsm"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// Replica is this master's part in consensus: its replica of the state, replication of commands, and its duties while it leads. New
// creates it, OpenDisk opens its disk, and it takes part after Start and Run were called, in this order; then Propose, Consistent
// and leadership work. Its methods are safe for concurrent use once Start has returned.
type Replica struct {
	name    string
	address string // the mTLS address at which others reach this master
	timings Timings
	log     *slog.Logger

	store   *fsm.Store
	disk    *disk
	node    *raftNode
	peers   *mtls.Lines
	leaders *leaders

	inflight    *semaphore.Weighted
	batches     *batches
	ownIndex    round[uint64]
	leaderIndex round[uint64]
	dates       atomic.Bool   // commands have a Since; see encode
	readyTerm   atomic.Uint64 // the term whose barrier this leader has passed; 0 means none

	metrics      *metrics
	duties       duties
	transferring sync.Mutex

	life  context.Context // ends all waiting
	end   context.CancelFunc
	tasks tasks
}

// Options are the parameters of a Replica. All fields but Log are required.
type Options struct {
	Name    string // this master's
	Address string // the mTLS address at which other masters reach this one
	Timings Timings
	Store   *fsm.Store
	// Connect returns a connection to the master at an mTLS address. It must not block: the connection is established later.
	Connect func(address string) (mtls.Line, error)
	Log     *slog.Logger // nil means slog.Default()
}

// New returns a replica whose disk is not open yet. It must be closed.
func New(o Options) *Replica {
	n := &Replica{
		name: o.Name, address: o.Address, timings: o.Timings.WithDefaults(), log: o.Log,
		store:    o.Store,
		disk:     newDisk(),
		peers:    mtls.NewLines(o.Connect),
		inflight: newInflight(),
		batches:  newBatches(),
		metrics:  newMetrics(),
	}
	if n.log == nil {
		n.log = slog.Default()
	}
	n.life, n.end = context.WithCancel(context.Background())
	n.ownIndex = round[uint64]{run: n.verifyIndex, tasks: &n.tasks}
	n.leaderIndex = round[uint64]{run: n.askLeader, tasks: &n.tasks}
	return n
}

// Start starts raft with what is on the open disk; bootstrap starts a cluster of one if the disk is empty. reconfigured is called
// after configuration changes, and must not block.
func (n *Replica) Start(w raftfix.Wire, bootstrap bool, reconfigured func()) error {
	r, err := openNode(n.disk.store, n.name, n.address, bootstrap, n.timings, n.store, w, reconfigured, n.metrics, n.log)
	if err != nil {
		return err
	}
	n.node, n.leaders = r, newLeaders(r.raft, r.config.LocalID)
	n.leaders.observed = n.metrics.observed
	return nil
}

// Run proposes, reads, and leads when raft reports leadership, in goroutines of the group, until the context ends; proposals and
// reads continue until End. The returned channel is closed when leadership and its duties have ended. These are not in the group: a
// duty that does not stop must not prevent the master from stopping.
func (n *Replica) Run(ctx context.Context, g *errgroup.Group) (leading <-chan struct{}) {
	g.Go(func() error { n.leaders.watch(n.life); return nil })
	for range batchSenders {
		g.Go(func() error { n.batches.run(n.life, n.sendBatch); return nil })
	}
	g.Go(func() error { return n.watchDisk(ctx) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.lead(ctx)
	}()
	return done
}

// End makes all calls return that wait for another master or for raft, and prevents new ones.
func (n *Replica) End() { n.end() }

// Life returns the context that End ends.
func (n *Replica) Life() context.Context { return n.life }

// Age drops from memory what a replica keeps of the past for readers, watchers and followers, if it is older than the last rounds calls of
// Age, and returns roughly how many bytes that frees.
func (n *Replica) Age(rounds int) (freed int64, err error) {
	const entry = 1 << 10 // a log entry is rarely smaller
	entries, err := n.node.cache.age(rounds)
	return n.store.Age(rounds) + int64(entries)*entry, err
}

// Drain refuses new calls to raft and waits, at most for the bound, for those in progress: raft resolves all of them while it is
// running, but not after its shutdown.
func (n *Replica) Drain(bound time.Duration) { n.node.drain(bound) }

// Close stops raft, and closes the disk and the connections to other masters, in bounded time. Call End before it.
func (n *Replica) Close() error {
	var err error
	switch {
	case n.node != nil:
		err = n.node.close()
	case n.disk.store != nil:
		err = n.disk.store.Close()
	}
	n.peers.Close()
	n.tasks.close()
	return err
}

// Line returns the connection to the master at an mTLS address. It is shared, may not be established, and must not be closed.
func (n *Replica) Line(address string) (mtls.Line, error) { return n.peers.Line(address) }

// Forget closes the connections to all addresses except those to keep.
func (n *Replica) Forget(keep map[string]bool) { n.peers.Forget(keep) }

// Leadership returns who leads now, as far as this master knows.
func (n *Replica) Leadership() Leadership { return n.leaders.current() }

// IsLeader says whether this master believes that it leads, and has passed the barrier of its term.
func (n *Replica) IsLeader() bool {
	term := n.readyTerm.Load()
	return term != 0 && n.leaders.current().Self && n.node.raft.CurrentTerm() == term
}

// Leader returns the name and mTLS address of the leader, as far as this master knows; empty if none is known.
func (n *Replica) Leader() (name, address string) {
	lead := n.leaders.current()
	return lead.Name, lead.Address
}

// FeatureLevel returns the cluster's feature level, according to this master's state.
func (n *Replica) FeatureLevel() int {
	level, _ := LevelOf(n.store.View())
	return level
}

// The methods below serve requests of other masters. The caller has authenticated them.

// ServePropose proposes commands for another master.
func (n *Replica) ServePropose(ctx context.Context, request *clusterv1.ProposeRequest) *clusterv1.ProposeResponse {
	outcomes := n.applyAll(ctx, request.Commands)
	response := &clusterv1.ProposeResponse{Outcomes: make([]*clusterv1.Outcome, len(outcomes))}
	for i, out := range outcomes {
		response.Outcomes[i] = resultToProto(out)
	}
	return response
}

// ServeReadIndex returns the index that readers of another master must wait for.
func (n *Replica) ServeReadIndex(ctx context.Context) (*clusterv1.ReadIndexResponse, error) {
	index, err := n.ownIndex.do(ctx)
	if err != nil {
		return nil, errclass.ToStatus(err)
	}
	return &clusterv1.ReadIndexResponse{Index: index}, nil
}

// Status returns what this master knows of its own part in consensus.
func (n *Replica) Status() *clusterv1.NodeStatusResponse {
	r := n.node.raft
	response := &clusterv1.NodeStatusResponse{
		Name:          n.name,
		Address:       n.address,
		State:         r.State().String(),
		Term:          r.CurrentTerm(),
		AppliedIndex:  n.store.AppliedIndex(),
		LastIndex:     r.LastIndex(),
		CommitIndex:   r.CommitIndex(),
		Revision:      n.store.View().Revision(),
		Leader:        n.leaders.current().Name,
		LastContactMs: -1,
		Conditions:    n.disk.conditions(),
	}
	for _, server := range n.node.servers() {
		response.Masters = append(response.Masters, string(server.ID))
	}
	if r.State() == raft.Leader {
		response.LastContactMs = 0
	} else if last := r.LastContact(); !last.IsZero() {
		response.LastContactMs = time.Since(last).Milliseconds()
	}
	disk := n.disk.store.Health()
	response.DiskFreeBytes, response.DiskTotalBytes = uint64(max(disk.Free, 0)), uint64(max(disk.Total, 0))
	response.DiskWriteUs = disk.Slowest.Microseconds()
	return response
}

// ServeReport records the conditions of another master's disk, on the leader.
func (n *Replica) ServeReport(ctx context.Context, r *clusterv1.ReportRequest) (*clusterv1.ReportResponse, error) {
	if caller, ok := mtls.PeerFromContext(ctx); !ok || caller.Name != r.Name {
		return nil, status.Errorf(codes.PermissionDenied, "a master reports for itself, not for %q", r.Name)
	}
	if !n.leaders.current().Self {
		return nil, errclass.ToStatus(errclass.ErrNotLeader)
	}
	d := n.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(r.Conditions) == 0 {
		delete(d.others, r.Name)
	} else {
		d.others[r.Name] = r.Conditions
	}
	return &clusterv1.ReportResponse{}, nil
}
