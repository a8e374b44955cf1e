// Package etcd measures three members of etcd in one process as BenchmarkPropose and BenchmarkConsistent of package cluster
// measure three masters: TLS between members, fsync on, values of 1 KiB under 10,000 keys, callers in the process. It is a module
// of its own, so that etcd never enters Kontiki's go.mod.
package etcd

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
)

func address(b *testing.B, scheme string) url.URL {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return url.URL{Scheme: scheme, Host: l.Addr().String()}
}

// members starts three members and returns clients of the leader and of a follower.
func members(b *testing.B) (leader, follower *clientv3.Client) {
	var configs []*embed.Config
	cluster := ""
	for i := range 3 {
		cfg := embed.NewConfig()
		cfg.Name, cfg.Dir = fmt.Sprintf("member-%d", i+1), b.TempDir()
		cfg.LogLevel, cfg.LogOutputs = "error", []string{"stderr"}
		peer, client := address(b, "https"), address(b, "http")
		cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
		cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
		cfg.PeerAutoTLS = true
		cfg.SelfSignedCertValidity = 1
		cluster += fmt.Sprintf(",%s=%s", cfg.Name, peer.String())
		configs = append(configs, cfg)
	}
	servers := make([]*embed.Etcd, len(configs))
	var wg sync.WaitGroup
	for i, cfg := range configs {
		cfg.InitialCluster = cluster[1:]
		wg.Go(func() {
			e, err := embed.StartEtcd(cfg)
			if err != nil {
				b.Error(err)
				return
			}
			servers[i] = e
		})
	}
	wg.Wait()
	if slices.Contains(servers, nil) {
		b.FailNow()
	}
	for _, e := range servers {
		b.Cleanup(e.Close)
		select {
		case <-e.Server.ReadyNotify():
		case <-time.After(time.Minute):
			b.Fatal("a member is not ready")
		}
	}
	for _, e := range servers {
		client := v3client.New(e.Server)
		b.Cleanup(func() { client.Close() })
		if e.Server.Leader() == e.Server.MemberID() {
			leader = client
		} else {
			follower = client
		}
	}
	if leader == nil {
		b.Fatal("nobody leads")
	}
	return leader, follower
}

// many makes callers share b.N calls, and reports their rate and latencies.
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
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(all[len(all)/2]), "ms-p50")
	b.ReportMetric(ms(all[len(all)*99/100]), "ms-p99")
	b.ReportMetric(ms(all[len(all)-1]), "ms-max")
}

func BenchmarkPropose(b *testing.B) {
	leader, follower := members(b)
	value := string(make([]byte, 1024))
	for where, client := range map[string]*clientv3.Client{"leader": leader, "follower": follower} {
		for _, writers := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("%s/%d", where, writers), func(b *testing.B) {
				many(b, writers, "writes/s", func(i int64) error {
					_, err := client.Put(context.Background(), fmt.Sprintf("/b/things/default/%d", i%10000), value)
					return err
				})
			})
		}
	}
}

func BenchmarkConsistent(b *testing.B) {
	leader, follower := members(b)
	if _, err := leader.Put(context.Background(), "/b/x", "y"); err != nil {
		b.Fatal(err)
	}
	for where, client := range map[string]*clientv3.Client{"leader": leader, "follower": follower} {
		for _, readers := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", where, readers), func(b *testing.B) {
				many(b, readers, "reads/s", func(int64) error {
					_, err := client.Get(context.Background(), "/b/x")
					return err
				})
			})
		}
	}
}
