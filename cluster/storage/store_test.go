package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func mustOpen(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{Keep: 2, Log: quiet, Failed: func(err error) { t.Errorf("the disk failed: %v", err) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func entry(index, term uint64, data string) *raft.Log {
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: []byte(data), AppendedAt: time.Unix(1700000000, int64(index))}
}

func entries(from, to, term uint64) (logs []*raft.Log) {
	for i := from; i <= to; i++ {
		logs = append(logs, entry(i, term, fmt.Sprintf("entry %d of term %d", i, term)))
	}
	return logs
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// same compares what a store holds with what it should hold.
func same(s *Store, want map[uint64]*raft.Log) error {
	first, last := uint64(0), uint64(0)
	for index := range want {
		if first == 0 || index < first {
			first = index
		}
		last = max(last, index)
	}
	gotFirst, _ := s.FirstIndex()
	gotLast, _ := s.LastIndex()
	if gotFirst != first || gotLast != last {
		return fmt.Errorf("it holds %d to %d, and should hold %d to %d", gotFirst, gotLast, first, last)
	}
	for index, l := range want {
		var got raft.Log
		if err := s.GetLog(index, &got); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if got.Index != l.Index || got.Term != l.Term || got.Type != l.Type || !bytes.Equal(got.Data, l.Data) ||
			!bytes.Equal(got.Extensions, l.Extensions) || !got.AppendedAt.Equal(l.AppendedAt) {
			return fmt.Errorf("entry %d is %+v, stored was %+v", index, got, *l)
		}
	}
	for _, index := range []uint64{first - 1, last + 1} {
		if err := s.GetLog(index, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
			return fmt.Errorf("entry %d beyond the log: %w", index, err)
		}
	}
	return nil
}

// The store beside a map, under the operations that raft does, closed and opened again in between.
func TestTheLogIsWhatWasStored(t *testing.T) {
	for seed := range uint64(4) {
		r := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		s := mustOpen(t, dir)
		model := map[uint64]*raft.Log{}
		var first, last, term uint64
		put := func(logs ...*raft.Log) {
			check(t, s.StoreLogs(logs))
			for _, l := range logs {
				model[l.Index] = l
				last = max(last, l.Index)
			}
			if first == 0 {
				first = logs[0].Index
			}
		}
		for step := range 120 {
			term += uint64(r.IntN(2))
			switch op := r.IntN(10); {
			case op < 5:
				logs := entries(last+1, last+1+uint64(r.IntN(40)), term)
				logs[0].Extensions = []byte("more")
				logs[0].Data = bytes.Repeat([]byte{byte(step)}, r.IntN(9000))
				put(logs...)
			case op == 5 && last > first+2: // a follower's end is replaced by another leader's entries
				from := first + 1 + uint64(r.IntN(int(last-first)))
				check(t, s.DeleteRange(from, last))
				for i := from; i <= last; i++ {
					delete(model, i)
				}
				last = from - 1
				term++
				put(entries(from, from+uint64(r.IntN(4)), term)...)
			case op == 6 && last > first: // compaction
				to := first + uint64(r.IntN(int(last-first)))
				check(t, s.DeleteRange(first, to))
				for i := first; i <= to; i++ {
					delete(model, i)
				}
				first = to + 1
			case op == 7 && last > 0 && r.IntN(3) == 0: // a snapshot is installed
				check(t, s.DeleteRange(first, last))
				clear(model)
				last += uint64(r.IntN(50))
				first = 0
			case op == 8:
				check(t, s.SetUint64([]byte("CurrentTerm"), uint64(step)))
				if got, err := s.GetUint64([]byte("CurrentTerm")); err != nil || got != uint64(step) {
					t.Fatalf("the term is %d, %v", got, err)
				}
			case op == 9 && first <= 1: // one that has no snapshot must begin at 1
				check(t, s.Close())
				s = mustOpen(t, dir)
			}
			if err := same(s, model); err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
		}
	}
}

func TestAStableValueThatIsNotThereIsWhatRaftExpects(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	if _, err := s.Get([]byte("LastVoteCand")); err == nil || err.Error() != "not found" {
		t.Errorf("raft compares the text: %v", err)
	}
	if _, err := s.GetUint64([]byte("CurrentTerm")); err == nil || err.Error() != "not found" {
		t.Errorf("raft compares the text: %v", err)
	}
}

// Raft cuts its log's end and stores what replaces it in two calls. If only the first were done, raft would believe in
// entries that are gone, and a follower would refuse every entry from then on.
func TestTheEndIsCutOnlyWithWhatReplacesIt(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	check(t, s.StoreLogs(entries(1, 10, 1)))
	check(t, s.DeleteRange(6, 10))
	if err := s.GetLog(6, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("entry 6 after it was cut: %v", err)
	}
	check(t, s.Close())
	s = mustOpen(t, dir) // a crash between the two
	if last, _ := s.LastIndex(); last != 10 {
		t.Fatalf("the log ends at %d, nothing replaced its end", last)
	}
	check(t, s.DeleteRange(6, 10))
	check(t, s.StoreLogs(entries(6, 7, 2)))
	check(t, s.Close())
	s = mustOpen(t, dir)
	want := map[uint64]*raft.Log{}
	for _, l := range append(entries(1, 5, 1), entries(6, 7, 2)...) {
		want[l.Index] = l
	}
	check(t, same(s, want))
}

// Who reads an entry while it is deleted, or while another takes its place, is told that it is not there, or gets it whole.
func TestReadingBesideDeleting(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	check(t, s.StoreLogs(entries(1, 50, 1)))
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				first, _ := s.FirstIndex()
				last, _ := s.LastIndex()
				for _, index := range []uint64{first, last} {
					var l raft.Log
					if err := s.GetLog(index, &l); err != nil && !errors.Is(err, raft.ErrLogNotFound) {
						t.Errorf("entry %d: %v", index, err)
						return
					} else if err == nil && l.Index != index {
						t.Errorf("entry %d is entry %d", index, l.Index)
						return
					}
				}
			}
		})
	}
	next := uint64(51)
	for i := range uint64(200) {
		first, _ := s.FirstIndex()
		check(t, s.DeleteRange(first, first+2))
		check(t, s.StoreLogs(entries(next, next+4, 1+i)))
		check(t, s.DeleteRange(next+3, next+4))
		check(t, s.StoreLogs(entries(next+3, next+3, 2+i)))
		next += 4
	}
	close(stop)
	readers.Wait()
}

func TestASecondProcessIsToldSo(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, dir)
	if _, err := Open(dir, Options{Log: quiet}); !errors.Is(err, ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
}

// small fills a directory with a small log that has branch pages, and answers what is in it.
func small(t testing.TB, dir string) map[uint64]*raft.Log {
	s := mustOpen(t, dir)
	want := map[uint64]*raft.Log{}
	for i := uint64(1); i <= 40; i++ {
		l := entry(i, 1+i/10, string(bytes.Repeat([]byte{byte(i)}, 700)))
		if i == 20 {
			l.Data = bytes.Repeat([]byte{byte(i)}, 9000) // overflow pages
		}
		want[i] = l
		check(t, s.StoreLog(l))
	}
	check(t, s.SetUint64([]byte("CurrentTerm"), 5))
	check(t, s.Set([]byte("LastVoteCand"), []byte("master-2")))
	check(t, s.Close())
	return want
}

// intact says that a directory either is found damaged, or is in every respect what it was.
func intact(t *testing.T, dir string, want map[uint64]*raft.Log) (damaged bool, err error) {
	s, err := Open(dir, Options{Expect: true, Log: quiet})
	if err != nil {
		var d *Damage
		if !errors.As(err, &d) || !errors.Is(err, ErrDamaged) {
			return false, fmt.Errorf("the error is no damage: %w", err)
		}
		if d.File == "" || d.Reason == nil {
			return false, fmt.Errorf("it does not say what is wrong: %w", err)
		}
		return true, nil
	}
	defer s.Close()
	if err := same(s, want); err != nil {
		return false, err
	}
	if term, err := s.GetUint64([]byte("CurrentTerm")); err != nil || term != 5 {
		return false, fmt.Errorf("the term is %d, %w", term, err)
	}
	if vote, err := s.Get([]byte("LastVoteCand")); err != nil || string(vote) != "master-2" {
		return false, fmt.Errorf("the vote is %q, %w", vote, err)
	}
	return false, nil
}

func TestEveryFlippedBitOfTheLogIsFoundOrDoesNotMatter(t *testing.T) {
	dir := t.TempDir()
	want := small(t, dir)
	path := filepath.Join(dir, logFile)
	good, err := os.ReadFile(path)
	check(t, err)
	r := rand.New(rand.NewPCG(7, 7))
	found, harmless := 0, 0
	for at := 0; at < len(good); at += 1 + r.IntN(250) {
		bad := bytes.Clone(good)
		bad[at] ^= 1 << r.IntN(8)
		check(t, os.WriteFile(path, bad, 0o600))
		damaged, err := intact(t, dir, want)
		if err != nil {
			t.Fatalf("byte %d: %v", at, err)
		}
		if damaged {
			found++
		} else {
			harmless++
		}
	}
	t.Logf("%d flips were found, %d hit what nothing reads", found, harmless)
	if found < 100 || harmless == 0 {
		t.Errorf("%d flips were found, %d not: the file is not what this test thinks", found, harmless)
	}
}

func TestTornMisdirectedAndLostPagesOfTheLogAreFound(t *testing.T) {
	dir := t.TempDir()
	want := small(t, dir)
	path := filepath.Join(dir, logFile)
	good, err := os.ReadFile(path)
	check(t, err)
	const page = 4096
	pages := len(good) / page
	found := 0
	try := func(what string, bad []byte) {
		t.Helper()
		check(t, os.WriteFile(path, bad, 0o600))
		damaged, err := intact(t, dir, want)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if damaged {
			found++
		}
	}
	for i := range pages {
		zeroed := bytes.Clone(good)
		clear(zeroed[i*page : (i+1)*page])
		try(fmt.Sprintf("page %d zeroed", i), zeroed)
		torn := bytes.Clone(good)
		clear(torn[i*page+512 : (i+1)*page])
		try(fmt.Sprintf("page %d torn", i), torn)
		for j := range pages {
			if i == j {
				continue
			}
			moved := bytes.Clone(good)
			copy(moved[i*page:(i+1)*page], good[j*page:(j+1)*page])
			try(fmt.Sprintf("page %d overwritten by page %d", i, j), moved)
			// With its own number, as an older version of the page would have it.
			if i >= 2 && j >= 2 {
				binary.NativeEndian.PutUint64(moved[i*page:], uint64(i))
				try(fmt.Sprintf("page %d stale as page %d", i, j), moved)
			}
		}
	}
	for size := 0; size < len(good); size += page / 2 {
		try(fmt.Sprintf("cut to %d bytes", size), good[:size])
	}
	t.Logf("%d found", found)
	if found < pages {
		t.Errorf("only %d of the damages were found", found)
	}
}

func TestADamageNamesFileOffsetAndIndex(t *testing.T) {
	dir := t.TempDir()
	small(t, dir)
	path := filepath.Join(dir, logFile)
	data, err := os.ReadFile(path)
	check(t, err)
	at := bytes.LastIndex(data, bytes.Repeat([]byte{33}, 700))
	data[at+100] ^= 4
	check(t, os.WriteFile(path, data, 0o600))
	_, err = Open(dir, Options{Log: quiet})
	var d *Damage
	if !errors.As(err, &d) || d.File != path || d.Index != 33 || d.Offset <= 0 || d.Offset > int64(at) || !errors.Is(err, errChecksum) {
		t.Errorf("the damage is %+v", err)
	}
}

func TestALogThatShouldBeThereAndIsNotIsDamage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	if _, err := Open(dir, Options{Expect: true, Log: quiet}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a lost directory: %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open made a directory: %v", err)
	}
	check(t, mustOpen(t, dir).Close()) // a new one
	check(t, os.Remove(filepath.Join(dir, logFile)))
	if _, err := Open(dir, Options{Expect: true, Log: quiet}); !errors.Is(err, ErrDamaged) {
		t.Errorf("a lost file: %v", err)
	}
}

// A crash while a new log is made leaves nothing that would be taken for one.
func TestALogThatWasNotFinishedIsMadeAgain(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, newLogFile), []byte("half a page"), 0o600))
	s := mustOpen(t, dir)
	check(t, s.StoreLogs(entries(1, 3, 1)))
}

func TestRecentMax(t *testing.T) {
	var r recentMax
	at := time.Unix(6000, 0)
	r.note(at, 5*time.Second)
	r.note(at.Add(time.Second), time.Second)
	if got := r.get(at); got != 5*time.Second {
		t.Errorf("at once: %s", got)
	}
	r.note(at.Add(time.Minute), 2*time.Second)
	if got := r.get(at.Add(time.Minute)); got != 5*time.Second {
		t.Errorf("a minute later: %s", got)
	}
	if got := r.get(at.Add(2 * time.Minute)); got != 2*time.Second {
		t.Errorf("two minutes later: %s", got)
	}
	if got := r.get(at.Add(10 * time.Minute)); got != 0 {
		t.Errorf("long after: %s", got)
	}
}
