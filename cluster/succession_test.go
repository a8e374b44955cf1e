package cluster

import (
	"context"
	"testing"
)

// TestChangesOfTheIdentityInQuickSuccession: a change waits for masters that are just adopting the one before it.
func TestChangesOfTheIdentityInQuickSuccession(t *testing.T) {
	m := startMasters(t, 3)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var last uint64
	for i := range 10 {
		generation, err := m.nodes[i%3].c.ChangeIdentity(ctx, RenewCertificates, false)
		if err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
		if generation <= last {
			t.Errorf("change %d is generation %d, the one before it %d", i, generation, last)
		}
		last = generation
	}
}
