package fsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/robustness/watchcheck"
)

// commandsOf returns the commands of a model, by the keys that they wrote.
func commandsOf(events []modelEvent) (commands []watchcheck.Command) {
	end := uint64(0)
	for _, e := range events {
		if e.end != end || len(commands) == 0 {
			commands, end = append(commands, watchcheck.Command{}), e.end
		}
		w := watchcheck.Write{Key: e.key, Value: e.now.value, Deleted: e.typ == kv.Deleted, Revision: e.revision}
		if w.Deleted {
			w.Value = ""
		}
		last := &commands[len(commands)-1]
		last.Writes = append(last.Writes, w)
	}
	return commands
}

// TestWatchPromises has watchers that read while a writer writes, close at random and resume where they were.
func TestWatchPromises(t *testing.T) {
	s, m, src := New(Options{}), newModel(RememberedCommands), newSource(7, 60)
	prefixes := []string{"", "/g0/", "/g0/r0/", "/g1/r1/", "/g0/r0/ns0/", "/g0/r0/ns0/name-0", "/g1/r1/ns1/name-1", "/none/here/"}
	const last = "/the/last/one/of-all"
	var wg sync.WaitGroup
	checkers := make([]*watchcheck.Record, 0, 3*len(prefixes))
	for i := range cap(checkers) {
		c := &watchcheck.Record{Prefix: prefixes[i%len(prefixes)]}
		checkers = append(checkers, c)
		wg.Go(func() {
			if err := followWithPauses(s, c, rand.New(rand.NewSource(int64(i))), last); err != nil {
				t.Errorf("watcher of %q: %v", c.Prefix, err)
			}
		})
	}
	index := uint64(0)
	for range 600 {
		var batch []Entry
		for range 1 + src.Intn(6) {
			c := src.command(m)
			index++
			batch = append(batch, Entry{index, mustEncode(t, c)})
			m.mustApply(t, c)
		}
		s.ApplyBatch(batch)
		runtime.Gosched()
	}
	c := &kv.Command{ID: kv.CommandID{1}, Ops: []kv.Op{{Key: last}}}
	m.mustApply(t, c)
	if _, err := s.Apply(index+1, mustEncode(t, c)); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if err := watchcheck.Settle(commandsOf(m.events), checkers...); err != nil {
		t.Error(err)
	}
	for _, c := range checkers {
		if c.Progress() != m.revision {
			t.Errorf("%v: %q ended at %d of %d", watchcheck.ErrBrokeBookmarkable, c.Prefix, c.Progress(), m.revision)
		}
		if err := c.Match(watchcheck.StateOf(s.View(), c.Prefix)); err != nil {
			t.Error(err)
		}
	}
	if n := s.Stats().Watchers; n != 0 {
		t.Errorf("%d watchers are left", n)
	}
}

// followWithPauses reads until the store has the last key and the watcher has read it.
func followWithPauses(s *Store, c *watchcheck.Record, r *rand.Rand, last string) error {
	for done := false; !done; {
		w, err := s.Watch(c.Prefix, c.Progress())
		if err != nil {
			return c.Refused(err, s.Stats().HistoryFloor, s.View().Revision())
		}
		c.Granted()
		for range 1 + r.Intn(20) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Duration(r.Intn(5))*time.Millisecond)
			view := s.View()
			_, over := view.Get(last)
			events, progress, err := w.Next(ctx)
			cancel()
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				return err
			}
			if err := c.Take(watchcheck.EventsOf(events), progress, err != nil, view.Revision()); err != nil {
				return err
			}
			if done = over && progress == s.View().Revision(); done {
				break
			}
		}
		w.Close()
	}
	return nil
}

func local(t testing.TB, o Options) (*Local, func(ops ...kv.Op) kv.Result) {
	l := NewLocal(o)
	n := uint64(0)
	return l, func(ops ...kv.Op) kv.Result {
		t.Helper()
		n++
		c := &kv.Command{ID: kv.CommandID{0xff, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, Ops: ops}
		r, err := l.Propose(context.Background(), c)
		if err != nil {
			t.Fatalf("propose: %v", err)
		}
		return r
	}
}

func put(key string, size int) kv.Op { return kv.Op{Key: key, Value: make([]byte, size)} }

func mustWatch(t testing.TB, s *Store, prefix string, after uint64) kv.Watcher {
	t.Helper()
	w, err := s.Watch(prefix, after)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// parked waits until the watcher waits in Next.
func parked(t testing.TB, w kv.Watcher) {
	t.Helper()
	in := w.(*watcher)
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		in.b.mu.Lock()
		_, waits := in.b.waiting[in]
		in.b.mu.Unlock()
		if waits {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the watcher does not wait")
		}
	}
}

type nextResult struct {
	events   []*kv.Event
	progress uint64
	err      error
}

func goNext(ctx context.Context, w kv.Watcher) <-chan nextResult {
	done := make(chan nextResult, 1)
	go func() {
		e, p, err := w.Next(ctx)
		done <- nextResult{e, p, err}
	}()
	return done
}

func TestHistoryWindow(t *testing.T) {
	for name, o := range map[string]Options{
		"by count": {HistoryEvents: 10},
		"by bytes": {HistoryBytes: 10 * (eventOverhead + 1000)},
	} {
		t.Run(name, func(t *testing.T) {
			l, do := local(t, o)
			w := mustWatch(t, l.Store, "/a/b/", 0)
			other := mustWatch(t, l.Store, "/x/y/", 0)
			for range 30 {
				do(put("/a/b/c/d", 1000))
			}
			st := l.Stats()
			if st.HistoryEvents > 11 || st.HistoryEvents < 9 || st.HistoryBytes > 11*(eventOverhead+1000) {
				t.Fatalf("the window holds %d events, %d bytes", st.HistoryEvents, st.HistoryBytes)
			}
			if st.HistoryFloor != 30-uint64(st.HistoryEvents) {
				t.Fatalf("floor %d with %d events of 30", st.HistoryFloor, st.HistoryEvents)
			}
			if _, _, err := w.Next(ended); !errors.Is(err, kv.ErrCompacted) {
				t.Fatalf("a watcher that fell behind got %v", err)
			}
			if _, err := l.Watch("/a/b/", st.HistoryFloor-1); !errors.Is(err, kv.ErrCompacted) {
				t.Fatalf("a watch from before the window got %v", err)
			}
			if _, err := l.Watch("/a/b/", 31); !errors.Is(err, kv.ErrFutureRevision) {
				t.Fatalf("a watch from the future got %v", err)
			}
			got, _ := drain(t, mustWatch(t, l.Store, "/a/b/", st.HistoryFloor))
			if len(got) != st.HistoryEvents || got[0].revision != st.HistoryFloor+1 {
				t.Fatalf("a watch from the window's begin got %v", got)
			}
			// A watcher without matching events has missed nothing, whatever was written elsewhere.
			if p := other.Progress(); p != 30 {
				t.Fatalf("progress of the idle watcher is %d", p)
			}
			do(put("/x/y/z", 1))
			if got, p := drain(t, other); len(got) != 1 || p != 31 {
				t.Fatalf("the idle watcher got %v, progress %d", got, p)
			}
		})
	}
}

// TestWindowKeepsNewestCommand: a command larger than the window does not cut off a watcher that keeps up.
func TestWindowKeepsNewestCommand(t *testing.T) {
	l, do := local(t, Options{HistoryEvents: 3})
	w := mustWatch(t, l.Store, "/", 0)
	var ops []kv.Op
	for i := range 20 {
		ops = append(ops, put(fmt.Sprintf("/k%d", i), 1))
	}
	do(ops...)
	if got, _ := drain(t, w); len(got) != 20 {
		t.Fatalf("got %d events of 20", len(got))
	}
	do(put("/one", 1))
	if n := l.Stats().HistoryEvents; n != 1 {
		t.Fatalf("%d events are left: a command must leave the window whole", n)
	}
}

// TestIdleWatcherInBusyNamespace: a watcher of one name waits while other objects fill the window many times.
func TestIdleWatcherInBusyNamespace(t *testing.T) {
	l, do := local(t, Options{HistoryEvents: 8})
	w := mustWatch(t, l.Store, "/g/r/ns/mine", 0)
	done := goNext(context.Background(), w)
	parked(t, w)
	for i := range 100 {
		do(put(fmt.Sprintf("/g/r/ns/other%d", i%5), 1))
		parked(t, w) // it was not woken
	}
	if p := w.Progress(); p != 100 {
		t.Fatalf("progress %d, want 100", p)
	}
	do(put("/g/r/ns/mine", 1))
	if r := <-done; r.err != nil || len(r.events) != 1 || r.progress != 101 {
		t.Fatalf("got %+v", r)
	}
}

// TestBookmarks: a Next that ends with its context returns a progress as new as the store.
func TestBookmarks(t *testing.T) {
	l, do := local(t, Options{})
	w := mustWatch(t, l.Store, "/quiet/", 0)
	ctx, cancel := context.WithCancel(context.Background())
	done := goNext(ctx, w)
	parked(t, w)
	do(put("/loud/1", 1))
	do(put("/loud/2", 1))
	cancel()
	if r := <-done; r.err != context.Canceled || r.progress != 2 || len(r.events) != 0 {
		t.Fatalf("got %+v", r)
	}
	if _, p, _ := w.Next(ended); p != 2 {
		t.Fatalf("progress %d", p)
	}
}

func TestCloseEndsNext(t *testing.T) {
	l, _ := local(t, Options{})
	w := mustWatch(t, l.Store, "/", 0)
	done := goNext(context.Background(), w)
	parked(t, w)
	w.Close()
	w.Close()
	if r := <-done; !errors.Is(r.err, ErrWatcherClosed) {
		t.Fatalf("got %+v", r)
	}
	if len(l.history.buckets) != 0 || l.Stats().Watchers != 0 {
		t.Fatalf("%d buckets and %d watchers are left", len(l.history.buckets), l.Stats().Watchers)
	}
}

// TestLargeHistoryInPieces: a watcher far behind gets pieces of limited size, cut between commands.
func TestLargeHistoryInPieces(t *testing.T) {
	l, do := local(t, Options{})
	for range 400 {
		var ops []kv.Op
		for i := range 20 {
			ops = append(ops, put(fmt.Sprintf("/g/r/ns/k%d", i), 1))
		}
		do(ops...)
	}
	for _, prefix := range []string{"/", "/g/r/ns/k7"} {
		w := mustWatch(t, l.Store, prefix, 0)
		c := watchcheck.Record{Prefix: prefix}
		calls := 0
		for c.Progress() < l.View().Revision() {
			calls++
			events, progress, err := w.Next(context.Background())
			if err != nil || len(events) > eventsPerNext+20 {
				t.Fatalf("%d events at once, %v", len(events), err)
			}
			if err := c.Take(watchcheck.EventsOf(events), progress, false, 0); err != nil {
				t.Fatal(err)
			}
			if progress%20 != 0 {
				t.Fatalf("progress %d is within a command", progress)
			}
		}
		want := 8000
		if prefix != "/" {
			want = 400
			if calls < 2 {
				t.Fatal("the scan was never cut")
			}
		}
		if c.Events() != want {
			t.Fatalf("got %d events, want %d", c.Events(), want)
		}
	}
}

// TestBucketsAreBounded: the index of the history does not grow with namespaces that are created and deleted.
func TestBucketsAreBounded(t *testing.T) {
	l, do := local(t, Options{HistoryEvents: 10})
	for i := range 1000 {
		do(put(fmt.Sprintf("/g/r/ns%d/x", i), 1))
	}
	if n := len(l.history.buckets); n > 11 {
		t.Fatalf("%d buckets for 10 events", n)
	}
}

func TestWakeOnRestore(t *testing.T) {
	l, do := local(t, Options{})
	do(put("/a/a/a/1", 1))
	do(put("/a/a/a/2", 1))
	var at2 bytes.Buffer
	if _, err := l.Snapshot().WriteTo(&at2); err != nil {
		t.Fatal(err)
	}
	exact := mustWatch(t, l.Store, "/a/a/a/", 2)
	exactDone := goNext(context.Background(), exact)
	parked(t, exact)
	behind := mustWatch(t, l.Store, "/a/a/", 1)
	if err := l.Restore(bytes.NewReader(at2.Bytes())); err != nil {
		t.Fatal(err)
	}
	if _, _, err := behind.Next(context.Background()); !errors.Is(err, kv.ErrCompacted) {
		t.Fatalf("a watcher behind the restored revision got %v", err)
	}
	if _, err := l.Watch("/", 1); !errors.Is(err, kv.ErrCompacted) {
		t.Fatalf("a watch from before the restore got %v", err)
	}
	do(put("/a/a/a/3", 1))
	if r := <-exactDone; r.err != nil || len(r.events) != 1 || r.events[0].Revision != 3 {
		t.Fatalf("a watcher exactly at the restored revision got %+v", r)
	}
	// Now a restore to an earlier revision, with readers that wait for a revision that may never come.
	ahead := mustWatch(t, l.Store, "/a/a/", 3)
	aheadDone := goNext(context.Background(), ahead)
	parked(t, ahead)
	waits := make(chan error, 1)
	go func() { waits <- l.WaitIndex(context.Background(), 100) }()
	waitersIn(t, &l.indexes, 1)
	if err := l.Restore(bytes.NewReader(at2.Bytes())); err != nil {
		t.Fatal(err)
	}
	if r := <-aheadDone; !errors.Is(r.err, kv.ErrCompacted) {
		t.Fatalf("a watcher ahead of the restored revision got %+v", r)
	}
	if err := <-waits; !errors.Is(err, kv.ErrFutureRevision) {
		t.Fatalf("a wait got %v", err)
	}
}

// TestRestoreBackBeyondWindow: a watcher at the restored revision continues, although that revision had left the window before.
func TestRestoreBackBeyondWindow(t *testing.T) {
	l, do := local(t, Options{HistoryEvents: 2})
	do(put("/a/a/a/1", 1))
	old := snapshotBytes(t, l.Store)
	w := mustWatch(t, l.Store, "/a/a/a/", 1)
	for range 10 {
		do(put("/a/a/a/1", 1))
	}
	if err := l.Restore(bytes.NewReader(old)); err != nil {
		t.Fatal(err)
	}
	do(put("/a/a/a/2", 1))
	if got, p := drain(t, w); len(got) != 1 || got[0].key != "/a/a/a/2" || p != 2 {
		t.Fatalf("got %v, progress %d", got, p)
	}
}

func waitersIn(t *testing.T, q *waitQueue, n int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
		q.mu.Lock()
		got := len(q.waiters)
		q.mu.Unlock()
		if got == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d wait, want %d", got, n)
		}
	}
}

func TestWait(t *testing.T) {
	l, do := local(t, Options{})
	const n = 200
	done := make(chan error, n)
	for i := range n {
		go func() {
			target := uint64(1 + i%50)
			err := l.WaitIndex(context.Background(), target)
			if got := l.View().Revision(); err == nil && got < target {
				err = fmt.Errorf("waited for %d, the view is at %d", target, got)
			}
			done <- err
		}()
	}
	waitersIn(t, &l.indexes, n)
	ctx, cancel := context.WithCancel(context.Background())
	canceled := make(chan error)
	go func() { canceled <- l.WaitIndex(ctx, 1000) }()
	waitersIn(t, &l.indexes, n+1)
	cancel()
	if err := <-canceled; err != context.Canceled {
		t.Fatal(err)
	}
	waitersIn(t, &l.indexes, n)
	for range 50 {
		do(put("/k", 1))
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if err := l.WaitIndex(ended, l.AppliedIndex()); err != nil {
		t.Fatalf("what is there needs no waiting: %v", err)
	}
}
