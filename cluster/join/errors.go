package join

import (
	"errors"
	"fmt"
	"regexp"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Errors with which a master responds to a host that joins. They are classes: the wrapped text says why, and what to do.
var (
	// ErrNameTaken means that a host cannot have the name or the address that it requested.
	ErrNameTaken = errors.New("already taken in this cluster")
	// ErrRefused means that the request cannot be carried out in the cluster's present state, and that nothing was changed.
	ErrRefused = errors.New("refused")
	// ErrRemoved means that a master was removed from its cluster.
	ErrRemoved = errors.New("this master was removed from its cluster")
	// ErrFeatureLevel means that a program does not support the cluster's feature level.
	ErrFeatureLevel = errors.New("feature level")
)

// FromStatus converts a gRPC error of a master to its class, with the text that the master sent.
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

// Remote is an error that a server sent: its text is complete.
type Remote struct {
	Class error
	Text  string
}

func (a *Remote) Error() string { return a.Text }
func (a *Remote) Unwrap() error { return a.Class }

var namePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

// CheckName returns an error if a host may not have the name.
func CheckName(name string) error {
	if len(name) > 63 || !namePattern.MatchString(name) {
		return fmt.Errorf("host name %q: use up to 63 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit", name)
	}
	return nil
}
