package cluster

import (
	"fmt"
	"testing"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/identity"
)

// TestAChangeWhoseResponseWasLostIsNoError: the second attempt finds that the first one has done it.
func TestAChangeWhoseResponseWasLostIsNoError(t *testing.T) {
	notRotated, rotating := &errclass.Remote{Class: identity.ErrNotRotated, Text: "none"}, fmt.Errorf("one: %w", identity.ErrRotating)
	for _, x := range []struct {
		action IdentityChange
		err    error
		want   bool
	}{
		{FinishCA, notRotated, true}, {FinishTokenKey, notRotated, true}, {FinishCA, rotating, false}, {FinishCA, nil, false},
		{RotateCA, rotating, true}, {RotateSecretKey, rotating, true}, {RotateCA, notRotated, false}, {RotateCA, nil, false},
		{RenewCertificates, rotating, false}, {revokeWorker, notRotated, false},
	} {
		if got := doneBefore(x.action, x.err); got != x.want {
			t.Errorf("%v with %v: %v", x.action, x.err, got)
		}
	}
}
