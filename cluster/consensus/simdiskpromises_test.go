package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/storage"
	"github.com/kontiki/kontiki/fsm"
)

// TestDisksKeepTheirPromises: the simulated disk and the real one behave alike.
func TestDisksKeepTheirPromises(t *testing.T) {
	t.Run("storage", func(t *testing.T) {
		dir := t.TempDir()
		open := func() Disk {
			disk, err := storage.Open(dir, storage.Options{Keep: SnapshotsKept, Stall: time.Minute, Changed: func() {}, Failed: func(err error) { t.Error(err) }, Log: testLog(t)})
			if err != nil {
				t.Fatal(err)
			}
			return disk
		}
		diskPromises(t, open(), func(disk Disk) Disk {
			if err := disk.Close(); err != nil {
				t.Fatal(err)
			}
			return open()
		})
	})
	for name, power := range map[string]bool{"simulated, killed": false, "simulated, power lost": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				diskPromises(t, newSimDisk(simPlatter{}, 1, time.Minute, func() {}), func(disk Disk) Disk {
					holds, lost := disk.(*simDisk).crash(power)
					if lost {
						t.Error("something was lost though nothing was under way")
					}
					return newSimDisk(holds, 2, time.Minute, func() {})
				})
			})
		})
	}
}

func diskPromises(t *testing.T, disk Disk, again func(Disk) Disk) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	logs := func(from, to, term uint64) (logs []*raft.Log) {
		for i := from; i <= to; i++ {
			logs = append(logs, &raft.Log{Index: i, Term: term, Type: raft.LogCommand, Data: fmt.Appendf(nil, "%d in %d", i, term)})
		}
		return logs
	}
	holds := func(what string, from, to uint64, terms map[uint64]uint64) {
		t.Helper()
		first, err := disk.FirstIndex()
		must(err)
		last, err := disk.LastIndex()
		must(err)
		if first != from || last != to {
			t.Errorf("%s: the log is %d to %d, want %d to %d", what, first, last, from, to)
		}
		for _, outside := range []uint64{from - 1, to + 1} {
			if err := disk.GetLog(outside, new(raft.Log)); !errors.Is(err, raft.ErrLogNotFound) {
				t.Errorf("%s: entry %d: %v", what, outside, err)
			}
		}
		for index, term := range terms {
			var l raft.Log
			if err := disk.GetLog(index, &l); err != nil || l.Index != index || l.Term != term || string(l.Data) != fmt.Sprintf("%d in %d", index, term) {
				t.Errorf("%s: entry %d: %+v, %v", what, index, l, err)
			}
		}
	}
	var state bytes.Buffer
	_, err := fsm.New(fsm.Options{}).Snapshot().WriteTo(&state)
	must(err)
	snapshot := func(index uint64, whole bool) {
		t.Helper()
		sink, err := disk.Snapshots().Create(1, index, 2, raft.Configuration{}, 1, raftTransport{})
		must(err)
		_, err = sink.Write(state.Bytes())
		must(err)
		if whole {
			must(sink.Close())
		} else {
			must(sink.Cancel())
		}
	}
	if _, err := disk.GetUint64([]byte("CurrentTerm")); err == nil || err.Error() != "not found" {
		t.Errorf("a stable value that is not there: %v", err)
	}
	must(disk.StoreLogs(logs(1, 20, 1)))
	must(disk.SetUint64([]byte("CurrentTerm"), 7))
	must(disk.Set([]byte("LastVoteCand"), []byte("somebody")))
	holds("stored", 1, 20, map[uint64]uint64{1: 1, 20: 1})
	must(disk.DeleteRange(15, 20))
	holds("the end cut", 1, 14, nil)
	must(disk.StoreLogs(logs(15, 17, 2)))
	snapshot(10, true)
	snapshot(11, false)
	must(disk.DeleteRange(1, 5))
	disk = again(disk)
	holds("replaced, compacted and opened again", 6, 17, map[uint64]uint64{6: 1, 14: 1, 15: 2, 17: 2})
	snapshot(39, true) // as at an install
	must(disk.StoreLogs(logs(40, 41, 3)))
	holds("a log that does not follow", 40, 41, map[uint64]uint64{40: 3, 41: 3})
	snapshot(41, true)
	must(disk.DeleteRange(40, 41))
	must(disk.StoreLogs(logs(42, 42, 3)))
	if term, err := disk.GetUint64([]byte("CurrentTerm")); err != nil || term != 7 {
		t.Errorf("the term: %d, %v", term, err)
	}
	if vote, err := disk.Get([]byte("LastVoteCand")); err != nil || string(vote) != "somebody" {
		t.Errorf("the vote: %q, %v", vote, err)
	}
	disk = again(disk)
	list, err := disk.Snapshots().List()
	must(err)
	if len(list) != 2 || list[0].Index != 41 || list[1].Index != 39 || list[0].Term != 2 {
		t.Fatalf("snapshots: %+v", list)
	}
	_, r, err := disk.Snapshots().Open(list[0].ID)
	must(err)
	if read, err := io.ReadAll(r); err != nil || !bytes.Equal(read, state.Bytes()) {
		t.Errorf("the newest snapshot holds %q, %v", read, err)
	}
	must(r.Close())
	holds("opened again", 42, 42, map[uint64]uint64{42: 3})
	must(disk.Close())
}

// raftTransport is a transport that only encodes names.
type raftTransport struct{ raft.Transport }

func (raftTransport) EncodePeer(_ raft.ServerID, address raft.ServerAddress) []byte {
	return []byte(address)
}

func TestASimulatedDiskLosesOnlyWhatWasNotSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newSimDisk(simPlatter{}, 1, time.Minute, func() {})
		if err := disk.StoreLog(&raft.Log{Index: 1, Term: 1}); err != nil {
			t.Fatal(err)
		}
		writing := disk.nextWrite()
		under := make(chan error, 1)
		go func() { under <- disk.StoreLog(&raft.Log{Index: 2, Term: 1}) }()
		<-writing
		holds, lost := disk.crash(true)
		if !lost || holds.last() != 1 {
			t.Errorf("after a loss of power in the middle of a write the log ends at %d, lost: %v", holds.last(), lost)
		}
		if err := <-under; err == nil {
			t.Error("a write was answered after its process had died")
		}
		if err := disk.StoreLog(&raft.Log{Index: 3, Term: 1}); err == nil {
			t.Error("a dead process stores")
		}
	})
}
