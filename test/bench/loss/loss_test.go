// Package loss_test measures how soon the loss of a worker is detected and its pods are replaced, on a cluster of three masters and
// ten workers on this machine. Nothing is asserted about time. Run it with `make bench`; with GOSSIP=masters workers do not gossip.
package loss_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/test/devcluster"
)

const (
	workers  = 10
	replicas = 20
	// patience limits every wait; it is not a measure of speed.
	patience = 2 * time.Minute
)

var (
	cluster *devcluster.Cluster
	// set makes a connection for each request: a shared one may lead to a master that has vanished, which HTTP/2 notices after
	// 45 seconds.
	set *kubernetes.Clientset
)

func TestMain(m *testing.M) {
	if os.Getenv("KONTIKI") == "" {
		fmt.Println("KONTIKI is not set: the whole-system benchmarks are run by `make bench`")
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	var further []string
	if gossip := os.Getenv("GOSSIP"); gossip != "" { // all or masters
		further = append(further, "--server-arg=--gossip="+gossip)
	}
	cluster, err = devcluster.Start(os.Stderr, 3, workers, further...)
	defer cluster.Stop() // what it leaves behind shows at the next start
	if err == nil {
		set, err = client(cluster.Config)
	}
	if err == nil {
		err = deploy()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func client(config *rest.Config) (*kubernetes.Clientset, error) {
	tls, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfigAndClient(config, &http.Client{Timeout: time.Second, Transport: &http.Transport{TLSClientConfig: tls, DisableKeepAlives: true}})
}

var app = map[string]string{"app": "loss"}

// deploy runs pods on all workers that do not tolerate the loss of theirs for a second.
func deploy() error {
	zero, count := int64(0), int32(replicas)
	tolerations := []corev1.Toleration{}
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		tolerations = append(tolerations, corev1.Toleration{Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &zero})
	}
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "loss"}, Spec: appsv1.DeploymentSpec{
		Replicas: &count, Selector: &metav1.LabelSelector{MatchLabels: app},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{
			Tolerations: tolerations, TerminationGracePeriodSeconds: &zero,
			Containers: []corev1.Container{{Name: "c", Image: "kontiki/tools:1", Command: []string{"tools", "sleep"}}},
		}},
	}}
	_, err := cluster.Set.AppsV1().Deployments("default").Create(context.Background(), d, metav1.CreateOptions{})
	return err
}

// await calls a function until it returns no error, and returns how long that took.
func await(b *testing.B, what string, since time.Time, ask func() error) time.Duration {
	b.Helper()
	for {
		err := ask()
		if err == nil {
			return time.Since(since)
		}
		if time.Since(since) > patience {
			b.Fatalf("waited %s for %s: %v", patience, what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// ready returns whether a node is ready, and the number of ready nodes.
func ready(name string) (this bool, all int, err error) {
	list, err := set.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return false, 0, err
	}
	for _, n := range list.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				all++
				this = this || n.Name == name
			}
		}
	}
	return this, all, nil
}

// running counts the ready pods, without those on one node.
func running(but string) (n int, err error) {
	list, err := set.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{LabelSelector: "app=loss", ResourceVersion: "0"})
	if err != nil {
		return 0, err
	}
	for _, p := range list.Items {
		if p.Spec.NodeName == but || p.DeletionTimestamp != nil {
			continue
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				n++
			}
		}
	}
	return n, nil
}

// lose measures the loss of workers, one after the other; each is back before the next is lost.
func lose(b *testing.B, take, bring func(worker string) error) {
	var noticed, replaced, worstNoticed, worstReplaced time.Duration
	n := 0
	for b.Loop() {
		b.StopTimer()
		worker := fmt.Sprintf("worker-%d", n%workers+1)
		n++
		await(b, "the cluster to be whole", time.Now(), func() error {
			_, all, err := ready("")
			pods, perr := running("")
			if err == nil && perr == nil && (all < workers || pods < replicas) {
				err = fmt.Errorf("%d nodes and %d pods are ready", all, pods)
			}
			return errors.Join(err, perr)
		})
		// Tokens of the eviction rate fill up meanwhile: a node every ten seconds.
		time.Sleep(10 * time.Second)
		b.StartTimer()
		began := time.Now()
		if err := take(worker); err != nil {
			b.Fatal(err)
		}
		seen := await(b, "the node to be NotReady", began, func() error {
			this, _, err := ready(worker)
			if err == nil && this {
				err = fmt.Errorf("%s is ready", worker)
			}
			return err
		})
		done := await(b, "its pods to run elsewhere", began, func() error {
			pods, err := running(worker)
			if err == nil && pods < replicas {
				err = fmt.Errorf("%d pods run", pods)
			}
			return err
		})
		b.StopTimer()
		noticed, replaced = noticed+seen, replaced+done
		worstNoticed, worstReplaced = max(worstNoticed, seen), max(worstReplaced, done)
		if err := bring(worker); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(noticed.Seconds()/float64(n), "s-to-NotReady")
	b.ReportMetric(worstNoticed.Seconds(), "s-to-NotReady-max")
	b.ReportMetric(replaced.Seconds()/float64(n), "s-to-replaced")
	b.ReportMetric(worstReplaced.Seconds(), "s-to-replaced-max")
}

// BenchmarkWorkerKilled is kill -9 of the agent: its host is up and refuses connections.
func BenchmarkWorkerKilled(b *testing.B) {
	lose(b, func(w string) error { _, err := cluster.Run("dev", "kill", w); return err },
		func(w string) error { _, err := cluster.Run("dev", "start", w); return err })
}

// BenchmarkWorkerVanishedWithLeader is the loss of a worker and of the leader at the same time.
func BenchmarkWorkerVanishedWithLeader(b *testing.B) {
	var leader string
	lose(b, func(w string) (err error) {
		if leader, err = cluster.Leader(); err != nil {
			return err
		}
		return errors.Join(cluster.Cable(leader, false), cluster.Cable(w, false))
	}, func(w string) error { return errors.Join(cluster.Cable(leader, true), cluster.Cable(w, true)) })
}

// BenchmarkWorkerVanished is the loss of a host without any message, as by a power failure.
func BenchmarkWorkerVanished(b *testing.B) {
	lose(b, func(w string) error { return cluster.Cable(w, false) }, func(w string) error { return cluster.Cable(w, true) })
}
