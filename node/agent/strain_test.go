package agent

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestOneMastersFailureIsNoStrain: after a single silence the next master gets no longer than the first had. Further ones soon after it make
// the agent patient, up to a limit, and are forgotten.
func TestOneMastersFailureIsNoStrain(t *testing.T) {
	now := time.Now()
	var s strain
	want := func(when string, missed int, patience time.Duration, waits bool) {
		t.Helper()
		if s.missed() != missed || s.patience() != patience {
			t.Errorf("%s: %d heartbeats and %s, want %d and %s", when, s.missed(), s.patience(), missed, patience)
		}
		longest := time.Duration(0)
		for range 100 {
			longest = max(longest, s.pause())
		}
		if (longest > 0) != waits || longest > strainPause<<mostStrain {
			t.Errorf("%s: pauses of up to %s", when, longest)
		}
	}
	want("at first", 3, time.Second, false)
	s.ended(errSilent, now)
	want("after one silence", 3, time.Second, false)
	s.ended(errors.New("reset"), now)
	want("after a reset", 3, time.Second, false)
	s.ended(errSilent, now.Add(10*time.Second))
	want("after two", 6, 2*time.Second, true)
	for range 10 {
		s.ended(errSilent, now.Add(20*time.Second))
	}
	want("after many", 24, 8*time.Second, true)
	s.ended(errors.New("reset"), now.Add(20*time.Second+strainMemory+time.Second))
	want("later", 3, time.Second, false)
}

// TestARefusedWorkerWaits: for longer each time, with a limit, and not all for the same time.
func TestARefusedWorkerWaits(t *testing.T) {
	if !refused(status.Error(codes.ResourceExhausted, "no pod range")) || refused(status.Error(codes.Unavailable, "no leader")) || refused(errSilent) {
		t.Error("what counts as a refusal")
	}
	seen := map[time.Duration]bool{}
	for n, want := range map[int]time.Duration{1: time.Second, 3: 4 * time.Second, 100: time.Minute} {
		for range 20 {
			d := refusalDelay(n)
			seen[d] = true
			if d < want/2 || d > want*3/2 {
				t.Errorf("refusal %d: %s", n, d)
			}
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d different delays", len(seen))
	}
}
