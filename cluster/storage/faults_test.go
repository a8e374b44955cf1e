package storage

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/test/robustness/faultfs"
)

func TestMain(m *testing.M) {
	faultfs.ServeIfAsked()
	os.Exit(m.Run())
}

// eventually polls: the states of the files under test wake nobody.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s", what)
		}
	}
}

// fillUp leaves a disk without a free byte.
func fillUp(t *testing.T, disk *faultfs.Disk) {
	t.Helper()
	var fs syscall.Statfs_t
	check(t, syscall.Statfs(disk.Dir, &fs))
	disk.Capacity(int64(fs.Blocks-fs.Bfree) * fs.Bsize)
}

// A full disk refuses entries and waits with votes; the reserve makes room for the first, and nothing is lost or half done.
func TestAFullDiskRefusesEntriesAndWaitsWithVotes(t *testing.T) {
	disk := faultfs.Start(t)
	dir := filepath.Join(disk.Dir, "raft")
	s, err := Open(dir, Options{Keep: 2, Reserve: 1 << 20, Log: quiet, Failed: func(err error) { t.Errorf("the disk failed: %v", err) }})
	check(t, err)
	defer s.Close()
	want := map[uint64]*raft.Log{}
	store := func(logs ...*raft.Log) error {
		err := s.StoreLogs(logs)
		if err == nil {
			for _, l := range logs {
				want[l.Index] = l
			}
		}
		return err
	}
	check(t, store(entries(1, 10, 1)...))
	fillUp(t, disk)
	big := string(bytes.Repeat([]byte("x"), 100<<10))
	next, stored := uint64(11), 0
	for ; ; next++ {
		if err := store(entry(next, 1, big)); err != nil {
			if !errors.Is(err, ErrFull) {
				t.Fatal(err)
			}
			break
		}
		stored++
	}
	if stored < 5 {
		t.Errorf("the reserve made room for %d entries of 100 KiB", stored)
	}
	if h := s.Health(); !h.Full || h.Fulls != 1 {
		t.Errorf("its health is %+v", h)
	}
	check(t, same(s, want)) // what failed is not there, not even by half
	set := make(chan error, 1)
	go func() { set <- s.Set([]byte("LastVoteCand"), bytes.Repeat([]byte("y"), 2<<20)) }()
	eventually(t, "the vote to try again", func() bool { return disk.Counts()["no space"] > 3 })
	select {
	case err := <-set:
		t.Fatalf("a vote on a full disk: %v", err)
	default:
	}
	disk.Capacity(0)
	check(t, <-set)
	eventually(t, "the disk to have room", func() bool { return !s.Health().Full })
	check(t, store(entry(next, 1, big)))
	if _, err := os.Stat(filepath.Join(dir, reserveFile)); err != nil {
		t.Errorf("the reserve is not taken again: %v", err)
	}
	check(t, s.Close())
	s = mustOpen(t, dir)
	check(t, same(s, want))
}

// An end that was to be replaced by entries that found no room is still there.
func TestAnEndThatCouldNotBeReplacedStays(t *testing.T) {
	disk := faultfs.Start(t)
	s := mustOpen(t, disk.Dir)
	want := map[uint64]*raft.Log{}
	for _, l := range entries(1, 10, 1) {
		want[l.Index] = l
	}
	check(t, s.StoreLogs(entries(1, 10, 1)))
	fillUp(t, disk)
	check(t, s.DeleteRange(6, 10))
	if err := s.StoreLog(entry(6, 2, string(make([]byte, 1<<20)))); !errors.Is(err, ErrFull) {
		t.Fatalf("stored on a full disk: %v", err)
	}
	check(t, same(s, want))
	disk.Capacity(0)
	check(t, s.DeleteRange(6, 10))
	check(t, s.StoreLog(entry(6, 2, "now")))
	if last, _ := s.LastIndex(); last != 6 {
		t.Errorf("the log ends at %d", last)
	}
}

// A disk that answers an error is given up at once: after a failed sync nobody knows what is on it. Raft gets no answer that it
// would panic on.
func TestAnErrorOfTheDiskIsFinal(t *testing.T) {
	disk := faultfs.Start(t)
	failed := make(chan error, 2)
	s, err := Open(disk.Dir, Options{Keep: 2, Log: quiet, Failed: func(err error) { failed <- err }})
	check(t, err)
	s.Guard()
	disk.Fail(faultfs.Sync, syscall.EIO)
	if err := s.StoreLogs(entries(1, 3, 1)); !errors.Is(err, syscall.EIO) {
		t.Errorf("stored: %v", err)
	}
	if err := <-failed; !errors.Is(err, syscall.EIO) {
		t.Errorf("the owner was told %v", err)
	}
	ended := make(chan bool, 1)
	go func() {
		answered := false
		defer func() { ended <- answered }()
		_ = s.Set([]byte("CurrentTerm"), []byte("x"))
		answered = true
	}()
	select {
	case <-ended:
		t.Fatal("raft got an answer")
	case <-time.After(50 * time.Millisecond): // there is no event that would not come
	}
	check(t, s.Close())
	if <-ended {
		t.Error("raft got an answer when the store was closed")
	}
}

// A call that a signal interrupts is repeated: it is no error of the disk.
func TestAnInterruptedSyncIsRepeated(t *testing.T) {
	disk := faultfs.Start(t)
	s, err := Open(disk.Dir, Options{Keep: 2, Log: quiet, Failed: func(err error) { t.Errorf("the disk failed: %v", err) }})
	check(t, err)
	defer s.Close()
	want := map[uint64]*raft.Log{}
	for i := range uint64(5) {
		before := disk.Counts()["sync failed with interrupted system call"]
		disk.Fail(faultfs.Sync, syscall.EINTR)
		logs := entries(3*i+1, 3*i+3, 1)
		done := make(chan error, 1)
		go func() { done <- s.StoreLogs(logs) }()
		eventually(t, "the interrupted sync to be repeated", func() bool {
			return disk.Counts()["sync failed with interrupted system call"] > before+2
		})
		disk.Fail(faultfs.Sync, 0)
		check(t, <-done)
		for _, l := range logs {
			want[l.Index] = l
		}
		check(t, same(s, want))
	}
	check(t, s.Set([]byte("CurrentTerm"), []byte("x")))
}

// An entry that rots while the file is open is found when it is read.
func TestAnEntryThatRotsWhileRunningIsFound(t *testing.T) {
	dir := t.TempDir()
	failed := make(chan error, 1)
	s, err := Open(dir, Options{Keep: 2, Log: quiet, Failed: func(err error) { failed <- err }})
	check(t, err)
	defer s.Close()
	check(t, s.StoreLogs(entries(1, 5, 1)))
	path := filepath.Join(dir, logFile)
	data, err := os.ReadFile(path)
	check(t, err)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	check(t, err)
	text := []byte("entry 3 of term 1")
	for at := 0; bytes.Contains(data[at:], text); {
		at += bytes.Index(data[at:], text) + len(text)
		_, err := f.WriteAt([]byte("4"), int64(at-1))
		check(t, err)
	}
	check(t, f.Close())
	check(t, s.GetLog(2, new(raft.Log)))
	if err := s.GetLog(3, new(raft.Log)); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "raft index 3") {
		t.Errorf("it was read: %v", err)
	}
	if err := <-failed; !errors.Is(err, ErrDamaged) {
		t.Errorf("the owner was told %v", err)
	}
}

func TestAStallIsNoticed(t *testing.T) {
	disk := faultfs.Start(t)
	changed := make(chan struct{}, 8)
	s, err := Open(disk.Dir, Options{Keep: 2, Log: quiet, Stall: 20 * time.Millisecond, Changed: func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}})
	check(t, err)
	defer s.Close()
	disk.Stall(faultfs.Sync)
	done := make(chan error, 1)
	go func() { done <- s.StoreLogs(entries(1, 1, 1)) }()
	<-changed
	if h := s.Health(); !h.Stalled || h.Stalls != 1 {
		t.Errorf("its health is %+v", h)
	}
	disk.Resume(faultfs.Sync)
	check(t, <-done)
	<-changed
	if h := s.Health(); h.Stalled || h.Stalls != 1 {
		t.Errorf("its health is %+v", h)
	}
}

// The power goes while one commit follows another; what was acknowledged is there, and what is left is no damage.
func TestPowerLossInTheMiddleOfCommits(t *testing.T) {
	disk := faultfs.Start(t)
	dir := filepath.Join(disk.Dir, "raft")
	want := map[uint64]*raft.Log{}
	acknowledged := uint64(0)
	var term uint64
	for seed := range uint64(40) {
		s, err := Open(dir, Options{Keep: 2, Log: quiet})
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		last, _ := s.LastIndex()
		if last < acknowledged {
			t.Fatalf("seed %d: the log ends at %d, %d was acknowledged", seed, last, acknowledged)
		}
		if got, err := s.GetUint64([]byte("CurrentTerm")); term > 0 && (err != nil || got < term) {
			t.Fatalf("seed %d: the term is %d, %d was acknowledged (%v)", seed, got, term, err)
		}
		for index := uint64(1); index <= last; index++ {
			var l raft.Log
			check(t, s.GetLog(index, &l))
			if w := want[index]; w == nil || !bytes.Equal(l.Data, w.Data) {
				t.Fatalf("seed %d: entry %d is %q", seed, index, l.Data)
			}
		}
		acknowledged = last
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				logs := entries(acknowledged+1, acknowledged+1+seed%7, seed+1)
				for _, l := range logs {
					want[l.Index] = l
				}
				if s.StoreLogs(logs) != nil {
					return
				}
				acknowledged = logs[len(logs)-1].Index
				if s.SetUint64([]byte("CurrentTerm"), term+1) != nil {
					return
				}
				term++
			}
		}()
		before := disk.Counts()["sync"]
		eventually(t, "some syncs", func() bool { return disk.Counts()["sync"] > before+int64(3+seed%5) })
		disk.PowerLoss(seed)
		<-stopped
		_ = s.Close()
		disk.PowerOn()
	}
	if counts := disk.Counts(); counts["pages lost"] == 0 || counts["pages torn"] == 0 {
		t.Errorf("nothing was lost: %v", counts)
	}
}
