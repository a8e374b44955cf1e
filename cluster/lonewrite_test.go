package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/robustness/faultfs"
)

// The followers' disks have a lone write while the leader's has not, and it counts only once the leader's has it, too.
func TestALoneWriteIsStoredOnAllMastersAtOnce(t *testing.T) {
	t.Parallel()
	m, disks := onDisks(t, 3, func(cfg *Config) { cfg.Timings.DiskStall = time.Minute })
	leader := m.leader()
	leader.put("/t/a/b/c", "before")
	last := leader.c.consensus.Internals().Raft.LastIndex()
	await.That(t, "the log to be at rest everywhere", func() error {
		last = leader.c.consensus.Internals().Raft.LastIndex()
		for _, n := range m.nodes {
			if r := n.c.consensus.Internals().Raft; r.CommitIndex() != last {
				return fmt.Errorf("%s has committed %d of %d", n.cfg.Name, r.CommitIndex(), last)
			}
		}
		return nil
	})
	disk := disks[leader.cfg.Name]
	disk.Stall(faultfs.Sync)
	done := make(chan error, 1)
	go func() {
		_, err := leader.c.Propose(context.Background(), put("/t/a/b/c", "during"))
		done <- err
	}()
	for _, n := range m.followers() {
		await.That(t, n.cfg.Name+" to store the write", func() error {
			if end, err := n.c.consensus.Internals().Disk.LastIndex(); err != nil || end <= last {
				return fmt.Errorf("its log ends at %d, %w", end, err)
			}
			return nil
		})
	}
	if end, _ := leader.c.consensus.Internals().Disk.LastIndex(); end != last {
		t.Errorf("the leader's disk holds %d entries, though it stands still", end)
	}
	if commit := leader.c.consensus.CommitIndex(); commit != last {
		t.Errorf("the leader has committed %d, and its disk has %d", commit, last)
	}
	disk.Resume(faultfs.Sync)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := leader.get("/t/a/b/c"); got != "during" {
		t.Errorf("read %q", got)
	}
}
