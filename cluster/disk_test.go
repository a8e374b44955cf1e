package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/gathered"
	"github.com/kontiki/kontiki/test/robustness/faultfs"
)

// onDisks gives each master a disk of its own.
func onDisks(t *testing.T, count int, change ...func(*Config)) (*masters, map[string]*faultfs.Disk) {
	disks := map[string]*faultfs.Disk{}
	for i := range count {
		disks[fmt.Sprintf("master-%d", i+1)] = faultfs.Start(t)
	}
	m := startMasters(t, count, append([]func(*Config){func(cfg *Config) {
		cfg.DataDir = filepath.Join(disks[cfg.Name].Dir, "data")
		cfg.DiskReserve, cfg.DiskLow = 1<<20, 1<<20
	}}, change...)...)
	return m, disks
}

// use is how much of a disk is used, in bytes.
func (n *node) use() int64 {
	h := n.c.consensus.DiskHealth()
	return h.Total - h.Free
}

// health waits until the cluster's status says of a master what it should.
func (m *masters) health(name, want string) {
	m.t.Helper()
	await.That(m.t, name+" being "+want, func() error {
		for _, n := range m.nodes {
			if n.c == nil {
				continue
			}
			s, err := n.c.Status(context.Background())
			if err != nil {
				return err
			}
			for _, member := range s.Members {
				if member.Name == name && member.Health != want {
					return fmt.Errorf("%s says that it is %s", n.cfg.Name, member.Health)
				}
			}
		}
		return nil
	})
}

// runs says that no master has stopped.
func (m *masters) run() {
	m.t.Helper()
	for _, n := range m.nodes {
		select {
		case err := <-n.stopped:
			m.t.Fatalf("%s has stopped: %v", n.cfg.Name, err)
		default:
		}
	}
}

func TestALeaderWithAFullDiskHandsOver(t *testing.T) {
	t.Parallel()
	m, disks := onDisks(t, 3)
	old := m.leader()
	old.put("/t/a/b/c", "before")
	disks[old.cfg.Name].Capacity(old.use() + 1<<19) // the low-water mark is above that
	m.health(old.cfg.Name, consensus.ConditionDiskFull)
	for i := range 20 { // writes on the full master, too, all along
		m.nodes[i%3].put("/t/a/b/c", fmt.Sprint(i))
	}
	await.That(t, "another master to lead", func() error {
		if name, _ := old.c.Leader(); name == "" || name == old.cfg.Name {
			return fmt.Errorf("%q leads", name)
		}
		return nil
	})
	m.run()
	disks[old.cfg.Name].Capacity(0)
	m.health(old.cfg.Name, HealthOK)
}

func TestWhenAllDisksAreFullTheStoreIsReadOnly(t *testing.T) {
	t.Parallel()
	for _, count := range []int{1, 3} {
		m, disks := onDisks(t, count)
		m.leader().put("/t/a/b/c", "before")
		for _, n := range m.nodes {
			disks[n.cfg.Name].Capacity(n.use() + 1<<19)
		}
		for _, n := range m.nodes {
			m.health(n.cfg.Name, consensus.ConditionDiskFull)
		}
		last := m.leader().c.consensus.Internals().Raft.LastIndex()
		var wg sync.WaitGroup
		for _, n := range m.nodes {
			wg.Go(func() {
				propose := func() (moved bool, err error) {
					term := n.c.consensus.Term()
					_, err = n.c.Propose(context.Background(), put("/t/a/b/c", "x"))
					return n.c.consensus.Term() != term, err
				}
				moved, err := propose()
				for moved && errors.Is(err, kv.ErrOutcomeUnknown) { // the leader that it was sent to leads no more, and has not said what became of it
					moved, err = propose()
				}
				if !errors.Is(err, kv.ErrDiskFull) || !strings.Contains(err.Error(), "free some space there") || !strings.Contains(err.Error(), "data/raft") {
					t.Errorf("a write on %s: %v", n.cfg.Name, err)
				}
			})
			if got := n.get("/t/a/b/c"); got != "before" {
				t.Errorf("%s reads %q", n.cfg.Name, got)
			}
		}
		wg.Wait()
		// Reads confirm leadership, and the leader may have moved; but no command is in the log.
		if now := m.leader().c.consensus.Internals().Raft.LastIndex(); now > last+20 {
			t.Errorf("the log grew from %d to %d", last, now)
		}
		m.run()
		for _, n := range m.nodes {
			disks[n.cfg.Name].Capacity(0)
		}
		await.That(t, "writes to go on", func() error {
			_, err := m.nodes[0].c.Propose(context.Background(), put("/t/a/b/c", "after"))
			return err
		})
		for _, n := range m.nodes {
			m.health(n.cfg.Name, HealthOK)
		}
	}
}

// Disks that fill up to the last byte, without a low-water mark that would stop writes before.
func TestDisksWithoutASingleByteLeft(t *testing.T) {
	t.Parallel()
	m, disks := onDisks(t, 3, func(cfg *Config) { cfg.DiskLow = -1 }, compacting)
	follower := m.followers()[0]
	disks[follower.cfg.Name].Capacity(4096) // what is there stays
	big := strings.Repeat("x", 64<<10)
	for i := range 100 { // more than the follower's file has free pages and its reserve for
		m.leader().put(fmt.Sprintf("/t/a/b/%d", i%10), big+fmt.Sprint(i))
	}
	m.health(follower.cfg.Name, consensus.ConditionDiskFull)
	if disks[follower.cfg.Name].Counts()["no space"] == 0 {
		t.Fatal("the follower's disk never was full")
	}
	m.run()
	disks[follower.cfg.Name].Capacity(0)
	await.That(t, "the follower to catch up", func() error {
		if v, ok := follower.c.View().Get("/t/a/b/9"); !ok || string(v.Value) != big+"99" {
			return errors.New("it lags behind")
		}
		return nil
	})

	// All of them: commands end as refused or unknown, terms and votes still find room, nobody stops, and it goes on by itself.
	for _, disk := range disks {
		disk.Capacity(4096)
	}
	var acknowledged atomic.Int64
	for i := range 200 {
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		_, err := m.nodes[i%3].c.Propose(ctx, put("/t/counter", fmt.Sprint(i)+big))
		cancel()
		if err == nil {
			acknowledged.Store(int64(i))
		}
		full := 0
		for _, n := range m.nodes {
			if n.c.consensus.DiskHealth().Full {
				full++
			}
		}
		if full == 3 && errors.Is(err, kv.ErrDiskFull) {
			break
		}
		if i == 199 {
			t.Fatalf("%d of 3 disks are full; the last write: %v", full, err)
		}
	}
	m.run()
	for _, disk := range disks {
		disk.Capacity(0)
	}
	await.That(t, "writes to go on", func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := m.nodes[0].c.Propose(ctx, put("/t/a/b/c", "after"))
		return err
	})
	var seen int64
	fmt.Sscan(strings.TrimRight(m.nodes[0].get("/t/counter"), "x"), &seen)
	if seen < acknowledged.Load() {
		t.Errorf("write %d was acknowledged, %d is there", acknowledged.Load(), seen)
	}
	m.run()
}

// A master whose disk is full starts, and says so, rather than to crash in a loop: one beside others, and all of them.
func TestMastersStartOnFullDisks(t *testing.T) {
	t.Parallel()
	m, disks := onDisks(t, 3)
	m.leader().put("/t/a/b/c", "before")
	follower := m.followers()[0]
	disks[follower.cfg.Name].Capacity(4096) // what is there stays
	follower.kill()
	follower.start()
	follower.waitReady()
	m.health(follower.cfg.Name, consensus.ConditionDiskFull)
	m.leader().put("/t/a/b/c", "during")
	for _, n := range m.nodes {
		disks[n.cfg.Name].Capacity(4096)
		n.kill()
	}
	for _, n := range m.nodes {
		n.start()
	}
	var refused sync.WaitGroup
	for _, n := range m.nodes {
		n.waitReady()
		m.health(n.cfg.Name, consensus.ConditionDiskFull)
		if got := n.get("/t/a/b/c"); got != "during" {
			t.Errorf("%s reads %q", n.cfg.Name, got)
		}
		refused.Go(func() {
			if _, err := n.c.Propose(context.Background(), put("/t/a/b/c", "x")); !errors.Is(err, kv.ErrDiskFull) {
				t.Errorf("a write on %s: %v", n.cfg.Name, err)
			}
		})
	}
	refused.Wait()
	m.run()
	for _, n := range m.nodes {
		if free := n.c.consensus.DiskHealth().Free; free >= 4096 {
			t.Errorf("the disk of %s has %d bytes left", n.cfg.Name, free)
		}
		disks[n.cfg.Name].Capacity(0)
	}
	for _, n := range m.nodes {
		m.health(n.cfg.Name, HealthOK)
	}
	m.leader().put("/t/a/b/c", "after")
	m.run()
}

func TestALeaderWhoseDiskStallsIsReplaced(t *testing.T) {
	t.Parallel()
	m, disks := onDisks(t, 3)
	old := m.leader()
	old.put("/t/a/b/c", "before")
	disk := disks[old.cfg.Name]
	disk.Stall(faultfs.Write, faultfs.Sync)
	others := m.followers()
	// What the stalled leader was asked is not lost: it is proposed again at the next one.
	done := make(chan error, 1)
	go func() {
		_, err := others[0].c.Propose(context.Background(), put("/t/a/b/c", "during"))
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("a write during the stall: %v", err)
	}
	if disk.Counts()["stalled write"]+disk.Counts()["stalled sync"] == 0 {
		t.Fatal("the disk did not stall")
	}
	for i := range 50 {
		others[i%2].put("/t/counter", fmt.Sprint(i))
	}
	if got := others[1].get("/t/a/b/c"); got != "during" {
		t.Errorf("read %q", got)
	}
	if !old.c.consensus.DiskHealth().Stalled {
		t.Error("the disk moves")
	}
	await.That(t, "the others to see the condition", func() error {
		answer, err := others[0].c.consensus.Ask(context.Background(), old.c.Address())
		if err == nil && strings.Join(answer.Conditions, " ") != consensus.ConditionDiskStalled {
			err = fmt.Errorf("its conditions are %v", answer.Conditions)
		}
		return err
	})
	disk.Resume(faultfs.Write, faultfs.Sync)
	m.health(old.cfg.Name, HealthOK)
	if got := old.get("/t/counter"); got != "49" {
		t.Errorf("the old leader reads %q", got)
	}
	old.put("/t/a/b/c", "after")
	m.run()
}

func TestAFollowerWhoseDiskStallsStopsNobody(t *testing.T) {
	t.Parallel()
	m, disks := onDisks(t, 3)
	follower := m.followers()[0]
	disk := disks[follower.cfg.Name]
	disk.Stall(faultfs.Write, faultfs.Sync)
	leader := m.leader()
	for i := range 50 {
		leader.put("/t/counter", fmt.Sprint(i))
	}
	m.health(follower.cfg.Name, consensus.ConditionDiskStalled)
	if m.leader() != leader {
		t.Error("leadership moved")
	}
	disk.Resume(faultfs.Write, faultfs.Sync)
	m.health(follower.cfg.Name, HealthOK)
	if got := follower.get("/t/counter"); got != "49" {
		t.Errorf("the follower reads %q", got)
	}
	m.run()
}

// A disk that answers errors stops its master, with the reason, and the others go on.
func TestAMasterWhoseDiskFailsStops(t *testing.T) {
	t.Parallel()
	m, disks := onDisks(t, 3)
	leader := m.leader()
	others := m.followers()
	disks[leader.cfg.Name].Fail(faultfs.Sync, 5 /* EIO */)
	others[0].put("/t/a/b/c", "x")
	select {
	case err := <-leader.stopped:
		if err == nil || !strings.Contains(err.Error(), "the disk of this master has failed") || !strings.Contains(err.Error(), "input/output error") {
			t.Errorf("it stopped with: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
	leader.c = nil
	others[1].put("/t/a/b/c", "y")
	disks[leader.cfg.Name].Fail(faultfs.Sync, 0)
	leader.start()
	leader.waitReady()
	if got := leader.get("/t/a/b/c"); got != "y" {
		t.Errorf("afterwards it reads %q", got)
	}
}

// The power goes, at any moment, for all masters at once. What was acknowledged is there afterwards.
func TestPowerLossForAllMastersAtOnce(t *testing.T) {
	t.Parallel()
	disk := faultfs.Start(t)
	m := startMasters(t, 3, compacting, func(cfg *Config) {
		cfg.DataDir = filepath.Join(disk.Dir, cfg.Name)
		cfg.DiskReserve, cfg.DiskLow = -1, -1
	})
	acknowledged := map[string]string{}
	seed := uint64(time.Now().UnixNano())
	for round := range uint64(5) {
		r := rand.New(rand.NewPCG(seed, round))
		var mu sync.Mutex
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(context.Background())
		var writes atomic.Int64
		for w := range 8 {
			n := m.nodes[w%3]
			wg.Go(func() {
				for i := 0; ; i++ {
					key, value := fmt.Sprintf("/t/w/%d/%d", w, i%50), fmt.Sprintf("%d.%d %s", round, i, strings.Repeat("v", 500))
					if _, err := n.c.Propose(ctx, put(key, value)); err != nil {
						mu.Lock()
						acknowledged[key] = "" // it is unknown which value it has
						mu.Unlock()
						return
					}
					mu.Lock()
					acknowledged[key] = value
					mu.Unlock()
					writes.Add(1)
				}
			})
		}
		enough := int64(50 + r.IntN(150))
		await.That(t, "some writes", func() error {
			if n := writes.Load(); n < enough {
				return fmt.Errorf("%d writes", n)
			}
			return nil
		})
		if round%2 == 1 { // in the middle of a commit, for sure
			before := disk.Counts()
			disk.Stall(faultfs.Sync)
			await.That(t, "somebody to wait for a sync", func() error {
				if disk.Counts()["stalled sync"] == before["stalled sync"] {
					return errors.New("nobody does")
				}
				return nil
			})
		}
		disk.PowerLoss(r.Uint64())
		disk.Resume(faultfs.Sync)
		cancel()
		wg.Wait()
		for _, n := range m.nodes {
			n.kill()
		}
		disk.PowerOn()
		for _, n := range m.nodes {
			n.start()
		}
		for _, n := range m.nodes {
			n.waitReady()
			view, err := n.c.Consistent(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			for key, want := range acknowledged {
				if v, ok := view.Get(key); want != "" && (!ok || string(v.Value) != want) {
					t.Fatalf("seed %d round %d: %s lost the acknowledged write of %s", seed, round, n.cfg.Name, key)
				}
			}
			if aside := n.setAside(); len(aside) > 0 {
				t.Fatalf("seed %d round %d: %s took what a power loss left for damage", seed, round, n.cfg.Name)
			}
		}
	}
	if counts := disk.Counts(); counts["pages lost"] == 0 {
		t.Errorf("nothing was lost: %v", counts)
	} else {
		t.Logf("%d pages lost, %d torn, %d changes of directories lost", counts["pages lost"], counts["pages torn"], counts["changes of directories lost"])
	}
}

func TestTheMetricsTellOfTheDisk(t *testing.T) {
	t.Parallel()
	m, disks := onDisks(t, 1)
	n := m.nodes[0]
	value := func(name string) float64 {
		v, ok := gathered.Values(t, n.c.Collector())[name+"{}"]
		if !ok {
			t.Fatalf("there is no metric %s", name)
		}
		return v
	}
	if value("kontiki_disk_full") != 0 || value("kontiki_disk_free_bytes") <= value("kontiki_disk_needed_bytes") || value("kontiki_disk_needed_bytes") < 1<<20 {
		t.Error("a disk with room looks full")
	}
	disks[n.cfg.Name].Capacity(n.use() + 1<<19)
	await.That(t, "the metric to say so", func() error {
		if value("kontiki_disk_full") != 1 || value("kontiki_disk_full_total") != 1 || value("kontiki_disk_free_bytes") > 1<<19 {
			return fmt.Errorf("%v is free", value("kontiki_disk_free_bytes"))
		}
		return nil
	})
	disks[n.cfg.Name].Stall(faultfs.Sync)
	go n.c.consensus.Internals().Disk.Set([]byte("x"), nil)
	await.That(t, "the metric to say so", func() error {
		if value("kontiki_disk_stalled") != 1 || value("kontiki_disk_stalls_total") == 0 {
			return errors.New("it does not")
		}
		return nil
	})
	disks[n.cfg.Name].Resume(faultfs.Sync)
}
