package consensus

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/fsm"
)

func TestApplyAndApplyBatchBehaveAlike(t *testing.T) {
	entry := func(index uint64, key string) *raft.Log {
		data, err := fsm.EncodeCommand(put(key, "x"))
		if err != nil {
			t.Fatal(err)
		}
		return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: data}
	}
	told, reconfigured := 0, 0
	one, batch := fsm.New(fsm.Options{}), fsm.New(fsm.Options{})
	single := newApplier(one, func() {}, func() {})
	batched := newApplier(batch, func() { told++ }, func() { reconfigured++ })
	entries := []*raft.Log{
		{Index: 1, Type: raft.LogConfiguration}, entry(2, "/a/a/a/a"), {Index: 3, Type: raft.LogConfiguration}, entry(4, "/a/a/a/b"),
		{Index: 5, Type: raft.LogCommand, Data: []byte("garbage")}, {Index: 6, Type: raft.LogConfiguration},
	}
	answers := batched.ApplyBatch(entries)
	if len(answers) != len(entries) {
		t.Fatalf("%d answers for %d entries", len(answers), len(entries))
	}
	for i, e := range entries {
		if e.Type != raft.LogCommand {
			if answers[i] != nil {
				t.Errorf("entry %d is no command and got %v", e.Index, answers[i])
			}
			continue
		}
		want, got := single.Apply(e).(appliedOutcome).Outcome, answers[i].(appliedOutcome).Outcome
		if want.Result.Revision != got.Result.Revision || (want.Err == nil) != (got.Err == nil) {
			t.Errorf("entry %d: %+v alone, %+v in a batch", e.Index, want, got)
		}
	}
	if one.AppliedIndex() != batch.AppliedIndex() || one.AppliedIndex() != 5 || told != 1 {
		t.Errorf("applied %d and %d, told %d times", one.AppliedIndex(), batch.AppliedIndex(), told)
	}
	if answers := batched.ApplyBatch([]*raft.Log{{Index: 7, Type: raft.LogConfiguration}}); len(answers) != 1 || told != 1 || reconfigured != 2 {
		t.Errorf("a batch without commands: %v, told %d times", answers, told)
	}
}
