package consensus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/internal/pause"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

const (
	// dutyWatchdog is how long a duty may take to stop before an error about it is logged.
	dutyWatchdog = 5 * time.Second
	// heardBound is the time limit for a master's response when a successor is chosen.
	heardBound = 500 * time.Millisecond
	// stepAsidePause is how long a leader that is stopping waits before it tries another successor.
	stepAsidePause = 50 * time.Millisecond
	// A failed duty whose master could not transfer leadership is restarted after a pause that doubles.
	minDutyPause, maxDutyPause = time.Second, 30 * time.Second
)

// duty is work that only the leader does.
type duty struct {
	name string
	run  func(ctx context.Context) error
	own  bool // of this package: it continues while a restore is committed
}

// AddDuty registers work for the leader. run is started on a master that has gained leadership, after a barrier: its state includes
// everything written in earlier terms. Its context is cancelled when leadership is lost, and no duties of a later term start on
// this master before run has returned; it must return soon. If run fails or panics its master transfers leadership; if it returns
// nil it is finished for the term. The restore of a backup stops duties, and starts them again after it. AddDuty may be called at
// any time.
func (n *Replica) AddDuty(name string, run func(ctx context.Context) error) {
	n.duties.mu.Lock()
	defer n.duties.mu.Unlock()
	d := &duty{name: name, run: run}
	n.duties.list = append(n.duties.list, d)
	if n.duties.start != nil {
		n.duties.start(d)
	}
}

// AddClusterDuty registers work of this package and of package cluster. Call it before Run.
func (n *Replica) AddClusterDuty(name string, run func(ctx context.Context) error) {
	n.duties.list = append(n.duties.list, &duty{name: name, run: run, own: true})
}

type duties struct {
	mu    sync.Mutex
	list  []*duty
	start func(*duty) // not nil while other packages' duties may start
}

// lead follows raft's leadership changes, and starts and stops terms.
func (n *Replica) lead(ctx context.Context) {
	var stop func()
	defer func() {
		if stop != nil {
			stop()
		}
	}()
	for {
		select {
		case leading := <-n.node.raft.LeaderCh():
			n.leaders.bump()
			// Raft may report only the latest of several changes: two gains in a row mean a loss between them.
			if stop != nil {
				stop()
				stop = nil
			}
			if leading {
				stop = n.startTerm(ctx)
			}
		case <-ctx.Done():
			return
		}
	}
}

// startTerm starts a leader's work; stop ends it and waits for it.
func (n *Replica) startTerm(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.term(ctx)
	}()
	return func() {
		n.readyTerm.Store(0)
		cancel()
		<-done
	}
}

// term is one term of leadership, from its barrier to the return of its last duty.
func (n *Replica) term(ctx context.Context) {
	number := n.node.raft.CurrentTerm()
	for {
		err := n.node.barrier(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil || n.node.raft.State() != raft.Leader {
			return
		}
		n.log.Warn("the barrier at the start of leadership failed, trying again", "term", number, "error", err)
		if !n.leaders.current().Pause(ctx, retryPause) {
			return
		}
	}
	if n.node.raft.CurrentTerm() != number {
		return // leadership was lost and gained again: raft will report it
	}
	var running sync.WaitGroup
	running.Go(func() { n.node.announce.Run(ctx, number) })
	n.readyTerm.Store(number)
	n.leaders.bump()
	n.log.Info("leading the cluster", "term", number)

	n.duties.mu.Lock()
	for _, d := range n.duties.list {
		if d.own {
			running.Go(func() { n.perform(ctx, d) })
		}
	}
	n.duties.mu.Unlock()
	n.performOutside(ctx)
	running.Wait()
	n.log.Info("no longer leading the cluster", "term", number)
}

// perform runs one duty during one term.
func (n *Replica) perform(ctx context.Context, d *duty) {
	wait := minDutyPause
	for {
		err := n.performOnce(ctx, d)
		if ctx.Err() != nil || err == nil {
			return
		}
		n.log.Error("a duty of the leader failed, transferring leadership", "duty", d.name, "error", err)
		if err := n.Transfer(ctx, ""); err == nil {
			// Leadership has been transferred: the context will end.
			<-ctx.Done()
			return
		} else if ctx.Err() == nil {
			n.log.Warn("leadership could not be transferred, restarting the duty", "duty", d.name, "pause", wait, "error", err)
		}
		if !pause.For(ctx, wait) {
			return
		}
		wait = min(2*wait, maxDutyPause)
	}
}

func (n *Replica) performOnce(ctx context.Context, d *duty) (err error) {
	done := make(chan struct{})
	defer close(done)
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(dutyWatchdog)
		defer timer.Stop()
		select {
		case <-timer.C:
			n.log.Error("a duty does not stop although its context has ended", "duty", d.name)
		case <-done:
		}
	})
	defer stop()
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return d.run(ctx)
}

// errNoSuccessor means that leadership was not transferred because no master could take it.
var errNoSuccessor = fmt.Errorf("%w: no other voting master answered just now", errclass.ErrRefused)

// Transfer transfers leadership, to the named master or to the one whose log is longest, but only to one that responds now: raft
// blocks writes while it transfers to a peer that does not respond. One transfer runs at a time.
func (n *Replica) Transfer(ctx context.Context, to string) error {
	_, err := n.transferAvoiding(ctx, to, "")
	return err
}

// transferAvoiding transfers leadership to any master except one, unless there is no other. It returns the chosen master.
func (n *Replica) transferAvoiding(ctx context.Context, to string, avoid raft.ServerID) (raft.ServerID, error) {
	if !n.transferring.TryLock() {
		return "", fmt.Errorf("%w: a transfer of leadership is already under way", errclass.ErrRefused)
	}
	defer n.transferring.Unlock()
	if n.node.raft.State() != raft.Leader {
		return "", errclass.ErrNotLeader
	}
	successor, err := n.successor(ctx, to, avoid)
	if err != nil {
		return "", err
	}
	lead := n.leaders.current()
	n.log.Info("transferring leadership", "to", successor.ID)
	bound := 2*n.timings.Election + heardBound
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	err = n.node.await(ctx, func() raft.Future {
		return n.node.raft.LeadershipTransferToServer(successor.ID, successor.Address)
	})
	if err != nil {
		// Raft refuses writes until its call to the successor returns: end that call now.
		n.node.transport.Cut(successor.Address)
		return successor.ID, fmt.Errorf("transfer leadership to %s: %w", successor.ID, err)
	}
	for n.node.raft.State() == raft.Leader {
		if !lead.Pause(ctx, 10*time.Millisecond) {
			return successor.ID, fmt.Errorf("transfer leadership to %s: %w", successor.ID, ctx.Err())
		}
	}
	return successor.ID, nil
}

// StepAside waits until this master's duties have stopped, which closes leading (see Run), then transfers leadership if another
// master can take it. It is for a planned stop, and takes bounded time.
func (n *Replica) StepAside(leading <-chan struct{}) {
	timer := time.NewTimer(2 * dutyWatchdog)
	defer timer.Stop()
	select {
	case <-leading:
	case <-timer.C:
		n.log.Error("stopping although a duty has not stopped")
	}
	n.leave()
}

// leave transfers leadership to any master. A successor whose connection turns out to be broken (because it has just restarted) is
// tried again after the others.
func (n *Replica) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), n.timings.Shutdown)
	defer cancel()
	var failed raft.ServerID
	for {
		to, err := n.transferAvoiding(ctx, "", failed)
		if err == nil || errors.Is(err, errclass.ErrNotLeader) || errors.Is(err, errNoSuccessor) {
			return
		}
		n.log.Info("leadership could not be transferred before stopping", "error", err)
		failed = to
		if !n.leaders.current().Pause(ctx, stepAsidePause) {
			return
		}
	}
}

// successor asks the other voters and chooses one that responds; the one to avoid, and those whose disk is full or stalled, only if
// there is no other.
func (n *Replica) successor(ctx context.Context, to string, avoid raft.ServerID) (raft.Server, error) {
	var candidates []raft.Server
	known := false
	for _, s := range n.node.servers() {
		if to != "" && string(s.ID) == to {
			known = true
			if s.ID == n.node.config.LocalID {
				return raft.Server{}, fmt.Errorf("%w: %s leads already", errclass.ErrRefused, to)
			}
			if s.Suffrage != raft.Voter {
				return raft.Server{}, fmt.Errorf("%w: %s has no vote yet", errclass.ErrRefused, to)
			}
		}
		if s.Suffrage == raft.Voter && s.ID != n.node.config.LocalID && (to == "" || string(s.ID) == to) {
			candidates = append(candidates, s)
		}
	}
	if to != "" && !known {
		return raft.Server{}, fmt.Errorf("%w: %q", errclass.ErrNotMember, to)
	}
	ctx, cancel := context.WithTimeout(ctx, heardBound)
	defer cancel()
	answers := make([]*clusterv1.NodeStatusResponse, len(candidates))
	var wg sync.WaitGroup
	for i, s := range candidates {
		wg.Go(func() { answers[i], _ = n.Ask(ctx, string(s.Address)) })
	}
	wg.Wait()
	unwell := func(i int) bool { return candidates[i].ID == avoid || len(answers[i].Conditions) > 0 }
	best := -1
	for i, answer := range answers {
		if answer == nil || answer.Name != string(candidates[i].ID) || answer.Leader != n.name {
			continue
		}
		if best < 0 || unwell(best) || (!unwell(i) && answer.LastIndex > answers[best].LastIndex) {
			best = i
		}
	}
	if best < 0 {
		return raft.Server{}, errNoSuccessor
	}
	return candidates[best], nil
}

// Ask requests the status of the master at an address.
func (n *Replica) Ask(ctx context.Context, address string) (*clusterv1.NodeStatusResponse, error) {
	conn, err := n.peers.Line(address)
	if err != nil {
		return nil, err
	}
	return clusterv1.NewClusterServiceClient(conn).NodeStatus(ctx, &clusterv1.NodeStatusRequest{})
}
