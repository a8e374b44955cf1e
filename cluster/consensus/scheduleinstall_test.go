package consensus

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/test/await"
)

// TestAFollowerWhoseLogBeginsAfterItsSnapshot: its log has uncommitted entries right after its snapshot, as after an install, an
// election won and lost. It must follow the leader; raft alone rejects all entries until there is a newer snapshot.
func TestAFollowerWhoseLogBeginsAfterItsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule(1, simBugs{})
		s.assemble()
		defer s.disassemble()
		s.awaitLeader()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		write := func(m *simMaster, value string) {
			t.Helper()
			if _, err := m.life.Load().c.Propose(ctx, put("/t/things/ns/0", value)); err != nil {
				t.Fatalf("write %q: %v", value, err)
			}
		}
		behind := s.masters[2]
		for i := range 5 {
			write(behind, fmt.Sprint(i))
		}
		s.snapshot(2)
		for _, m := range s.masters {
			m.kill(false)
		}
		s.ending.Wait()
		// The one that was elected in a separate term appended entries that no other master has.
		end := behind.platter.snapshots[0].meta
		const own = 100
		behind.platter.first, behind.platter.entries = end.Index+1, nil
		for i := range uint64(40) {
			behind.platter.entries = append(behind.platter.entries, &raft.Log{Index: end.Index + 1 + i, Term: own, Type: raft.LogNoop})
		}
		for _, m := range s.masters {
			m.platter.stable = [][2]string{{"CurrentTerm", fmt.Sprint(own)}}
		}
		for _, m := range s.masters[:2] { // who lead in a later term
			m.start()
		}
		s.awaitLeader()
		write(s.masters[0], "after")
		behind.start()
		await.That(t, "it to follow", s.diverged)
		if v, ok := behind.life.Load().c.View().Get("/t/things/ns/0"); !ok || string(v.Value) != "after" {
			t.Errorf("it has %v", v)
		}
		if n := s.happened["a snapshot was installed"]; n != 0 {
			t.Errorf("%d snapshots were needed", n)
		}
	})
}
