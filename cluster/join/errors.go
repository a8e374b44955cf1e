package join

import (
	"errors"
	"fmt"
	"regexp"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Errors that a master tells a host that joins. They are classes: the wrapped text says why, and what to do.
var (
	// ErrNameTaken says that a host cannot have the name or the address that it asks for.
	ErrNameTaken = errors.New("already taken in this cluster")
	// ErrRefused says that what was asked for cannot be done as the cluster is, and that nothing was changed.
	ErrRefused = errors.New("refused")
	// ErrRemoved says that a master was removed from its cluster.
	ErrRemoved = errors.New("this master was removed from its cluster")
	// ErrFeatureLevel says that a program and the cluster's feature level do not fit.
	ErrFeatureLevel = errors.New("feature level")
)

// FromStatus gives an answered error its class back, with the text that the server gave it.
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

// Remote is an error that a server told: its text says all.
type Remote struct {
	Class error
	Text  string
}

func (a *Remote) Error() string { return a.Text }
func (a *Remote) Unwrap() error { return a.Class }

var namePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

// CheckName says whether a host may have the name.
func CheckName(name string) error {
	if len(name) > 63 || !namePattern.MatchString(name) {
		return fmt.Errorf("host name %q: use up to 63 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit", name)
	}
	return nil
}
