package consensus

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// attemptResult is the result of one attempt to propose one command.
type attemptResult struct {
	state  clusterv1.Outcome_State
	index  uint64
	result kv.Result
	err    error
	// appliedAt is when the leader began to apply the command, if the leader is this master: until then, the command was being committed.
	appliedAt time.Time
}

func refused(err error) attemptResult {
	return attemptResult{state: clusterv1.Outcome_STATE_REFUSED, err: err}
}

func unknownResult(err error) attemptResult {
	return attemptResult{state: clusterv1.Outcome_STATE_UNKNOWN, err: err}
}

// classify returns what a raft error means for the command.
func classify(err error) attemptResult {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress), errors.Is(err, raft.ErrEnqueueTimeout):
		return refused(err)
	default: // ErrLeadershipLost, ErrAbortedByRestore, ErrRaftShutdown, a failing disk
		return unknownResult(err)
	}
}

func resultFromProto(o *clusterv1.Outcome) attemptResult {
	out := attemptResult{state: o.State, index: o.Index}
	switch o.State {
	case clusterv1.Outcome_STATE_COMMITTED:
		out.result = kv.Result{Revision: o.Revision, Revisions: o.Revisions}
		if o.Failure != nil {
			out.result.Failed = &kv.Failure{
				Index:   int(o.Failure.Index),
				Cond:    kv.Condition(o.Failure.Condition),
				Current: o.Failure.Current,
				Count:   o.Failure.Count,
			}
		}
	case clusterv1.Outcome_STATE_REFUSED, clusterv1.Outcome_STATE_INVALID, clusterv1.Outcome_STATE_FULL:
		out.err = &errclass.Remote{Class: classOf(o.Reason), Text: o.Message}
	default:
		out.state = clusterv1.Outcome_STATE_UNKNOWN
		out.err = &errclass.Remote{Class: classOf(o.Reason), Text: o.Message}
	}
	return out
}

func resultToProto(out attemptResult) *clusterv1.Outcome {
	o := &clusterv1.Outcome{State: out.state, Index: out.index, Revision: out.result.Revision, Revisions: out.result.Revisions}
	if out.err != nil {
		o.Message, o.Reason = out.err.Error(), reasonOf(out.err)
	}
	if f := out.result.Failed; f != nil {
		o.Failure = &clusterv1.Failure{Index: int32(f.Index), Condition: uint32(f.Cond), Current: f.Current, Count: f.Count}
	}
	return o
}

// classes are the errors that callers test for with errors.Is, whichever master found them. The first one that matches is sent.
var classes = []struct {
	reason clusterv1.Outcome_Reason
	err    error
}{
	{clusterv1.Outcome_REASON_FORGOTTEN, fsm.ErrForgotten},
	{clusterv1.Outcome_REASON_NEWER_COMMAND, fsm.ErrNewerCommand},
	{clusterv1.Outcome_REASON_TOO_LARGE, kv.ErrTooLarge},
	{clusterv1.Outcome_REASON_BAD_SNAPSHOT, fsm.ErrBadSnapshot},
	{clusterv1.Outcome_REASON_BAD_COMMAND, fsm.ErrBadCommand},
	{clusterv1.Outcome_REASON_NOT_LEADER, raft.ErrNotLeader},
	{clusterv1.Outcome_REASON_LEADERSHIP_LOST, raft.ErrLeadershipLost},
	{clusterv1.Outcome_REASON_TRANSFERRING, raft.ErrLeadershipTransferInProgress},
	{clusterv1.Outcome_REASON_SHUTDOWN, raft.ErrRaftShutdown},
	{clusterv1.Outcome_REASON_CANCELED, context.Canceled},
	{clusterv1.Outcome_REASON_DEADLINE_EXCEEDED, context.DeadlineExceeded},
}

func reasonOf(err error) clusterv1.Outcome_Reason {
	for _, c := range classes {
		if errors.Is(err, c.err) {
			return c.reason
		}
	}
	return clusterv1.Outcome_REASON_UNSPECIFIED
}

// classOf returns the class of a reason; nil if it has none.
func classOf(reason clusterv1.Outcome_Reason) error {
	for _, c := range classes {
		if c.reason == reason {
			return c.err
		}
	}
	return nil
}
