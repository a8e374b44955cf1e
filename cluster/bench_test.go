package cluster

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// benchMasters are three masters with the real timers.
func benchMasters(b *testing.B) *masters {
	return startMasters(b, 3, func(cfg *Config) {
		cfg.Timings = DefaultTimings
		cfg.Timings.Gossip = GossipLocal
	})
}

// BenchmarkPropose writes 1 KiB values from many goroutines, all on one master or spread over the three. One disk, mTLS
// on loopback, fsync on.
func BenchmarkPropose(b *testing.B) {
	m := benchMasters(b)
	value := make([]byte, 1024)
	for _, where := range []string{"leader", "follower", "spread"} {
		for _, proposers := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("%s/%d", where, proposers), func(b *testing.B) {
				leader := m.leader()
				var next atomic.Int64
				var wg sync.WaitGroup
				for p := range proposers {
					node := leader
					switch where {
					case "follower":
						node = m.followers()[0]
					case "spread":
						node = m.nodes[p%len(m.nodes)]
					}
					wg.Go(func() {
						for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
							if _, err := node.c.Propose(context.Background(), put(fmt.Sprintf("/b/things/default/%d", i%10000), string(value))); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
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
				var next atomic.Int64
				var wg sync.WaitGroup
				for range readers {
					wg.Go(func() {
						for next.Add(1) <= int64(b.N) {
							if _, err := node.c.Consistent(context.Background()); err != nil {
								b.Error(err)
								return
							}
						}
					})
				}
				wg.Wait()
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
			})
		}
	}
}
