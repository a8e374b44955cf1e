// Package errclass defines the classes of errors that masters and joining hosts exchange by gRPC, and converts them to gRPC status
// codes and back, so that errors.Is gives the same result on every host.
//
// A class is wrapped by an error whose text says why, and what to do. ToStatus and FromStatus are inverse for the classes that
// FromStatus names; the text is preserved.
package errclass

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/internal/kv"
)

var (
	// ErrNameTaken means that a host cannot have the name or the address that it requested.
	ErrNameTaken = errors.New("already taken in this cluster")
	// ErrRefused means that the request cannot be carried out in the cluster's present state, and that nothing was changed.
	ErrRefused = errors.New("refused")
	// ErrRemoved means that a master was removed from its cluster.
	ErrRemoved = errors.New("this master was removed from its cluster")
	// ErrToken means that a join token is not accepted.
	ErrToken = errors.New("the join token is not accepted")
	// ErrTokenNotFound means that no join token has the id.
	ErrTokenNotFound = errors.New("no such join token")
	// ErrFeatureLevel means that a program does not support the cluster's feature level.
	ErrFeatureLevel = errors.New("feature level")
	// ErrNotLeader means that only the leader can carry out the request, and that the master that received it does not lead.
	ErrNotLeader = errors.New("this master does not lead")
	// ErrNotMember means that no master has the name.
	ErrNotMember = errors.New("no such master")
	// ErrSettings means that a fixed setting of a master differs from the cluster's.
	ErrSettings = errors.New("settings")
)

// ToStatus returns err as a gRPC status error. An error without a class keeps its code, or gets codes.Unknown.
func ToStatus(err error) error {
	code := codes.Unknown
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNotLeader), errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		code = codes.Aborted
	case errors.Is(err, ErrToken):
		code = codes.PermissionDenied
	case errors.Is(err, ErrNameTaken):
		code = codes.AlreadyExists
	case errors.Is(err, ErrTokenNotFound), errors.Is(err, ErrNotMember):
		code = codes.NotFound
	case errors.Is(err, ErrRemoved):
		code = codes.FailedPrecondition
	case errors.Is(err, ErrFeatureLevel):
		code = codes.OutOfRange
	case errors.Is(err, ErrRefused), errors.Is(err, ErrSettings):
		code = codes.InvalidArgument
	case errors.Is(err, kv.ErrNoLeader), errors.Is(err, kv.ErrOutcomeUnknown), errors.Is(err, mtls.ErrClosed):
		code = codes.Unavailable
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	default:
		if s, ok := status.FromError(err); ok {
			return s.Err()
		}
	}
	return status.Error(code, err.Error())
}

// FromStatus returns a gRPC status error as a *Remote with the class of its code, or err itself if that has none. The class of a
// code depends on the call: codes.NotFound has none here, see NotMember.
func FromStatus(err error) error {
	s, ok := status.FromError(err)
	if !ok || err == nil {
		return err
	}
	switch s.Code() {
	case codes.PermissionDenied:
		return &Remote{Class: ErrToken, Text: s.Message()}
	case codes.AlreadyExists:
		return &Remote{Class: ErrNameTaken, Text: s.Message()}
	case codes.FailedPrecondition:
		return &Remote{Class: ErrRemoved, Text: s.Message()}
	case codes.OutOfRange:
		return &Remote{Class: ErrFeatureLevel, Text: s.Message()}
	case codes.InvalidArgument:
		return &Remote{Class: ErrRefused, Text: s.Message()}
	default:
		return &Remote{Class: err, Text: s.Message()}
	}
}

// NotMember is FromStatus for calls that name a master: codes.NotFound becomes ErrNotMember, and every other error is returned
// unchanged.
func NotMember(err error) error {
	if status.Code(err) == codes.NotFound {
		return &Remote{Class: ErrNotMember, Text: status.Convert(err).Message()}
	}
	return err
}

// Remote is an error that another host returned. Its text is that host's, without additions.
type Remote struct {
	Class error
	Text  string
}

func (a *Remote) Error() string { return a.Text }
func (a *Remote) Unwrap() error { return a.Class }
