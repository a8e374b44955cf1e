package errclass

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/internal/kv"
)

func TestClassesAndTextsSurviveTheWay(t *testing.T) {
	for _, class := range []error{ErrToken, ErrNameTaken, ErrRemoved, ErrFeatureLevel, ErrRefused} {
		err := fmt.Errorf("%w: because", class)
		if got := FromStatus(ToStatus(err)); !errors.Is(got, class) || got.Error() != err.Error() {
			t.Errorf("%v came back as %v", err, got)
		}
	}
	missing := fmt.Errorf("remove %q: %w", "m", ErrNotMember)
	if got := NotMember(ToStatus(missing)); !errors.Is(got, ErrNotMember) || got.Error() != missing.Error() {
		t.Errorf("%v came back as %v", missing, got)
	}
	for _, err := range []error{nil, errors.New("no class")} {
		if got := NotMember(err); got != err {
			t.Errorf("%v came back as %v", err, got)
		}
		if got := FromStatus(err); !errors.Is(got, err) {
			t.Errorf("%v came back as %v", err, got)
		}
	}
}

func TestCodes(t *testing.T) {
	for _, x := range []struct {
		err  error
		code codes.Code
	}{
		{nil, codes.OK}, {ErrNotLeader, codes.Aborted}, {raft.ErrLeadershipLost, codes.Aborted}, {ErrTokenNotFound, codes.NotFound},
		{ErrSettings, codes.InvalidArgument}, {kv.ErrNoLeader, codes.Unavailable}, {context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled}, {status.Error(codes.DataLoss, "kept"), codes.DataLoss}, {errors.New("other"), codes.Unknown},
	} {
		if got := status.Code(ToStatus(x.err)); got != x.code {
			t.Errorf("%v has the code %v, want %v", x.err, got, x.code)
		}
	}
}
