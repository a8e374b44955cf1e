package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/internal/failpoint"
	"github.com/kontiki/kontiki/test/robustness/faultfs"
)

// copyDir copies files and directories.
func copyDir(t testing.TB, from string) (to string) {
	to = t.TempDir()
	check(t, os.CopyFS(to, os.DirFS(from)))
	return to
}

func putFile(t testing.TB, from, to, name string) {
	data, err := os.ReadFile(filepath.Join(from, name))
	check(t, err)
	check(t, os.WriteFile(filepath.Join(to, name), data, 0o600))
}

// A file that a disk lost the last commits of looks well in itself.
func TestALostTailIsFound(t *testing.T) {
	for what, more := range map[string]func(s *Store){
		"entries":           func(s *Store) { check(t, s.StoreLogs(entries(11, 12, 1))) },
		"entries replaced":  func(s *Store) { check(t, s.DeleteRange(9, 10)); check(t, s.StoreLogs(entries(9, 10, 2))) },
		"a vote":            func(s *Store) { check(t, s.Set([]byte("LastVoteCand"), []byte("b"))) },
		"a vote like it":    func(s *Store) { check(t, s.Set([]byte("LastVoteCand"), []byte("a"))) },
		"the only entries":  func(s *Store) { check(t, s.DeleteRange(1, 10)); check(t, s.StoreLogs(entries(11, 12, 2))) },
		"entries, then cut": func(s *Store) { check(t, s.StoreLogs(entries(11, 12, 1))); check(t, s.DeleteRange(1, 5)) },
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			s := mustOpen(t, dir)
			check(t, s.StoreLogs(entries(1, 10, 1)))
			check(t, s.Set([]byte("LastVoteCand"), []byte("a")))
			check(t, s.Close())
			old := copyDir(t, dir)
			s = mustOpen(t, dir)
			more(s)
			check(t, s.Close())
			putFile(t, old, dir, logFile)
			_, err := Open(dir, Options{Log: quiet})
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "was stored") {
				t.Errorf("the log of before was opened: %v", err)
			}
			putFile(t, old, dir, watermarkName)
			check(t, mustOpen(t, dir).Close()) // nothing was changed
		})
	}
}

// The watermark follows while the log is open: a crash does not let a tail that was lost go unnoticed.
func TestTheWatermarkFollowsTheLog(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	says := func() watermark {
		w, err := openWatermark(dir, true)
		check(t, err)
		check(t, w.file.Close())
		return w.says
	}
	follows := func() {
		t.Helper()
		eventually(t, "the watermark to follow", func() bool {
			return says() == watermark{last: s.held.last, term: s.held.term, sum: s.held.sum, writes: s.writes}
		})
	}
	check(t, s.StoreLogs(entries(1, 10, 1)))
	follows()
	check(t, s.Set([]byte("LastVoteCand"), []byte("a")))
	follows()
	check(t, s.DeleteRange(6, 10))
	check(t, s.StoreLogs(entries(6, 6, 2)))
	follows()
	if last := says().last; last != 6 {
		t.Errorf("the watermark is of entry %d", last)
	}
}

// A snapshot that has what the log lost makes up for it.
func TestASnapshotMakesUpForALostTail(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	check(t, s.StoreLogs(entries(1, 10, 1)))
	check(t, s.Close())
	old := copyDir(t, dir)
	s = mustOpen(t, dir)
	check(t, s.StoreLogs(entries(11, 20, 1)))
	check(t, s.Close())
	writeSnapshot(t, dir, 20, 1)
	putFile(t, old, dir, logFile)
	s = mustOpen(t, dir)
	check(t, s.StoreLogs(entries(21, 22, 2)))
	check(t, s.Close())
	if first, _ := mustOpen(t, dir).FirstIndex(); first != 21 {
		t.Errorf("the log begins at %d", first)
	}
}

// The file itself: missing, it is damage; one record that is torn is made up for by the other one.
func TestTheWatermarksOwnFile(t *testing.T) {
	dir := t.TempDir()
	want := small(t, dir)
	path := filepath.Join(dir, watermarkName)
	good, err := os.ReadFile(path)
	check(t, err)
	for slot := range 2 {
		for at := range watermarkSize {
			bad := append([]byte(nil), good...)
			bad[slot*watermarkSlot+at] ^= 1
			check(t, os.WriteFile(path, bad, 0o600))
			if damaged, err := intact(t, dir, want); damaged || err != nil {
				t.Fatalf("byte %d of record %d: damaged: %v, %v", at, slot, damaged, err)
			}
		}
	}
	for what, change := range map[string]func() error{
		"missing":             func() error { return os.Remove(path) },
		"empty":               func() error { return os.WriteFile(path, nil, 0o600) },
		"zeroed":              func() error { return os.WriteFile(path, make([]byte, len(good)), 0o600) },
		"cut":                 func() error { return os.WriteFile(path, good[:watermarkSize-1], 0o600) },
		"in each other's way": func() error { return os.WriteFile(path, append(good[watermarkSlot:], good[:watermarkSlot]...), 0o600) },
	} {
		check(t, change())
		if damaged, err := intact(t, dir, want); !damaged || err != nil {
			t.Errorf("%s: damaged: %v, %v", what, damaged, err)
		}
		check(t, os.WriteFile(path, good, 0o600))
	}
	check(t, os.Remove(filepath.Join(dir, logFile)))
	if _, err := Open(dir, Options{Log: quiet}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), logFile) {
		t.Errorf("the log is gone, its watermark is there: %v", err)
	}
}

// A crash at any point of an operation leaves what was before it or what is after it, and is never taken for damage.
func TestACrashAtAnyPoint(t *testing.T) {
	big := func(from, to, term uint64) []*raft.Log {
		logs := entries(from, to, term)
		for _, l := range logs {
			l.Data = append(l.Data, make([]byte, 3000)...)
		}
		return logs
	}
	// The entries of two terms, as a follower gets them whose end is of a leader that had not heard of the older of them.
	older := func(from, to uint64) []*raft.Log { return entries(from, to, 3) }
	steps := []struct {
		name  string
		waits bool // nothing happens before the next step
		do    func(s *Store) error
	}{
		{"entries", false, func(s *Store) error { return s.StoreLogs(big(1, 30, 1)) }},
		{"a term", false, func(s *Store) error { return s.SetUint64([]byte("CurrentTerm"), 5) }},
		{"an end cut", true, func(s *Store) error { return s.DeleteRange(21, 30) }},
		{"an end replaced by less", false, func(s *Store) error { return s.StoreLogs(big(21, 23, 5)) }},
		{"an end cut again", true, func(s *Store) error { return s.DeleteRange(20, 23) }},
		{"an end replaced by entries of an older term", false, func(s *Store) error { return s.StoreLogs(older(20, 21)) }},
		{"more entries", false, func(s *Store) error { return s.StoreLogs(big(22, 40, 6)) }},
		{"an end cut, for more than that", true, func(s *Store) error { return s.DeleteRange(39, 40) }},
		{"an end replaced by more", false, func(s *Store) error { return s.StoreLogs(big(39, 60, 7)) }},
		{"a vote", false, func(s *Store) error { return s.Set([]byte("LastVoteCand"), []byte("master-3")) }},
		{"an end replaced without a cut before", false, func(s *Store) error { return s.StoreLogs(big(50, 51, 8)) }},
		{"the first entries deleted", false, func(s *Store) error { return s.DeleteRange(1, 30) }},
		{"all entries deleted", false, func(s *Store) error { return s.DeleteRange(31, 51) }},
		{"entries after an install", false, func(s *Store) error { return s.StoreLogs(big(91, 95, 9)) }},
		{"entries after another install", false, func(s *Store) error { return s.StoreLogs(big(101, 105, 9)) }},
	}
	live := t.TempDir()
	s := mustOpen(t, live)
	state := func(s *Store) string {
		first, _ := s.FirstIndex()
		last, _ := s.LastIndex()
		text := fmt.Sprintf("entries %d to %d, in terms", first, last)
		for index := first; index <= last && index != 0; index++ {
			var l raft.Log
			check(t, s.GetLog(index, &l))
			text += fmt.Sprintf(" %d", l.Term)
			if want := fmt.Sprintf("entry %d of term %d", index, l.Term); strings.TrimRight(string(l.Data), "\x00") != want {
				t.Fatalf("entry %d holds %q", index, l.Data)
			}
		}
		term, _ := s.GetUint64([]byte("CurrentTerm"))
		vote, _ := s.Get([]byte("LastVoteCand"))
		return text + fmt.Sprintf(", term %d, vote %s", term, vote)
	}
	var mu sync.Mutex
	var crashes []string
	recording := false
	for _, point := range []string{"storage.commit.before", "storage.commit.after", "storage.watermark.before", "storage.watermark.after"} {
		defer failpoint.Arm(point, func() {
			mu.Lock()
			defer mu.Unlock()
			if recording {
				crashes = append(crashes, copyDir(t, live))
			}
		})()
	}
	record := func(on bool) (recorded []string) {
		mu.Lock()
		defer mu.Unlock()
		recording, recorded, crashes = on, crashes, nil
		return recorded
	}
	opened := 0
	before := state(s)
	for _, step := range steps {
		if strings.Contains(step.name, "install") {
			writeSnapshot(t, live, 90, 9)
			writeSnapshot(t, live, 100, 9)
		} else if strings.Contains(step.name, "deleted") {
			writeSnapshot(t, live, 51, 8)
		}
		record(true)
		check(t, step.do(s))
		crashed := record(false)
		after := state(s)
		if step.waits {
			after = before
		}
		between := after
		if strings.Contains(step.name, "install") { // what a snapshot has goes first
			between = "entries 0 to 0" + after[strings.Index(after, ", in terms"):]
			between = between[:strings.Index(between, "terms")+5] + after[strings.Index(after, ", term "):]
		}
		for i, dir := range crashed {
			s := mustOpen(t, dir)
			opened++
			got := state(s)
			if got != before && got != after && got != between {
				t.Fatalf("%s, point %d of %d: it has\n%s\nbefore it was\n%s\nafter it\n%s", step.name, i, len(crashed), got, before, after)
			}
			last, _ := s.LastIndex()
			next := max(last, s.newest) + 1
			check(t, s.StoreLogs(entries(next, next+3, 99))) // and it goes on
			check(t, s.Close())
			check(t, mustOpen(t, dir).Close())
		}
		before = after
	}
	if opened < 40 {
		t.Errorf("only %d crashes were tried", opened)
	}
}

// What is left of a replaced end may find no room to be deleted: the new end counts all the same, also after a crash.
func TestWhatIsLeftOfAReplacedEndWaitsForRoom(t *testing.T) {
	disk := faultfs.Start(t)
	dir := filepath.Join(disk.Dir, "raft")
	s := mustOpen(t, dir)
	check(t, s.StoreLogs(entries(1, 40, 1)))
	commits := 0
	full := failpoint.Arm("storage.commit.before", func() {
		if commits++; commits == 2 { // the first one stores
			disk.Fail(faultfs.Write, syscall.ENOSPC)
		}
	})
	again := failpoint.Arm("storage.commit.after", func() { disk.Fail(faultfs.Write, 0) })
	check(t, s.DeleteRange(11, 40))
	check(t, s.StoreLogs(entries(11, 12, 2)))
	full()
	again()
	want := map[uint64]*raft.Log{}
	for _, l := range append(entries(1, 10, 1), entries(11, 12, 2)...) {
		want[l.Index] = l
	}
	check(t, same(s, want))
	if s.stored != 40 {
		t.Fatalf("the end is in the file up to %d: nothing waits", s.stored)
	}
	s.mark.flush()
	crashed := mustOpen(t, copyDir(t, dir))
	check(t, same(crashed, want))
	for _, l := range entries(13, 20, 2) {
		want[l.Index] = l
	}
	for _, s := range []*Store{s, crashed} {
		check(t, s.StoreLogs(entries(13, 20, 2)))
		check(t, same(s, want))
		check(t, s.Close())
		s = mustOpen(t, s.dir)
		check(t, same(s, want))
	}
}

// A crash while log and watermark are made is no damage.
func TestACrashWhileTheLogIsMade(t *testing.T) {
	for _, point := range []string{"storage.create.watermark", "storage.create.written"} {
		live, crashed := t.TempDir(), ""
		disarm := failpoint.Arm(point, func() { crashed = copyDir(t, live) })
		mustOpen(t, live)
		disarm()
		if _, err := os.Stat(filepath.Join(crashed, logFile)); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("%s: the log is there: %v", point, err)
		}
		s := mustOpen(t, crashed)
		check(t, s.StoreLogs(entries(1, 3, 1)))
	}
}
