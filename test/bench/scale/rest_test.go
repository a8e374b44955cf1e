package scale_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// restTime is how long the cluster's consumption at rest is measured.
const restTime = 20 * time.Second

// BenchmarkRest reports what the masters use while nothing happens, beside the heartbeats of all workers; and what a node and a pod take of
// a master's heap.
func BenchmarkRest(b *testing.B) {
	for range b.N {
		ctx := limited(b)
		before, err := mastersUse()
		if err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		select {
		case <-time.After(restTime): // what is measured is the time in which nothing happens
		case <-ctx.Done():
			b.Fatal(ctx.Err())
		}
		after, err := mastersUse()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(100*(after.processor-before.processor).Seconds()/time.Since(begin).Seconds()/float64(len(masters)), "%core/master")
		b.ReportMetric(float64(after.resident)/float64(len(masters))/(1<<20), "MiB/master")
		leader, err := leaderClient()
		if err != nil {
			b.Fatal(err)
		}
		empty := heap(ctx, b, leader)
		const nodes = 1000
		core := cluster.Set.CoreV1()
		remove := func() {
			if err := core.Nodes().DeleteCollection(context.WithoutCancel(ctx), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "bench=object"}); err != nil {
				b.Error(err)
			}
		}
		b.Cleanup(remove)
		if err := each(ctx, nodes, func(i int) error {
			_, err := core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("object-", i), Labels: map[string]string{"bench": "object"}},
				Spec: corev1.NodeSpec{Unschedulable: true}}, metav1.CreateOptions{})
			return err
		}); err != nil {
			b.Fatal(err)
		}
		withNodes := heap(ctx, b, leader)
		b.ReportMetric(float64(withNodes-empty)/nodes/1000, "kB/node-object")
		remove()
		empty = heap(ctx, b, leader)
		createPods(ctx, b, newNamespace(ctx, b, "rest"), "p", podsOf(), func(*corev1.Pod, int) {})
		b.ReportMetric(float64(heap(ctx, b, leader)-empty)/float64(podsOf())/1000, "kB/pod")
	}
}

// leaderClient returns a client that talks to the leader.
func leaderClient() (*kubernetes.Clientset, error) {
	leader, err := cluster.Leader()
	if err != nil {
		return nil, err
	}
	config := rest.CopyConfig(cluster.Config)
	if config.Dial, err = cluster.DialFrom(leader); err != nil {
		return nil, err
	}
	config.Host, config.QPS = "https://127.0.0.1:6443", -1
	return kubernetes.NewForConfig(config)
}

// heap returns the bytes of a master's heap after a garbage collection. It contains the history of changes of the last minutes.
func heap(ctx context.Context, b *testing.B, master *kubernetes.Clientset) int64 {
	b.Helper()
	if _, err := master.RESTClient().Get().AbsPath("/debug/pprof/heap").Param("gc", "1").DoRaw(ctx); err != nil {
		b.Fatal(err)
	}
	text, err := master.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), "go_memstats_heap_alloc_bytes "); ok {
			f, err := strconv.ParseFloat(value, 64)
			if err != nil {
				b.Fatal(err)
			}
			return int64(f)
		}
	}
	b.Fatal(errors.Join(errors.New("there is no go_memstats_heap_alloc_bytes"), lines.Err()))
	return 0
}
