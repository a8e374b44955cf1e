package storage

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/test/robustness/faultfs"
)

func TestRoomIsLookedForBeforeACommitIsTried(t *testing.T) {
	now, free, known := time.Unix(1000, 0), int64(100), true
	r := newRoom(func() (int64, bool) { return free, known })
	r.now = func() time.Time { return now }
	tried := 0
	try := func(answer error) error {
		return r.try(func() error { tried++; return answer })
	}
	expect := func(what string, want int) {
		t.Helper()
		if err := try(ErrFull); !errors.Is(err, ErrFull) {
			t.Errorf("%s: %v", what, err)
		}
		if tried != want {
			t.Fatalf("%s: %d commits were tried, want %d", what, tried, want)
		}
	}
	expect("at first", 1)
	expect("at once after a failure", 1)
	now = now.Add(roomPause - 1)
	expect("within the pause", 1)
	free = 99
	expect("with less room", 1)
	free = 101
	expect("with more room", 2)
	now = now.Add(roomPause)
	expect("within the next pause, which is longer", 2)
	now = now.Add(roomPause)
	expect("after it", 3)
	r.made()
	expect("once pages of the file are free", 4)
	known = false
	expect("where nobody knows", 5)
	known = true
	for range 20 {
		now = now.Add(maxRoomPause)
		_ = try(ErrFull)
	}
	if tried != 25 {
		t.Errorf("%d commits were tried: a pause grew beyond its bound", tried)
	}
	now = now.Add(maxRoomPause)
	other := errors.New("other")
	if err := try(other); !errors.Is(err, other) {
		t.Errorf("the error of a commit became %v", err)
	}
	if err := try(nil); err != nil || r.none {
		t.Errorf("after a commit that found room: %v, none is left: %v", err, r.none)
	}
}

// While a disk is full and stays so, what raft and votes want stored does not reach bbolt, which would look through its whole file
// each time.
func TestAFullDiskIsLeftAlone(t *testing.T) {
	disk := faultfs.Start(t)
	s := mustOpen(t, disk.Dir)
	now := time.Unix(1000, 0)
	s.entryRoom.now = func() time.Time { return now } // it stands still
	check(t, s.StoreLogs(entries(1, 3, 1)))
	fillUp(t, disk)
	big := entry(4, 1, string(make([]byte, 1<<20)))
	if err := s.StoreLog(big); !errors.Is(err, ErrFull) {
		t.Fatalf("stored on a full disk: %v", err)
	}
	s.mark.flush() // it is not what is counted
	before := disk.Counts()
	for range 100 {
		if err := s.StoreLog(big); !errors.Is(err, ErrFull) {
			t.Fatalf("stored on a full disk: %v", err)
		}
	}
	after := disk.Counts()
	for _, op := range []string{"no space", faultfs.Write, faultfs.Sync, faultfs.Read} {
		if after[op] != before[op] {
			t.Errorf("%d operations %q for what was refused", after[op]-before[op], op)
		}
	}
	disk.Capacity(0)
	check(t, s.StoreLog(big))
}

// settle is what says whether a commit whose last sync failed for lack of room happened.
func TestAFailedCommitIsSettled(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	settle := func(want bool) {
		t.Helper()
		if happened, err := s.settle(); err != nil || happened != want {
			t.Errorf("it happened: %v, %v", happened, err)
		}
	}
	settle(false)
	check(t, s.bolt.Set([]byte("x"), sealValue([]byte("x"), nil, 1))) // a commit that nobody counted
	settle(true)
	settle(false)
	check(t, s.bolt.Set([]byte("x"), sealValue([]byte("x"), nil, 1)))
	check(t, s.bolt.Set([]byte("x"), sealValue([]byte("x"), nil, 1)))
	if _, err := s.settle(); !errors.Is(err, ErrDamaged) {
		t.Errorf("two commits that nobody knows of: %v", err)
	}
}

// Commits that find no room, again and again and in every place, do not let bbolt take pages for free that are not: the store goes
// on with the file as it is.
func TestCommitsThatFindNoRoomChangeNothing(t *testing.T) {
	full := 0
	for seed := range uint64(8) {
		disk := faultfs.Start(t)
		dir := filepath.Join(disk.Dir, "raft")
		s := mustOpen(t, dir)
		r := rand.New(rand.NewPCG(seed, 3))
		want := map[uint64]*raft.Log{}
		first, last, term, vote := uint64(1), uint64(0), uint64(1), ""
		for step := range 250 {
			s.entryRoom.made() // what is under test is bbolt
			switch r.IntN(10) {
			case 0:
				disk.Capacity(0)
			case 1, 2, 3:
				fillUp(t, disk)
			case 4:
				text := string(bytes.Repeat([]byte("v"), r.IntN(20000)))
				s.valueRoom.made()
				if err := s.setOnce([]byte("LastVoteCand"), []byte(text)); err == nil {
					vote = text
				} else if !errors.Is(err, ErrFull) {
					t.Fatal(err)
				}
			case 5:
				if first+10 < last {
					to := first + r.Uint64N(last-first)
					if err := s.DeleteRange(first, to); err != nil && !errors.Is(err, ErrFull) {
						t.Fatal(err)
					}
					now, _ := s.FirstIndex()
					for ; first < now; first++ {
						delete(want, first)
					}
				}
			default:
				from := last + 1
				if r.IntN(3) == 0 && last > first+5 {
					from = last - r.Uint64N(5)
					term++
					if r.IntN(2) == 0 {
						check(t, s.DeleteRange(from, last))
					}
				}
				logs := entries(from, from+r.Uint64N(8), term)
				for _, l := range logs {
					l.Data = append(l.Data, make([]byte, r.IntN(12000))...)
				}
				err := s.StoreLogs(logs)
				if errors.Is(err, ErrFull) {
					full++
					break
				}
				check(t, err)
				for i := from; i <= last; i++ {
					delete(want, i)
				}
				for _, l := range logs {
					want[l.Index] = l
				}
				last = logs[len(logs)-1].Index
			}
			if err := same(s, want); len(want) > 0 && err != nil {
				t.Fatalf("seed %d step %d: %v", seed, step, err)
			}
			if got, err := s.Get([]byte("LastVoteCand")); vote != "" && (err != nil || string(got) != vote) {
				t.Fatalf("seed %d step %d: the vote has %d bytes instead of %d, %v", seed, step, len(got), len(vote), err)
			}
		}
		disk.Capacity(0)
		check(t, s.Close())
		file, err := lockLog(dir)
		check(t, err)
		raw, err := openBoltFile(file)
		check(t, err)
		if c, err := readContents(raw, s.mark.says); err != nil || c.log.last != last || c.log.first != first {
			t.Fatalf("seed %d: it holds %+v, %v", seed, c, err)
		}
		check(t, file.Close())
	}
	t.Logf("%d writes found no room", full)
	if full < 40 {
		t.Errorf("only %d writes found no room", full)
	}
}
