package nodes

import (
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"
)

func TestBalance(t *testing.T) {
	for _, c := range []struct{ own, theirs, moved int }{
		{0, 0, 0}, {1, 0, 0}, {4, 3, 0}, {2, 0, 1}, {7, 3, 1}, {100, 0, 5}, {3, 9, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := quietServer(Config{})
			var streams []*sink
			for i := range c.own {
				streams = append(streams, &sink{})
				s.attendance.set(&session{Server: s, node: fmt.Sprint(i), stream: streams[i], log: slog.New(slog.DiscardHandler), answers: true}, Connected)
			}
			go s.Balance(t.Context(), "self:1", func(but string) (string, int, bool) {
				if but != "self:1" {
					t.Errorf("the others are those but %s", but)
				}
				return "other:1", c.theirs, true
			})
			time.Sleep(balancePeriod + time.Second) // virtual
			synctest.Wait()
			moved := 0
			for _, stream := range streams {
				for _, m := range stream.take() {
					if m.GetMove().GetMaster() != "other:1" {
						t.Errorf("sent %v", m)
					}
					moved++
				}
			}
			if moved != c.moved {
				t.Errorf("with %d workers, and %d on the other master, %d are asked to move, want %d", c.own, c.theirs, moved, c.moved)
			}
		})
	}
}

func TestWhoCanBeAskedToMove(t *testing.T) {
	a := newAttendance()
	a.set(&session{node: "new", answers: true}, Connected)
	a.set(&session{node: "old"}, Connected)
	a.set(&session{node: "quiet", answers: true}, Quiet)
	if got := a.some(10); len(got) != 1 || got[0].node != "new" {
		t.Errorf("%d: %+v", len(got), got)
	}
}
