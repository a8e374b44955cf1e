package bench_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// clients is the number of concurrent requests.
const clients = 32

// BenchmarkCreateConfigMap creates on the leader or on a follower, by clients that share one connection or have one each.
func BenchmarkCreateConfigMap(b *testing.B) {
	load(b, func(set *kubernetes.Clientset, name string) error {
		_, err := set.CoreV1().ConfigMaps("default").Create(context.Background(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"k": "v"}}, metav1.CreateOptions{})
		return err
	})
}

// BenchmarkCreatePod creates Pods of another scheduler, in the same way, so that only the API works.
func BenchmarkCreatePod(b *testing.B) {
	load(b, func(set *kubernetes.Clientset, name string) error {
		p := pod(name)
		p.Spec.SchedulerName = "none"
		_, err := set.CoreV1().Pods("default").Create(context.Background(), p, metav1.CreateOptions{})
		return err
	})
}

// BenchmarkCreateUnschedulablePod creates Pods that fit no node, in the same way. The scheduler tries each and records the result
// in its status and as an event: three writes per Pod.
func BenchmarkCreateUnschedulablePod(b *testing.B) {
	load(b, func(set *kubernetes.Clientset, name string) error {
		p := pod(name)
		p.Spec.NodeSelector = map[string]string{"bench": "no-node"}
		_, err := set.CoreV1().Pods("default").Create(context.Background(), p, metav1.CreateOptions{})
		return err
	})
}

// BenchmarkGetConfigMap makes linearizable reads, in the same way.
func BenchmarkGetConfigMap(b *testing.B) {
	load(b, func(set *kubernetes.Clientset, _ string) error {
		_, err := set.CoreV1().ConfigMaps("default").Get(context.Background(), "kube-root-ca.crt", metav1.GetOptions{})
		return err
	})
}

// load lets the clients share b.N requests, whose names are unique, and reports their rate, their latencies, and what a request
// costs the three masters together, and the clients, in microseconds of CPU.
func load(b *testing.B, request func(set *kubernetes.Clientset, name string) error) {
	leader, followers, err := roles()
	if err != nil {
		b.Fatal(err)
	}
	for _, where := range []string{"leader", "follower"} {
		host := leader
		if where == "follower" {
			host = followers[0]
		}
		for _, connections := range []int{1, clients} {
			b.Run(fmt.Sprintf("%s/connections=%d", where, connections), func(b *testing.B) { share(b, host, connections, request) })
		}
	}
}

// share lets the clients share b.N requests to one master, and reports.
func share(b *testing.B, host string, connections int, request func(set *kubernetes.Clientset, name string) error) {
	sets, err := connect(host, connections)
	if err != nil {
		b.Fatal(err)
	}
	run := strings.ToLower(rand.Text())
	var n atomic.Int64
	var mu sync.Mutex
	var all []time.Duration
	before := usage(b)
	b.ResetTimer()
	var wg sync.WaitGroup
	for client := range clients {
		wg.Go(func() {
			var took []time.Duration
			for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
				begin := time.Now()
				if err := request(sets[client%connections], fmt.Sprintf("bench-%s-%d", run, i)); err != nil {
					b.Error(err)
					return
				}
				took = append(took, time.Since(begin))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	wg.Wait()
	b.StopTimer()
	after := usage(b)
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "ms-p50")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "ms-p99")
	b.ReportMetric(float64((after.masters-before.masters).Microseconds())/float64(b.N), "us-masters")
	b.ReportMetric(float64((after.self-before.self).Microseconds())/float64(b.N), "us-clients")
}

// connect returns clients with one connection each to a master's API, without the forwarder of `kontiki dev` in between.
func connect(host string, connections int) ([]*kubernetes.Clientset, error) {
	var sets []*kubernetes.Clientset
	for range connections {
		config := rest.CopyConfig(cluster.Config)
		config.Host = "https://127.0.0.1:6443"
		dial, err := cluster.DialFrom(host)
		if err != nil {
			return nil, err
		}
		config.Dial = dial // client-go shares connections between clients that dial alike
		set, err := kubernetes.NewForConfig(config)
		if err != nil {
			return nil, err
		}
		if _, err := set.Discovery().ServerVersion(); err != nil { // connected
			return nil, err
		}
		sets = append(sets, set)
	}
	return sets, nil
}
