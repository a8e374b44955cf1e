package fsm

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// TestARewriteIsNoChange: it takes no revision and makes no event, conditions hold as before, the history has the new value, and only
// a key at the given revision is rewritten.
func TestARewriteIsNoChange(t *testing.T) {
	l := NewLocal(Options{})
	propose := func(ops ...kv.Op) kv.Result {
		t.Helper()
		r, err := l.Propose(t.Context(), &kv.Command{ID: random.CommandID(), Ops: ops})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	const key, other = "/core/secrets/n/a", "/core/secrets/n/b"
	first := propose(kv.Op{Key: key, Value: []byte("sealed by 1: one")}).Revisions[0]
	second := propose(kv.Op{Key: key, Value: []byte("sealed by 1: two")}).Revisions[0]
	propose(kv.Op{Key: other, Value: []byte("sealed by 1: b")})
	before := l.View().Revision()
	idle, err := l.Watch("/core/secrets/", before)
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()

	if r := propose(kv.Op{Key: key, Value: []byte("late"), Rewrite: true, Cond: kv.AtRevision, Revision: first}); r.Failed == nil {
		t.Error("a superseded version was rewritten")
	}
	r := propose(kv.Op{Key: key, Value: []byte("sealed by 2: two"), Rewrite: true, Cond: kv.AtRevision, Revision: second},
		kv.Op{Key: "/retired/1", Check: true, Cond: kv.Absent})
	if r.Failed != nil || r.Revision != before || !slices.Equal(r.Revisions, []uint64{0, 0}) {
		t.Fatalf("the rewrite: %+v at revision %d", r, before)
	}
	v, _ := l.View().Get(key)
	if string(v.Value) != "sealed by 2: two" || v.ModRevision != second || v.CreateRevision != first || l.View().Revision() != before {
		t.Errorf("after the rewrite: %q, created at %d, changed at %d", v.Value, v.CreateRevision, v.ModRevision)
	}
	if events, progress := drain(t, idle); len(events) > 0 || progress != before {
		t.Errorf("a watcher was told of a rewrite: %v", events)
	}
	if r := propose(kv.Op{Key: other, Value: []byte("b2"), Cond: kv.Exists}, kv.Op{Key: key, Check: true, Cond: kv.AtRevision, Revision: second}); r.Failed != nil {
		t.Errorf("a write that read the object before the rewrite: %+v", r.Failed)
	}
	held := func() (values []string) {
		l.HistoryVersions("/core/secrets/", func(v *kv.Version) bool {
			if v.Key == key && !slices.Contains(values, string(v.Value)) {
				values = append(values, string(v.Value))
			}
			return true
		})
		return values
	}
	if got := held(); !slices.Equal(got, []string{"sealed by 1: one", "sealed by 2: two"}) {
		t.Errorf("the history has %q", got)
	}
	for _, prefix := range []string{"", "/core/secrets/", "/core/secrets/n/", key} {
		w, err := l.Watch(prefix, first)
		if err != nil {
			t.Fatal(err)
		}
		events, _ := drain(t, w)
		w.Close()
		if events[0].now.value != "sealed by 2: two" || events[0].before.value != "sealed by 1: one" || events[0].revision != second {
			t.Errorf("a watcher of %q from before the rewrite: %+v", prefix, events[0])
		}
	}

	// What only the history has is dropped by compaction; watchers that are up to date go on.
	l.Compact(l.View().Revision())
	if got := held(); slices.Contains(got, "sealed by 1: one") {
		t.Errorf("after the compaction the history has %q", got)
	}
	if _, err := l.Watch(key, first); !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("a watch from before the compaction: %v", err)
	}
	if _, _, err := idle.Next(ended); !errors.Is(err, ended.Err()) && err != nil {
		t.Errorf("a watcher that had read everything: %v", err)
	}
	var snapshot, again bytes.Buffer
	if _, err := l.Snapshot().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	restored := New(Options{})
	if err := restored.Restore(bytes.NewReader(snapshot.Bytes())); err != nil {
		t.Fatal(err)
	}
	if _, err := restored.Snapshot().WriteTo(&again); err != nil || !bytes.Equal(snapshot.Bytes(), again.Bytes()) {
		t.Errorf("a snapshot of a rewritten state: %v", err)
	}
}
