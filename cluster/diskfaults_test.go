package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/robustness/faultfs"
	"github.com/kontiki/kontiki/test/robustness/history"
)

// diskFault is one cluster of three masters on disks that fail, with its clients and their history.
type diskFault struct {
	t       *testing.T
	m       *masters
	disks   map[string]*faultfs.Disk
	live    [3]atomic.Pointer[Cluster] // nil while a master is down
	history history.History
	watches history.Watchers
	r       *rand.Rand
	lost    int64 // pages that losses of power took, or tore
}

// TestDiskFaultsUnderHistories lets every fault of disks happen once, in an order that a seed gives, to masters that a seed
// gives, while clients read and run transactions on all of them, and watchers watch. What they were answered must be linearizable, what
// watchers were told as promised.
// KONTIKI_DISK_SEED repeats a seed.
func TestDiskFaultsUnderHistories(t *testing.T) {
	t.Parallel()
	seed := time.Now().UnixNano()
	if text := os.Getenv("KONTIKI_DISK_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseInt(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("KONTIKI_DISK_SEED=%d", seed)
	d := &diskFault{t: t, r: rand.New(rand.NewSource(seed))}
	d.m, d.disks = onDisks(t, 3, compacting)
	for i, n := range d.m.nodes {
		d.live[i].Store(n.c)
	}
	ctx, stop := context.WithCancel(context.Background())
	var clients sync.WaitGroup
	for id := range 4 {
		r := rand.New(rand.NewSource(seed + int64(id) + 1))
		clients.Go(func() {
			var last history.Bank
			for ctx.Err() == nil {
				if c := d.live[r.Intn(3)].Load(); c != nil {
					one, cancel := context.WithTimeout(ctx, time.Duration(300+r.Intn(2000))*time.Millisecond)
					d.history.Ask(one, id, history.InProcess{Master: c, Store: c.store}, r, &last)
					cancel()
				}
				time.Sleep(time.Duration(r.Intn(60)) * time.Millisecond) // a client that thinks: more would only be more to check
			}
		})
	}
	d.watches.Start(ctx, &clients, 3, seed, func(r *rand.Rand) history.Source {
		if c := d.live[r.Intn(3)].Load(); c != nil {
			return history.InProcess{Master: c, Store: c.store}
		}
		return nil
	})
	faults := []struct {
		name string
		do   func()
	}{
		{"the power goes for one master", func() { d.powerLoss(d.r.Intn(3)) }},
		{"the power goes for all masters", func() { d.powerLoss(0, 1, 2) }},
		{"a disk stalls", d.stall},
		{"a disk is full", func() { d.full(d.r.Intn(3)) }},
		{"all disks are full", func() { d.full(0, 1, 2) }},
		{"a disk answers errors", d.fails},
		{"a disk is damaged", d.damaged},
		{"two disks are damaged, one after the other", func() { d.damaged(); d.damaged() }},
	}
	d.r.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	for _, fault := range faults {
		d.more(40)
		t.Log(fault.name)
		fault.do()
	}
	for range 5 { // a loss of power may spare all that was not synced
		if d.more(40); d.lost > 0 {
			break
		}
		d.powerLoss(0, 1, 2)
	}
	stop()
	clients.Wait()
	d.history.Check(t)
	states := map[string]string{}
	var sources []history.Source
	for _, n := range d.m.nodes {
		view, err := n.c.Consistent(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, history.InProcess{Master: n.c, Store: n.c.store})
		state := fmt.Sprint(history.BankOf(view))
		states[state] += n.cfg.Name + " "
	}
	if len(states) != 1 {
		t.Errorf("ErrDiverged: %v", states)
	}
	if err := d.watches.Settle(&d.history, sources); err != nil {
		t.Error(err)
	}
	if d.lost == 0 {
		t.Error("no loss of power lost anything")
	}
	happened := map[string]int{}
	d.watches.Counts(happened)
	t.Logf("%d operations, %d pages lost or torn, %v", d.history.Count(), d.lost, happened)
	for _, name := range history.WatchEvents[:2] {
		if happened[name] == 0 {
			t.Errorf("%q never happened", name)
		}
	}
}

// more waits until clients have done so many more operations.
func (d *diskFault) more(n int) {
	d.t.Helper()
	from := d.history.Count()
	await.That(d.t, "operations", func() error {
		if done := d.history.Count() - from; done < n {
			return fmt.Errorf("%d are done", done)
		}
		return nil
	})
}

func (d *diskFault) kill(i int) {
	d.live[i].Store(nil)
	d.m.nodes[i].kill()
}

func (d *diskFault) start(i int) {
	n := d.m.nodes[i]
	n.start()
	d.live[i].Store(n.c)
}

func (d *diskFault) powerLoss(which ...int) {
	aside := map[int]int{}
	var disks []*faultfs.Disk
	for _, i := range which {
		aside[i] = len(d.m.nodes[i].setAside())
		disks = append(disks, d.disks[d.m.nodes[i].cfg.Name])
	}
	stalled := func() (n int64) {
		for _, disk := range disks {
			n += disk.Counts()["stalled sync"]
		}
		return n
	}
	syncs, lost := stalled(), lostPages(disks...)
	for _, disk := range disks {
		disk.Stall(faultfs.Sync)
	}
	await.That(d.t, "something that is not synced", func() error {
		if stalled() == syncs {
			return errors.New("all is synced")
		}
		return nil
	})
	for _, disk := range disks {
		disk.PowerLoss(d.r.Uint64())
		disk.Resume(faultfs.Sync)
	}
	d.lost += lostPages(disks...) - lost
	for _, i := range which {
		d.kill(i)
	}
	for _, i := range which {
		d.disks[d.m.nodes[i].cfg.Name].PowerOn()
		d.start(i)
	}
	for _, i := range which {
		d.m.nodes[i].waitReady()
		if len(d.m.nodes[i].setAside()) != aside[i] {
			d.t.Errorf("%s took what a power loss left for damage", d.m.nodes[i].cfg.Name)
		}
	}
}

func (d *diskFault) stall() {
	disk := d.disks[d.m.nodes[d.r.Intn(3)].cfg.Name]
	waiting := func() int64 { counts := disk.Counts(); return counts["stalled write"] + counts["stalled sync"] }
	before := waiting()
	disk.Stall(faultfs.Write, faultfs.Sync)
	await.That(d.t, "somebody to wait for the disk", func() error {
		if waiting() == before {
			return errors.New("nobody does")
		}
		return nil
	})
	d.more(20)
	disk.Resume(faultfs.Write, faultfs.Sync)
}

func (d *diskFault) full(which ...int) {
	for _, i := range which {
		n := d.m.nodes[i]
		d.disks[n.cfg.Name].Capacity(n.use() + int64(d.r.Intn(1<<20)))
	}
	for _, i := range which {
		d.m.health(d.m.nodes[i].cfg.Name, consensus.ConditionDiskFull)
	}
	d.more(10) // reads, where all are full
	for _, i := range which {
		d.disks[d.m.nodes[i].cfg.Name].Capacity(0)
	}
	for _, i := range which {
		d.m.health(d.m.nodes[i].cfg.Name, HealthOK)
	}
}

func (d *diskFault) fails() {
	i := d.r.Intn(3)
	n := d.m.nodes[i]
	d.disks[n.cfg.Name].Fail(faultfs.Sync, syscall.EIO)
	select {
	case <-n.stopped: // by itself
	case <-time.After(patience):
		d.t.Fatalf("%s goes on with a disk that fails", n.cfg.Name)
	}
	d.live[i].Store(nil)
	n.c = nil
	d.disks[n.cfg.Name].Fail(faultfs.Sync, 0)
	d.start(i)
	n.waitReady()
}

func (d *diskFault) damaged() {
	i := d.r.Intn(3)
	n := d.m.nodes[i]
	d.kill(i)
	aside := len(n.setAside())
	if err := os.Truncate(filepath.Join(n.raftDir(), "raft.db"), 9000); err != nil {
		d.t.Fatal(err)
	}
	d.start(i)
	n.waitReady()
	if len(n.setAside()) != aside+1 {
		d.t.Errorf("%s did not notice the damage", n.cfg.Name)
	}
}
