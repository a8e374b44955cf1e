package rebalance

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

func TestOwnersRestLongerEachTime(t *testing.T) {
	s, now := rests{}, time.Unix(1e6, 5e8)
	start := now
	present := map[types.UID]bool{"a": true}
	s.moved("a", start.Add(-time.Hour), now)
	if s.stays("a", start.Add(-time.Second), now) {
		t.Error("a pod stays that is older than the move")
	}
	for i, minutes := range []int{10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440} {
		rest := time.Duration(minutes) * time.Minute
		created := now.Truncate(time.Second)
		if !s.stays("a", created, now) || !s.stays("a", created, now.Add(rest-1)) || s.stays("a", created, now.Add(rest)) || s.stays("b", created, now) {
			t.Fatalf("after move %d, new pods do not stay for %v", i+1, rest)
		}
		now = now.Add(rest + quiet - 1)
		s.forget(present, now)
		s.moved("a", created, now)
	}
	// Moves of pods that were there before do not make it longer.
	s, now = rests{}, start
	for range 5 {
		s.moved("a", start.Add(-time.Hour), now)
	}
	if s.stays("a", now, now.Add(firstRest)) {
		t.Error("moves of old pods make new ones stay for longer")
	}
}

func TestOwnersAreForgotten(t *testing.T) {
	s, now := rests{}, time.Unix(1e6, 0)
	s.moved("quiet", now, now)
	s.moved("gone", now, now)
	s.forget(map[types.UID]bool{"quiet": true}, now)
	if len(s) != 2 {
		t.Error("an owner is forgotten while its pod is replaced")
	}
	s.forget(map[types.UID]bool{"quiet": true}, now.Add(firstRest))
	if s["gone"] != nil || s["quiet"] == nil {
		t.Errorf("known are %v", s)
	}
	if s.forget(map[types.UID]bool{"quiet": true}, now.Add(firstRest+quiet)); len(s) != 0 {
		t.Errorf("known are %v", s)
	}
	for i := range mostRests + 10 {
		s.moved(types.UID(fmt.Sprint(i)), now, now.Add(time.Duration(i)))
	}
	if len(s) != mostRests || s["0"] != nil || s["10"] == nil {
		t.Errorf("%d are known", len(s))
	}
}
