package cluster

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

// consensus is the part of a master that is consensus: what Propose, Consistent and leadership need, and nothing that listens, gossips or
// reads a file. A Cluster puts the rest around it; a simulation runs it by itself, over a wire, lines and a disk of its own. Its methods
// are safe for concurrent use once openRaft has returned.
type consensus struct {
	name    string
	address string // the mTLS address that others dial
	timings Timings
	log     *slog.Logger

	store   *fsm.Store
	disk    *disk
	replica *replica
	peers   *mtls.Lines
	leaders *leaders

	inflight    *semaphore.Weighted
	batches     *batches
	ownIndex    round[uint64]
	leaderIndex round[uint64]
	dates       atomic.Bool   // commands are dated; see encode
	readyTerm   atomic.Uint64 // the term whose barrier this leader has passed; 0 for none

	duties       duties
	transferring sync.Mutex

	life  context.Context // ends all waiting
	end   context.CancelFunc
	tasks tasks
}

// newConsensus makes one of which nothing is open yet. Its disk is to be opened, then openRaft called. connect makes lines to other masters.
func newConsensus(name, address string, timings Timings, store *fsm.Store, connect func(address string) (mtls.Line, error), log *slog.Logger) *consensus {
	n := &consensus{
		name: name, address: address, timings: timings, log: log,
		store:    store,
		disk:     newDisk(),
		peers:    mtls.NewLines(connect),
		inflight: newInflight(),
		batches:  newBatches(),
	}
	n.life, n.end = context.WithCancel(context.Background())
	n.ownIndex = round[uint64]{run: n.verifyIndex, tasks: &n.tasks}
	n.leaderIndex = round[uint64]{run: n.askLeader, tasks: &n.tasks}
	return n
}

// openRaft starts raft from what is on the open disk; bootstrap begins a cluster of one where there is nothing. reconfigured is called when
// the masters have changed, and must not block.
func (n *consensus) openRaft(w raftfix.Wire, bootstrap bool, reconfigured func()) error {
	r, err := openReplica(n.disk.store, n.name, n.address, bootstrap, n.timings, n.store, w, reconfigured, n.log)
	if err != nil {
		return err
	}
	n.replica, n.leaders = r, newLeaders(r.raft, r.config.LocalID)
	return nil
}

// takePart proposes, reads, and leads when raft says so, until the context ends (proposals and reads until n.life does). The
// channel that it returns is closed when leadership and its duties have ended: that is not in the group, since a duty that does not stop must
// not keep the master from stopping.
func (n *consensus) takePart(ctx context.Context, g *errgroup.Group) (leading <-chan struct{}) {
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

// IsLeader says whether this master believes to lead, and has passed the barrier of its term.
func (n *consensus) IsLeader() bool {
	term := n.readyTerm.Load()
	return term != 0 && n.leaders.current().self && n.replica.raft.CurrentTerm() == term
}

// Leader is the name and mTLS address of who leads, as far as this master knows; empty for nobody.
func (n *consensus) Leader() (name, address string) {
	lead := n.leaders.current()
	return lead.name, lead.address
}

// FeatureLevel is the cluster's level, as this master's state has it.
func (n *consensus) FeatureLevel() int {
	level, _ := featureLevelOf(n.store.View())
	return level
}

// What other masters ask it for. The caller has checked who they are.

// serveProposals proposes commands for another master.
func (n *consensus) serveProposals(ctx context.Context, request *clusterv1.ProposeRequest) *clusterv1.ProposeResponse {
	outcomes := n.applyAll(ctx, request.Commands)
	response := &clusterv1.ProposeResponse{Outcomes: make([]*clusterv1.Outcome, len(outcomes))}
	for i, out := range outcomes {
		response.Outcomes[i] = outcomeToProto(out)
	}
	return response
}

// serveReadIndex returns the index that readers of another master must wait for.
func (n *consensus) serveReadIndex(ctx context.Context) (*clusterv1.ReadIndexResponse, error) {
	index, err := n.ownIndex.do(ctx)
	if err != nil {
		return nil, errclass.ToStatus(err)
	}
	return &clusterv1.ReadIndexResponse{Index: index}, nil
}

// status is what this master knows of its own part in consensus.
func (n *consensus) status() *clusterv1.NodeStatusResponse {
	r := n.replica.raft
	response := &clusterv1.NodeStatusResponse{
		Name:          n.name,
		Address:       n.address,
		State:         r.State().String(),
		Term:          r.CurrentTerm(),
		AppliedIndex:  n.store.AppliedIndex(),
		LastIndex:     r.LastIndex(),
		CommitIndex:   r.CommitIndex(),
		Revision:      n.store.View().Revision(),
		Leader:        n.leaders.current().name,
		LastContactMs: -1,
		Conditions:    n.disk.conditions(),
	}
	for _, server := range n.replica.servers() {
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

// takeReport notes the conditions of another master's disk, on the leader.
func (n *consensus) takeReport(ctx context.Context, r *clusterv1.ReportRequest) (*clusterv1.ReportResponse, error) {
	if caller, ok := mtls.PeerFromContext(ctx); !ok || caller.Name != r.Name {
		return nil, status.Errorf(codes.PermissionDenied, "a master reports for itself, not for %q", r.Name)
	}
	if !n.leaders.current().self {
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
