package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/storage"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/test/await"
)

// benchMasters are three masters with the real timers.
func benchMasters(b *testing.B) *masters {
	return startMasters(b, 3, func(cfg *Config) {
		cfg.Timings = DefaultTimings
		cfg.Timings.Gossip = gossip.Local
	})
}

// many lets callers share b.N calls, and reports their rate and latencies.
func many(b *testing.B, callers int, unit string, call func(i int64) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex
	var all []time.Duration
	b.ResetTimer()
	for range callers {
		wg.Go(func() {
			var took []time.Duration
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				begin := time.Now()
				if err := call(i); err != nil {
					b.Error(err)
					return
				}
				took = append(took, time.Since(begin))
			}
			mu.Lock()
			all = append(all, took...)
			mu.Unlock()
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), unit)
	reportLatencies(b, all)
}

func reportLatencies(b *testing.B, all []time.Duration) {
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(all[len(all)/2]), "ms-p50")
	b.ReportMetric(ms(all[len(all)*99/100]), "ms-p99")
	b.ReportMetric(ms(all[len(all)-1]), "ms-max")
}

// BenchmarkPropose writes 1 KiB values from many goroutines, all on one master or spread over the three. One disk, mTLS
// on loopback, fsync on. test/bench/etcd does the same with etcd.
func BenchmarkPropose(b *testing.B) {
	m := benchMasters(b)
	value := string(make([]byte, 1024))
	for _, where := range []string{"leader", "follower", "spread"} {
		for _, proposers := range []int{1, 4, 64, 512} {
			b.Run(fmt.Sprintf("%s/%d", where, proposers), func(b *testing.B) {
				nodes := []*node{m.leader()}
				switch where {
				case "follower":
					nodes = m.followers()[:1]
				case "spread":
					nodes = m.nodes
				}
				many(b, proposers, "writes/s", func(i int64) error {
					_, err := nodes[i%int64(len(nodes))].c.Propose(context.Background(), put(fmt.Sprintf("/b/things/default/%d", i%10000), value))
					return err
				})
			})
		}
	}
}

// BenchmarkConsistent reads consistently on the leader and on a follower.
func BenchmarkConsistent(b *testing.B) {
	m := benchMasters(b)
	for _, where := range []string{"leader", "follower"} {
		for _, readers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", where, readers), func(b *testing.B) {
				node := m.leader()
				if where == "follower" {
					node = m.followers()[0]
				}
				many(b, readers, "reads/s", func(int64) error {
					_, err := node.c.Consistent(context.Background())
					return err
				})
			})
		}
	}
}

// BenchmarkFailover kills the leader's process (kill -9) and takes the time to the next acknowledged write on a survivor.
func BenchmarkFailover(b *testing.B) {
	children := startChildren(b, 3, true)
	var took []time.Duration
	b.ResetTimer()
	for i := range b.N {
		b.StopTimer()
		old := leaderOf(b, children, nil)
		survivor := children[0]
		if survivor == old {
			survivor = children[1]
		}
		b.StartTimer()
		begin := time.Now()
		_ = old.cmd.Process.Kill()
		if _, err := survivor.call("put", "/b/x", fmt.Sprint(i)); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(begin))
		b.StopTimer()
		old.kill()
		old.start()
		for _, c := range children {
			c.ready()
		}
		b.StartTimer()
	}
	reportLatencies(b, took)
}

// BenchmarkHandOver moves leadership while every master is written to without a pause, and takes the longest time that a write
// took meanwhile.
func BenchmarkHandOver(b *testing.B) {
	m := benchMasters(b)
	var worst []time.Duration
	b.ResetTimer()
	for range b.N {
		var stop atomic.Bool
		var slowest atomic.Int64
		var writes atomic.Int64
		var wg sync.WaitGroup
		for _, n := range m.nodes {
			wg.Go(func() {
				for i := 0; !stop.Load(); i++ {
					begin := time.Now()
					n.put("/b/"+n.cfg.Name, fmt.Sprint(i))
					if took := int64(time.Since(begin)); took > slowest.Load() {
						slowest.Store(took)
					}
					writes.Add(1)
				}
			})
		}
		more := func() {
			from := writes.Load()
			await.That(b, "writes", func() error {
				if writes.Load() < from+60 {
					return fmt.Errorf("%d writes", writes.Load()-from)
				}
				return nil
			})
		}
		more()
		slowest.Store(0)
		if _, err := m.leader().c.TransferLeadership(context.Background(), ""); err != nil {
			b.Fatal(err)
		}
		more()
		stop.Store(true)
		wg.Wait()
		worst = append(worst, time.Duration(slowest.Load()))
	}
	reportLatencies(b, worst)
}

// BenchmarkStartWithLargeState starts a master whose state is 1 GiB, from a snapshot, until it answers a consistent read.
func BenchmarkStartWithLargeState(b *testing.B) {
	m := startMasters(b, 1, func(cfg *Config) { cfg.Timings.SnapshotThreshold = 1 << 40 })
	n := m.nodes[0]
	n.put("/b/x", "y")
	n.stop()
	const objects, size = 256 << 10, 4 << 10
	state := fsm.New(fsm.Options{})
	value := strings.Repeat("x", size)
	for i := range objects {
		data, err := fsm.EncodeCommand(put(fmt.Sprintf("/b/things/default/%d", i), value))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := state.Apply(uint64(1000+i), data); err != nil {
			b.Fatal(err)
		}
	}
	disk, err := storage.Open(n.raftDir(), storage.Options{Keep: 1})
	if err != nil {
		b.Fatal(err)
	}
	sink, err := disk.Snapshots().Create(1, 1000+objects, 100, raft.Configuration{Servers: []raft.Server{
		{ID: raft.ServerID(n.cfg.Name), Address: raft.ServerAddress(n.cfg.BindAddress)},
	}}, 1, nil)
	if err == nil {
		_, err = state.Snapshot().WriteTo(sink)
	}
	if err == nil {
		err = sink.Close()
	}
	if err == nil {
		err = disk.Close()
	}
	if err != nil {
		b.Fatal(err)
	}
	if err := os.Remove(filepath.Join(n.raftDir(), "reserve")); err != nil {
		b.Fatal(err)
	}
	bytes, err := diskUse(n.raftDir())
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		n.start()
		n.waitReady()
		b.StopTimer()
		if got := n.c.View().Count("/b/things/", "/b/things0"); got != objects {
			b.Fatalf("%d objects of %d", got, objects)
		}
		n.stop()
		b.StartTimer()
	}
	b.ReportMetric(float64(bytes>>20), "MiB")
}
