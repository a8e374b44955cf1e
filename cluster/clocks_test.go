//go:build clocks

package cluster

import (
	"fmt"
	"testing"
	"time"
	_ "unsafe" // for the clock
)

// wallJump is how far this process' wall clock is from the machine's, in seconds. It is a variable of a Go runtime that
// `make clocks` patches: on Linux no process has a wall clock of its own, and monotonic clocks must go on as they do when
// an administrator or a time server sets the clock.
//
//go:linkname wallJump runtime.wallJump
var wallJump int64

func init() { setClock = func(seconds int64) { wallJump = seconds } }

// TestClocksThatAreSet sets the wall clocks of masters, each a process, twenty hours forward and back, one at a time and all at once,
// under writes on all of them: leadership stays where it is, and reads and writes go on, also over new connections.
func TestClocksThatAreSet(t *testing.T) {
	children := startChildren(t, 3, true)
	leader := leaderOf(t, children, nil)
	var others []*child
	for _, c := range children {
		if c != leader {
			others = append(others, c)
		}
	}
	set := func(c *child, seconds int64) {
		t.Helper()
		if _, err := c.call("clock", "", fmt.Sprint(seconds)); err != nil {
			t.Fatal(err)
		}
		a, err := c.call("now", "", "")
		if err != nil {
			t.Fatal(err)
		}
		shown, err := time.Parse(time.RFC3339, a.Value)
		if off := shown.Sub(time.Now()) - time.Duration(seconds)*time.Second; err != nil || off.Abs() > 5*time.Second {
			t.Fatalf("the clock of %s shows %s, %v", c.cfg.Name, a.Value, err)
		}
	}
	term := func() string {
		t.Helper()
		a, err := leader.call("term", "", "")
		if err != nil {
			t.Fatal(err)
		}
		return a.Value
	}
	const hours = 20 * 3600
	before := term()
	round := 0
	check := func(what string) {
		t.Helper()
		round++
		for i, c := range children {
			key, value := fmt.Sprintf("/t/clock/%d", i), fmt.Sprint(round)
			if _, err := c.call("put", key, value); err != nil {
				t.Errorf("%s: a write on %s: %v", what, c.cfg.Name, err)
			}
			for _, reader := range children {
				if a, err := reader.call("get", key, ""); err != nil || a.Value != value {
					t.Errorf("%s: %s reads %q, %v; %q was acknowledged", what, reader.cfg.Name, a.Value, err, value)
				}
			}
		}
		if now := term(); now != before {
			t.Errorf("%s: the term was %s and is %s", what, before, now)
		}
	}
	check("before")
	for _, jump := range []int64{hours, -hours, 0} {
		set(leader, jump)
		check(fmt.Sprintf("the leader's clock %+d s off", jump))
		set(others[0], -jump)
		check(fmt.Sprintf("a follower's clock %+d s off, the leader's %+d s", -jump, jump))
		set(others[0], jump)
		set(others[1], jump)
		check(fmt.Sprintf("all clocks %+d s off", jump))
		for _, c := range children {
			set(c, 0)
		}
		check("all clocks as they were")
	}
	// A master that starts meets the others with new connections, in both directions.
	for _, jump := range []int64{hours, -hours} {
		set(leader, jump)
		others[0].kill()
		others[0].start()
		others[0].ready()
		check(fmt.Sprintf("a master has started while the leader's clock was %+d s off", jump))
		set(leader, 0)
	}
}
