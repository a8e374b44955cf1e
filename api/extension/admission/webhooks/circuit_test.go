package webhooks

import (
	"testing"
	"time"
)

// TestTheCircuit: after a slow failure nobody asks until the pause is over, then one; after a fast failure everybody does.
func TestTheCircuit(t *testing.T) {
	now := time.Now()
	var c circuit
	asks := func(what string, want bool) {
		t.Helper()
		if got := c.enter(now); got != want {
			t.Errorf("%s: asks: %v", what, got)
		}
	}
	asks("at first", true)
	asks("a second request meanwhile", true)
	c.left(true, true, 10*time.Second, now)
	asks("after a client that went away", true)
	c.left(true, false, slow-1, now)
	asks("after a fast failure", true)
	c.left(true, false, slow, now)
	asks("after a slow failure", false)
	c.left(false, false, slow, now) // of the request that came meanwhile
	asks("after an answer", true)
	c.left(true, false, slow, now)
	now = now.Add(pause - 1)
	asks("within the pause", false)
	now = now.Add(1)
	asks("after the pause", true)
	asks("while one tries", false)
	c.left(true, true, slow, now)
	asks("after one that gave up", true)
	c.left(true, false, slow, now)
	asks("after one that failed", false)
	now = now.Add(pause)
	asks("after a second pause", true)
	c.left(true, false, 0, now)
	asks("when it fails fast", true)
	c.left(false, false, slow, now)
	asks("when it answers", true)
}
