package fsm

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// fillHistory puts n values of a KiB under a prefix and returns the last revision.
func fillHistory(t *testing.T, s *Store, local *Local, prefix string, n int) uint64 {
	t.Helper()
	for i := range n {
		command := &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: fmt.Sprintf("%s%d", prefix, i%10), Value: make([]byte, 1024)}}}
		if result, err := local.Propose(t.Context(), command); err != nil || result.Failed != nil {
			t.Fatal(result.Failed, err)
		}
	}
	return s.View().Revision()
}

// Old events are dropped when there are many of them, and a watcher that waits, or resumes from later, does not notice.
func TestHistoryAges(t *testing.T) {
	const rounds = 3
	s := New(Options{})
	local := &Local{Store: s}
	first := fillHistory(t, s, local, "/a/b/c/", 3*agedEvents)
	waiting, err := s.Watch("/x/y/z/", first)
	if err != nil {
		t.Fatal(err)
	}
	defer waiting.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, _, err := waiting.Next(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	for range rounds {
		if freed := s.Age(rounds); freed != 0 {
			t.Fatalf("%d bytes were freed too early", freed)
		}
	}
	second := fillHistory(t, s, local, "/a/b/c/", 2*agedEvents)
	if freed := s.Age(rounds); freed < agedEvents*1024 {
		t.Errorf("%d bytes were freed", freed)
	}
	if _, err := s.Watch("/a/b/c/", first-1); !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("a watch of what was dropped: %v", err)
	}
	resumed, err := s.Watch("/a/b/c/", first)
	if err != nil {
		t.Fatal(err)
	}
	defer resumed.Close()
	got := 0
	for got < 2*agedEvents {
		events, _, err := resumed.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got += len(events)
	}
	for range 2 * rounds {
		s.Age(rounds)
	}
	if n := s.Stats().HistoryEvents; n == 0 || n > agedEvents {
		t.Errorf("%d events are kept", n)
	}
	third := fillHistory(t, s, local, "/x/y/z/", 1)
	events, progress, err := waiting.Next(t.Context())
	if err != nil || len(events) != 1 || progress != third || third != second+1 {
		t.Errorf("the watcher that waited: %d events, progress %d of %d, %v", len(events), progress, third, err)
	}
	s.Age(rounds)
	if n := s.Stats().HistoryEvents; n == 0 {
		t.Error("few events were dropped, however old")
	}
}

func TestFormsAge(t *testing.T) {
	const rounds = 3
	s := New(Options{})
	local := &Local{Store: s}
	fillHistory(t, s, local, "/a/b/c/", 10)
	build := func(v *kv.Version) (any, int, error) { return new(int), 1000, nil }
	read, _ := s.View().Get("/a/b/c/1")
	unread, _ := s.View().Get("/a/b/c/2")
	before, _ := read.Form(1, build)
	other, _ := unread.Form(1, build)
	for range 3 * rounds {
		s.Age(rounds)
		if form, _ := read.Form(1, build); form != before {
			t.Fatal("a form in use was dropped")
		}
	}
	if _, forms := s.forms.Usage(); forms != 1 {
		t.Errorf("%d forms are kept", forms)
	}
	if form, _ := unread.Form(1, build); form == other {
		t.Error("a form that nobody has read was kept")
	}
}
