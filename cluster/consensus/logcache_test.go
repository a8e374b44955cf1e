package consensus

import (
	"testing"

	"github.com/hashicorp/raft"
)

// countingLog counts the entries that are read from the disk.
type countingLog struct {
	raft.LogStore
	reads int
}

func (c *countingLog) GetLog(index uint64, log *raft.Log) error {
	c.reads++
	return c.LogStore.GetLog(index, log)
}

func TestTheLogCacheAges(t *testing.T) {
	const rounds = 3
	disk := &countingLog{LogStore: raft.NewInmemStore()}
	cache, err := newAgingCache(16, disk)
	if err != nil {
		t.Fatal(err)
	}
	store := func(index uint64) {
		t.Helper()
		if err := cache.StoreLogs([]*raft.Log{{Index: index, Data: []byte{byte(index)}}}); err != nil {
			t.Fatal(err)
		}
	}
	read := func(index uint64, reads int) {
		t.Helper()
		var log raft.Log
		if err := cache.GetLog(index, &log); err != nil || log.Data[0] != byte(index) {
			t.Fatalf("entry %d: %v, %v", index, log.Data, err)
		}
		if disk.reads != reads {
			t.Errorf("entry %d: %d reads of the disk, want %d", index, disk.reads, reads)
		}
	}
	store(1)
	for range rounds - 1 {
		if entries, err := cache.age(rounds); entries != 0 || err != nil {
			t.Fatal(entries, err)
		}
		read(1, 0)
	}
	if entries, err := cache.age(rounds); entries != 1 || err != nil {
		t.Fatal(entries, err)
	}
	store(2)
	read(2, 0)
	read(1, 1)
	if err := cache.DeleteRange(2, 2); err != nil {
		t.Fatal(err)
	}
	if err := cache.GetLog(2, &raft.Log{}); err == nil {
		t.Error("a deleted entry is still there")
	}
}
