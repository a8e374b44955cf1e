package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/test/await"
)

// A follower that was away while the log was cut behind it is sent a snapshot, also while the log goes on being cut.
func TestAFollowerALongWayBehind(t *testing.T) {
	t.Parallel()
	m := startMasters(t, 3, compacting)
	follower := m.followers()[0]
	follower.put("/t/a/b/c", "before")
	last := follower.c.consensus.Internals().Raft.LastIndex()
	follower.kill()
	m.fill()
	var stop atomic.Bool
	var wg sync.WaitGroup
	var written atomic.Int64
	leader := m.leader()
	for w := range 4 {
		wg.Go(func() {
			for i := 0; !stop.Load(); i++ {
				leader.put(fmt.Sprintf("/t/w/%d/%d", w, i%100), strings.Repeat("x", 2000))
				written.Add(1)
			}
		})
	}
	follower.start()
	follower.waitReady()
	await.That(t, "more writes", func() error {
		if n := written.Load(); n < 300 {
			return fmt.Errorf("%d writes", n)
		}
		return nil
	})
	stop.Store(true)
	wg.Wait()
	follower.holdsAll()
	if first, err := follower.c.consensus.Internals().Disk.FirstIndex(); err != nil || first <= last {
		t.Errorf("its log begins at %d and ended at %d before: it was sent no snapshot (%v)", first, last, err)
	}
	view, err := leader.c.Consistent(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	await.That(t, "the follower to be where the leader is", func() error {
		here := follower.c.View()
		if here.Revision() != view.Revision() || here.Count("/t/", "/t0") != view.Count("/t/", "/t0") {
			return fmt.Errorf("revision %d instead of %d", here.Revision(), view.Revision())
		}
		return nil
	})
	follower.stop()
	follower.start() // what it was sent is whole on its disk
	follower.waitReady()
	follower.holdsAll()
}

// diskUse is what lies under a directory, in bytes.
func diskUse(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a snapshot was just removed
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

func TestChurnDoesNotGrowTheDisk(t *testing.T) {
	t.Parallel()
	m := startMasters(t, 1, compacting, func(cfg *Config) { cfg.DiskReserve = -1 })
	n := m.nodes[0]
	const round = 20 << 20 // bytes written between two looks
	value := strings.Repeat("x", 16<<10)
	var sizes []int64
	for range 8 {
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				for i := range round / len(value) / 8 {
					n.put(fmt.Sprintf("/t/w/%d/%d", w, i%4), value)
				}
			})
		}
		wg.Wait()
		size, err := diskUse(n.raftDir())
		if err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, size)
	}
	t.Logf("after each %d MiB written: %v bytes", round>>20, sizes)
	if sizes[7] > 48<<20 { // the file grows in steps, each of which may come late
		t.Errorf("the disk grows: %v", sizes)
	}
	if names := snapshotFiles(t, n); len(names) > consensus.SnapshotsKept+1 { // one may be being written
		t.Errorf("%d snapshots are kept", len(names))
	}
}
