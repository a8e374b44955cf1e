// Package await polls in tests, for what has no event that a test could wait for.
package await

import (
	"testing"
	"time"
)

// Patience limits the wait of That. It is long: a machine under load is slow, and a check that holds ends the wait at once.
const Patience = 30 * time.Second

// That waits until check returns nil, and ends the test with its last error if it does not within Patience. In a bubble of
// testing/synctest the time is virtual.
func That(t testing.TB, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(Patience); ; time.Sleep(5 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s: %v", Patience, what, err)
		}
	}
}
