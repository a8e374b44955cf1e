package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/semaphore"

	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/tracing"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

const (
	// inflightBytes limits the bytes of the commands that a leader has received and not yet applied.
	inflightBytes = 64 << 20
	// attemptBound is the time limit of an attempt on a leader that does not respond although raft still follows it.
	attemptBound = 10 * time.Second
	retryPause   = 25 * time.Millisecond
	// fullPatience is how long a leader with a full disk may take to transfer leadership to a master with space.
	fullPatience = 2 * time.Second
)

// Propose replicates a command and returns the result of applying it, once this master's own state shows it. It can be called on
// any master, whichever leads. A condition that did not hold is not an error but Result.Failed.
//
// If the leader is lost, the outcome is unknown; the command is then proposed again under its id, which the state machine applies
// only once, until the context ends (Timings.Propose if it has no deadline). Errors: kv.ErrTooLarge and the other errors of
// fsm.EncodeCommand, and kv.ErrUnsupported, at once; kv.ErrNoLeader if the command was certainly never proposed, kv.ErrDiskFull if it was not because the
// disks are full; kv.ErrOutcomeUnknown if it may be committed now or later, or may have been so long ago that its result is no
// longer remembered.
func (n *Replica) Propose(ctx context.Context, cmd *kv.Command) (kv.Result, error) {
	began := time.Now()
	ctx, span := tracing.Start(ctx, "raft.propose")
	result, err := n.propose(ctx, cmd)
	span.End(err)
	n.metrics.proposed(result, err, time.Since(began))
	return result, err
}

func (n *Replica) propose(ctx context.Context, cmd *kv.Command) (kv.Result, error) {
	ctx, cancel := n.Bounded(ctx)
	defer cancel()
	var data []byte
	dated, unknown := false, false
	var last error
	var full time.Time // since when the disks have been full
	for {
		lead := n.leaders.current()
		if !dated && !unknown { // a command that may be committed must keep its Since, or its absence
			var err error
			if data, dated, err = n.encode(cmd); err != nil {
				return kv.Result{}, fmt.Errorf("propose: %w", err)
			}
		}
		var out attemptResult
		sent := time.Now()
		if lead.Name != "" {
			out = n.batches.propose(ctx, data)
		} else {
			out = refused(errors.New("no leader is known"))
		}
		switch out.state {
		case clusterv1.Outcome_STATE_COMMITTED:
			committed := out.appliedAt
			if committed.IsZero() {
				committed = time.Now()
			}
			tracing.Within(ctx, "raft.commit", sent, committed)
			if err := n.store.WaitIndex(ctx, out.index); err == nil {
				tracing.Within(ctx, "raft.apply", committed, time.Now())
				return out.result, nil
			} else if ctx.Err() != nil {
				return kv.Result{}, fmt.Errorf("propose: committed at index %d, but this master has not applied it: %w (%w)",
					out.index, kv.ErrOutcomeUnknown, ctx.Err())
			}
			// The store was restored meanwhile: propose again, under the same id.
			unknown, last = true, errors.New("the state was restored from a snapshot")
		case clusterv1.Outcome_STATE_INVALID:
			if !errors.Is(out.err, fsm.ErrForgotten) {
				return kv.Result{}, fmt.Errorf("propose: %w", out.err)
			}
			if unknown {
				return kv.Result{}, fmt.Errorf("propose: %w: %w", kv.ErrOutcomeUnknown, out.err)
			}
			// No attempt can have committed it: this master was far behind when it encoded the command. Encode it with a newer
			// Since.
			last = out.err
			if err := n.store.WaitIndex(ctx, out.index); err == nil || errors.Is(err, kv.ErrFutureRevision) {
				dated = false
			}
		case clusterv1.Outcome_STATE_REFUSED:
			last = out.err
		case clusterv1.Outcome_STATE_FULL:
			if last = out.err; full.IsZero() {
				full = time.Now()
			}
			if !unknown && time.Since(full) > fullPatience {
				return kv.Result{}, fmt.Errorf("propose: %w: %w", kv.ErrDiskFull, out.err)
			}
		default:
			unknown, last = true, out.err
		}
		if !lead.Pause(ctx, retryPause) {
			class := kv.ErrNoLeader
			if unknown {
				class = kv.ErrOutcomeUnknown
			} else if !full.IsZero() {
				class = kv.ErrDiskFull
			}
			return kv.Result{}, fmt.Errorf("propose: %w (%w; last attempt: %v)", class, context.Cause(ctx), last)
		}
		n.metrics.retries.Inc()
	}
}

// datedVersion is the version of commands that have an index before which they were not proposed (kv.Command.Since).
const datedVersion = 3

// encode returns a command as a log entry. If all masters support it, the entry contains the index before which the command was not
// proposed: an attempt that arrives after its result may have been forgotten is then refused, and not applied again. A master that
// has just started may not know the feature level yet; then the leader refuses its command, and the master encodes it again.
func (n *Replica) encode(cmd *kv.Command) (data []byte, dated bool, err error) {
	if dated = n.dating() || cmd.Since != 0; n.dating() {
		copied := *cmd
		copied.Since = max(n.store.AppliedIndex(), 1)
		cmd = &copied
	}
	if data, err = fsm.EncodeCommand(cmd); err != nil {
		return nil, false, err
	}
	if level, version := n.FeatureLevel(), fsm.VersionOf(data); version >= counterVersion && level < int(version) {
		return nil, false, fmt.Errorf("%w: the command needs feature level %d, the cluster is at %d, and rises when every master runs a program that supports it",
			kv.ErrUnsupported, version, level)
	}
	return data, dated, nil
}

// counterVersion is the version of commands that add to counters. From this version on, a command is not proposed before the feature
// level allows it; what needs an earlier one asks for the level itself.
const counterVersion = 4

// dating says whether commands must have a Since: the feature level decides, and never falls.
func (n *Replica) dating() bool {
	if n.dates.Load() {
		return true
	}
	if n.FeatureLevel() < datedVersion {
		return false
	}
	n.dates.Store(true)
	return true
}

// errUndated refuses a command of a master that does not yet know that commands must have a Since.
var errUndated = errors.New("the command has no Since, which the cluster's feature level requires")

// Bounded gives a context a deadline if it has none, and ends it when the replica closes.
func (n *Replica) Bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(n.life, func() { cancel(mtls.ErrClosed) })
	done := func() { stop(); cancel(nil) }
	if _, ok := ctx.Deadline(); !ok {
		timed, stopTimer := context.WithTimeout(ctx, n.timings.Propose)
		return timed, func() { stopTimer(); done() }
	}
	return ctx, done
}

// applyAll proposes commands on this master, which should lead, and waits for all of them until the context ends.
func (n *Replica) applyAll(ctx context.Context, commands [][]byte) []attemptResult {
	outcomes := make([]attemptResult, len(commands))
	fill := func(o attemptResult) []attemptResult {
		for i := range outcomes {
			outcomes[i] = o
		}
		return outcomes
	}
	if err := n.errNoRoom(); err != nil {
		return fill(attemptResult{state: clusterv1.Outcome_STATE_FULL, err: err})
	}
	size := int64(0)
	for _, data := range commands {
		size += int64(len(data))
	}
	size = min(size, inflightBytes)
	if err := n.inflight.Acquire(ctx, size); err != nil {
		return fill(refused(fmt.Errorf("the leader has too many proposals under way: %w", err)))
	}
	if !n.node.enter() {
		n.inflight.Release(size)
		return fill(refused(raft.ErrRaftShutdown))
	}
	done := make(chan []attemptResult, 1)
	go func() {
		defer n.node.pending.Done()
		defer n.inflight.Release(size)
		futures := make([]raft.ApplyFuture, len(commands))
		// A leader that has not applied what was committed before its term does not know the level.
		undated := n.readyTerm.Load() != 0 && !n.dating()
		for i, data := range commands {
			if v := fsm.VersionOf(data); undated || v == 0 || v >= datedVersion { // bytes that are not a command are refused when they are applied
				futures[i] = n.node.raft.ApplyLog(raft.Log{Data: data}, 0)
			}
		}
		answers := make([]attemptResult, len(commands))
		for i, future := range futures {
			if future == nil {
				answers[i] = refused(errUndated)
				continue
			}
			if err := future.Error(); err != nil {
				answers[i] = classify(err)
				continue
			}
			applied, ok := future.Response().(appliedOutcome)
			switch {
			case !ok:
				answers[i] = unknownResult(fmt.Errorf("the state machine answered %T", future.Response()))
			case errors.Is(applied.Err, fsm.ErrNewerCommand): // it is committed: masters that know it will apply it
				answers[i] = unknownResult(applied.Err)
			case applied.Err != nil:
				answers[i] = attemptResult{state: clusterv1.Outcome_STATE_INVALID, index: future.Index(), err: applied.Err}
			default:
				answers[i] = attemptResult{state: clusterv1.Outcome_STATE_COMMITTED, index: future.Index(), result: applied.Result, appliedAt: applied.began}
			}
		}
		done <- answers
	}()
	select {
	case answers := <-done:
		return answers
	case <-ctx.Done():
		return fill(unknownResult(ctx.Err()))
	}
}

func newInflight() *semaphore.Weighted { return semaphore.NewWeighted(inflightBytes) }

// sendBatch proposes commands at the present leader.
func (n *Replica) sendBatch(ctx context.Context, commands [][]byte) []attemptResult {
	fill := func(o attemptResult) []attemptResult {
		outcomes := make([]attemptResult, len(commands))
		for i := range outcomes {
			outcomes[i] = o
		}
		return outcomes
	}
	lead := n.leaders.current()
	if lead.Name == "" {
		return fill(refused(errors.New("no leader is known")))
	}
	ctx, cancel := lead.attempt(ctx, attemptBound)
	defer cancel()
	if lead.Self {
		return n.applyAll(ctx, commands)
	}
	conn, err := n.peers.Ready(ctx, lead.Address)
	if err != nil {
		return fill(refused(fmt.Errorf("reach the leader %s: %w", lead.Name, err)))
	}
	response, err := clusterv1.NewClusterServiceClient(conn).Propose(ctx, &clusterv1.ProposeRequest{Commands: commands})
	if err != nil {
		return fill(unknownResult(fmt.Errorf("propose at the leader %s: %w", lead.Name, err)))
	}
	if len(response.Outcomes) != len(commands) {
		return fill(unknownResult(fmt.Errorf("the leader %s answered %d outcomes for %d commands", lead.Name, len(response.Outcomes), len(commands))))
	}
	outcomes := make([]attemptResult, len(commands))
	for i, o := range response.Outcomes {
		outcomes[i] = resultFromProto(o)
	}
	return outcomes
}

// attempt returns a context for one call to a leader: it ends when leadership changes, so that a dead leader costs only the time
// that it takes to find a new one.
func (l Leadership) attempt(ctx context.Context, bound time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	done := make(chan struct{})
	go func() {
		select {
		case <-l.changed:
			cancel()
		case <-done:
		}
	}()
	return ctx, func() { close(done); cancel() }
}
