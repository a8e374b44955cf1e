package fsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"reflect"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/internal/kv"
)

const (
	keepPrefix  = "/kept/"
	stagePrefix = "/kept/staged/"
)

// stage writes a backup into a log, in pieces.
func stage(t testing.TB, backup []byte, piece int) (log [][]byte) {
	for i := 0; len(backup) > 0; i++ {
		n := min(piece, len(backup))
		log = append(log, mustEncode(t, &kv.Command{ID: kv.CommandID{7, byte(i), byte(i >> 8)}, Ops: []kv.Op{
			{Key: fmt.Sprintf("%s%06d", stagePrefix, i), Value: backup[:n]}}}))
		backup = backup[n:]
	}
	return log
}

func restoreCommand(revision uint64) *kv.Command {
	return &kv.Command{ID: kv.CommandID{8}, Ops: []kv.Op{{Key: keepPrefix + "epoch", Value: []byte("2"), Cond: kv.Absent}},
		Restore: &kv.Restore{From: stagePrefix, Keep: keepPrefix, Revision: revision}}
}

func stateOf(v kv.View) map[string]string {
	all := map[string]string{}
	v.Range("", "", func(v *kv.Version) bool { all[v.Key] = string(v.Value); return true })
	return all
}

// backupAndStore return the snapshot of an earlier state of a store, with a key that must not be restored, and the store with later
// changes.
func backupAndStore(t testing.TB, seed int64) (backup []byte, past map[string]string, s *Store, next uint64) {
	s, m := filled(t, seed, 300)
	if _, err := s.Apply(400, mustEncode(t, &kv.Command{ID: kv.CommandID{6, 1}, Ops: []kv.Op{{Key: keepPrefix + "old"}}})); err != nil {
		t.Fatal(err)
	}
	backup, past = snapshotBytes(t, s), stateOf(s.View())
	src := newSource(seed+100, 90)
	src.n = 1 << 40 // other ids
	m.revision++
	for i := range 200 {
		c := src.command(m)
		if _, err := s.Apply(uint64(500+i), mustEncode(t, c)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Apply(800, mustEncode(t, &kv.Command{ID: kv.CommandID{6, 2}, Ops: []kv.Op{
		{Key: keepPrefix + "old", Delete: true}, {Key: keepPrefix + "new", Value: []byte("kept")}}})); err != nil {
		t.Fatal(err)
	}
	return backup, past, s, 1000
}

func TestRestoredStateIsTheBackups(t *testing.T) {
	for seed := range int64(5) {
		backup, past, s, next := backupAndStore(t, seed)
		before := stateOf(s.View())
		unchanged := map[string]*kv.Version{}
		s.View().Range("", "", func(v *kv.Version) bool { unchanged[v.Key] = v; return true })
		revision := s.View().Revision()
		watcher, err := s.Watch("", revision)
		if err != nil {
			t.Fatal(err)
		}
		defer watcher.Close()
		log := stage(t, backup, 700)
		for _, data := range log {
			if _, err := s.Apply(next, data); err != nil {
				t.Fatal(err)
			}
			next++
		}
		r, err := s.Apply(next, mustEncode(t, restoreCommand(0)))
		if err != nil || r.Failed != nil || len(r.Revisions) != 1 || r.Revisions[0] != r.Revision || r.Revision != s.View().Revision() {
			t.Fatalf("%+v, %v", r, err)
		}
		want := map[string]string{keepPrefix + "epoch": "2", keepPrefix + "new": "kept"}
		for key, value := range past {
			if !strings.HasPrefix(key, keepPrefix) {
				want[key] = value
			}
		}
		if got := stateOf(s.View()); !reflect.DeepEqual(got, want) {
			t.Fatalf("seed %d: restored %d objects, want %d", seed, len(got), len(want))
		}
		checkTree(t, s.current.Load().root)
		s.View().Range("", "", func(v *kv.Version) bool {
			was := unchanged[v.Key]
			switch {
			case was != nil && bytes.Equal(was.Value, v.Value) && was != v:
				t.Errorf("%s was written again though it is the same", v.Key)
			case was != nil && v.CreateRevision != was.CreateRevision, was != v && v.ModRevision <= revision:
				t.Errorf("%s has revisions %d and %d in a store that was at %d", v.Key, v.CreateRevision, v.ModRevision, revision)
			}
			return true
		})
		// The events of a watcher, applied to the earlier state, result in the present one: in order, and the restore in one piece.
		seen, last := before, revision
		for last < r.Revision {
			events, progress, err := watcher.Next(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range events {
				if e.Revision <= last {
					t.Fatalf("revision %d after %d", e.Revision, last)
				}
				if last = e.Revision; e.Type == kv.Deleted {
					delete(seen, e.Current.Key)
				} else {
					seen[e.Current.Key] = string(e.Current.Value)
				}
			}
			last = max(last, progress)
		}
		if !reflect.DeepEqual(seen, want) {
			t.Errorf("seed %d: watchers saw another state", seed)
		}
		// The same command with the same id has the same result.
		again, err := s.Apply(next+1, mustEncode(t, restoreCommand(0)))
		if err != nil || again.Revision != r.Revision {
			t.Errorf("again: %+v, %v", again, err)
		}
	}
}

// TestRestoreIsOneEvent: no reader sees half of a restore.
func TestRestoreIsOneEvent(t *testing.T) {
	backup, _, s, next := backupAndStore(t, 3)
	for _, data := range stage(t, backup, 1<<20) {
		if _, err := s.Apply(next, data); err != nil {
			t.Fatal(err)
		}
	}
	staged := s.View().Revision()
	watcher, err := s.Watch("", staged)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	r, err := s.Apply(next+1, mustEncode(t, restoreCommand(0)))
	if err != nil {
		t.Fatal(err)
	}
	events, progress, err := watcher.Next(context.Background())
	if err != nil || progress != r.Revision || uint64(len(events)) != r.Revision-staged {
		t.Errorf("%d events up to %d, %v; want %d up to %d", len(events), progress, err, r.Revision-staged, r.Revision)
	}
}

func TestRestoreThatSkipsRevisionsBeginsHistoryAnew(t *testing.T) {
	backup, _, s, next := backupAndStore(t, 4)
	for _, data := range stage(t, backup, 1<<20) {
		if _, err := s.Apply(next, data); err != nil {
			t.Fatal(err)
		}
	}
	before := s.View().Revision()
	watcher, err := s.Watch("", before)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	far := before + 1_000_000
	r, err := s.Apply(next+1, mustEncode(t, restoreCommand(far)))
	if err != nil || r.Revision <= far {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, _, err := watcher.Next(context.Background()); !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("a watcher from before: %v", err)
	}
	for _, after := range []uint64{before, far - 1} {
		if _, err := s.Watch("/", after); !errors.Is(err, kv.ErrCompacted) {
			t.Errorf("a watch after %d: %v", after, err)
		}
	}
	if w, err := s.Watch("/", r.Revision); err != nil {
		t.Errorf("a watch after the restore: %v", err)
	} else {
		w.Close()
	}
	// A jump of the revision alone changes nothing else.
	state := stateOf(s.View())
	r, err = s.Apply(next+2, mustEncode(t, &kv.Command{ID: kv.CommandID{9}, Restore: &kv.Restore{Revision: far + 5_000_000}}))
	if err != nil || r.Revision != far+5_000_000 || !reflect.DeepEqual(stateOf(s.View()), state) {
		t.Errorf("a jump: %+v, %v", r, err)
	}
	if back, err := s.Apply(next+3, mustEncode(t, &kv.Command{ID: kv.CommandID{10}, Restore: &kv.Restore{Revision: 1}})); err != nil || back.Revision != r.Revision {
		t.Errorf("a jump back: %+v, %v", back, err)
	}
}

// TestBadRestoreChangesNothing: a backup that is damaged, incomplete or missing, or a command whose condition is not met.
func TestBadRestoreChangesNothing(t *testing.T) {
	backup, _, s, _ := backupAndStore(t, 2)
	damaged := bytes.Clone(backup)
	damaged[len(damaged)/2] ^= 4
	for name, x := range map[string]struct {
		staged []byte
		cond   kv.Condition
		want   error
	}{
		"damaged":   {damaged, kv.Absent, ErrBadSnapshot},
		"cut":       {backup[:len(backup)-9], kv.Absent, ErrBadSnapshot},
		"text":      {[]byte("not a backup"), kv.Absent, ErrBadSnapshot},
		"nothing":   {nil, kv.Absent, ErrBadCommand},
		"condition": {backup, kv.Exists, nil},
	} {
		replica := New(Options{})
		if err := replica.Restore(bytes.NewReader(snapshotBytes(t, s))); err != nil {
			t.Fatal(err)
		}
		for _, data := range stage(t, x.staged, 1<<20) {
			if _, err := replica.Apply(900, data); err != nil {
				t.Fatal(err)
			}
		}
		before, revision := stateOf(replica.View()), replica.View().Revision()
		c := restoreCommand(1 << 50)
		c.Ops[0].Cond = x.cond
		r, err := replica.Apply(1001, mustEncode(t, c))
		if x.want != nil && !errors.Is(err, x.want) || x.want == nil && (err != nil || r.Failed == nil) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
		if replica.View().Revision() != revision || !reflect.DeepEqual(stateOf(replica.View()), before) || replica.AppliedIndex() != 1001 {
			t.Errorf("%s: the state changed", name)
		}
	}
}

// TestReplicasRestoreAlike: the same log with a restore results in the same bytes, applied singly, in batches, and with snapshots.
func TestReplicasRestoreAlike(t *testing.T) {
	backup, _, base, next := backupAndStore(t, 1)
	start := snapshotBytes(t, base)
	var log []Entry
	add := func(data []byte) { log = append(log, Entry{next, data}); next++ }
	for _, data := range stage(t, backup, 2000) {
		add(data)
	}
	add(mustEncode(t, restoreCommand(1_000_000)))
	for i := range 50 {
		add(mustEncode(t, &kv.Command{ID: kv.CommandID{11, byte(i)}, Ops: []kv.Op{{Key: fmt.Sprint("/later/", i)}}}))
	}
	var want []byte
	for seed := range int64(6) {
		r := rand.New(rand.NewSource(seed))
		s := New(Options{HistoryEvents: 1 + r.Intn(500)})
		if err := s.Restore(bytes.NewReader(start)); err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(log); {
			n := min(1+r.Intn(30), len(log)-at)
			for _, o := range replay(s, log[at:at+n], r.Intn(2) == 0) {
				if o.Err != nil || o.Result.Failed != nil {
					t.Fatal(o)
				}
			}
			if at += n; r.Intn(3) == 0 {
				b := snapshotBytes(t, s)
				s = New(Options{})
				if err := s.Restore(bytes.NewReader(b)); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := snapshotBytes(t, s); want == nil {
			want = got
		} else if !bytes.Equal(got, want) {
			t.Fatalf("seed %d: the snapshots differ", seed)
		}
	}
}

// TestOlderProgramStopsAtANewerCommand: it must not continue without what other replicas have applied.
func TestOlderProgramStopsAtANewerCommand(t *testing.T) {
	put := func(i byte) Entry {
		return Entry{uint64(i), mustEncode(t, &kv.Command{ID: kv.CommandID{i}, Ops: []kv.Op{{Key: fmt.Sprint("/k", i)}}})}
	}
	newer := Entry{3, mustEncode(t, &kv.Command{ID: kv.CommandID{3}, Restore: &kv.Restore{Revision: 50}})}
	future := Entry{3, append([]byte{8, 99, 0x7a, 1, 0}, newer.Data...)} // with fields that nobody knows yet
	for name, x := range map[string]struct {
		options Options
		entry   Entry
	}{"the previous program": {Options{NewestCommand: 1}, newer}, "this program": {Options{}, future}} {
		for _, batch := range []bool{false, true} {
			s := New(x.options)
			out := replay(s, []Entry{put(1), put(2), x.entry, put(4)}, batch)
			if out[1].Err != nil || !errors.Is(out[2].Err, ErrNewerCommand) || !errors.Is(out[3].Err, ErrNewerCommand) {
				t.Errorf("%s: %v", name, out)
			}
			if !errors.Is(s.Halted(), ErrNewerCommand) || s.AppliedIndex() != 2 || s.View().Revision() != 2 {
				t.Errorf("%s: halted %v at index %d, revision %d", name, s.Halted(), s.AppliedIndex(), s.View().Revision())
			}
		}
	}
	s := New(Options{})
	if _, err := s.Apply(3, newer.Data); err != nil || s.Halted() != nil {
		t.Errorf("the present program: %v, %v", err, s.Halted())
	}
}

func BenchmarkRestoreThroughTheLog(b *testing.B) {
	s := New(Options{})
	value := bytes.Repeat([]byte("v"), 1024)
	for i := range 100_000 {
		if _, err := s.Apply(uint64(i+1), mustEncode(b, &kv.Command{ID: kv.CommandID{1, byte(i), byte(i >> 8), byte(i >> 16)}, Ops: []kv.Op{
			{Key: fmt.Sprintf("/g/r/ns/%06d", i), Value: value}}})); err != nil {
			b.Fatal(err)
		}
	}
	log := stage(b, snapshotBytes(b, s), 1<<20)
	command := mustEncode(b, restoreCommand(0))
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		target := New(Options{})
		for i, data := range log {
			if _, err := target.Apply(uint64(i+1), data); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if _, err := target.Apply(1_000_000, command); err != nil {
			b.Fatal(err)
		}
	}
}
