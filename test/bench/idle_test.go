package bench_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// masterNames are those of the cluster.
var masterNames = []string{"master-1", "master-2", "master-3"}

var settle sync.Once

// roles returns the leader and the followers.
func roles() (leader string, followers []string, err error) {
	if leader, err = cluster.Leader(); err != nil {
		return "", nil, err
	}
	followers = slices.DeleteFunc(slices.Clone(masterNames), func(name string) bool { return name == leader })
	return leader, followers, nil
}

// BenchmarkIdle leaves the cluster idle for b.N seconds and reports the CPU (in percent of a core) and the private memory (in MB)
// of the leader, and the higher of the two followers'. Its workers report what they use.
func BenchmarkIdle(b *testing.B) { idle(b, func(context.Context) error { return nil }) }

// scrapeInterval is that of Prometheus in deploy/prometheus.
const scrapeInterval = 15 * time.Second

// BenchmarkIdleScraped is BenchmarkIdle while all that deploy/prometheus scrapes is scraped, at least as often: masters and workers, and the objects of one master.
func BenchmarkIdleScraped(b *testing.B) {
	scrapes, err := newScrapes(b)
	if err != nil {
		b.Fatal(err)
	}
	var bytes int64
	idle(b, func(ctx context.Context) error {
		for ticker := time.NewTicker(scrapeInterval); ; {
			bytes = 0
			for _, s := range scrapes {
				n, err := s.scrape(ctx)
				if err != nil && ctx.Err() == nil {
					return fmt.Errorf("%s: %w", s.url, err)
				}
				bytes += n
			}
			select {
			case <-ticker.C:
			case <-ctx.Done():
				ticker.Stop()
				return nil
			}
		}
	})
	b.ReportMetric(float64(bytes)/1000, "kB/scrape")
}

// idle measures the masters for b.N seconds, beside which a function runs.
func idle(b *testing.B, beside func(context.Context) error) {
	leader, followers, err := roles()
	if err != nil {
		b.Fatal(err)
	}
	settle.Do(func() { time.Sleep(15 * time.Second) }) // what starting left to do
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- beside(ctx) }()
	begin := time.Now()
	before := map[string]time.Duration{}
	for _, name := range masterNames {
		before[name] = cpu(b, name)
	}
	for range b.N {
		time.Sleep(time.Second)
	}
	took := time.Since(begin)
	percent := func(name string) float64 { return 100 * (cpu(b, name) - before[name]).Seconds() / took.Seconds() }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(percent(leader), "%cpu-leader")
	b.ReportMetric(memory(b, leader), "MB-leader")
	b.ReportMetric(max(percent(followers[0]), percent(followers[1])), "%cpu-follower")
	b.ReportMetric(max(memory(b, followers[0]), memory(b, followers[1])), "MB-follower")
	cancel()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}

// A scrape is a path of metrics that is read again and again over one connection, compressed as for Prometheus.
type scrape struct {
	url    string
	client *http.Client
}

// newScrapes returns what the configuration in deploy/prometheus scrapes, read from a master's host with the administrator's certificate.
func newScrapes(b *testing.B) (all []scrape, err error) {
	config := rest.CopyConfig(cluster.Config)
	add := func(host, url string) error {
		c := rest.CopyConfig(config)
		if c.Dial, err = cluster.DialFrom(host); err != nil {
			return err
		}
		client, err := rest.HTTPClientFor(c)
		if err != nil {
			return err
		}
		b.Cleanup(client.CloseIdleConnections)
		all = append(all, scrape{url, client})
		return nil
	}
	for _, master := range masterNames {
		if err := add(master, "https://127.0.0.1:6443/metrics"); err != nil {
			return nil, err
		}
	}
	if err := add(masterNames[0], "https://127.0.0.1:6443/metrics/state"); err != nil {
		return nil, err
	}
	nodes, err := cluster.Set.CoreV1().Nodes().List(b.Context(), metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, node := range nodes.Items {
		for _, path := range []string{"/metrics", "/metrics/cadvisor"} {
			if err := add(masterNames[0], fmt.Sprintf("https://%s:10250%s", node.Status.Addresses[0].Address, path)); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}

func (s scrape) scrape(ctx context.Context) (int64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("Accept-Encoding", "gzip")
	response, err := s.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	n, err := io.Copy(io.Discard, response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = errors.New(response.Status)
	}
	return n, err
}

// used is CPU time.
type used struct{ masters, self time.Duration }

func usage(b *testing.B) (u used) {
	for _, name := range masterNames {
		u.masters += cpu(b, name)
	}
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		b.Fatal(err)
	}
	u.self = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	return u
}

// cpu is the CPU time of a host's process, in nanoseconds: the times in proc(5)'s stat have a resolution of 10 ms only.
func cpu(b *testing.B, host string) (sum time.Duration) {
	b.Helper()
	pid, err := cluster.Pid(host)
	if err != nil {
		b.Fatal(err)
	}
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, thread := range threads {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, thread.Name()))
		if err != nil {
			continue // it has ended
		}
		ran, _, _ := strings.Cut(string(data), " ")
		ns, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}

// memory is the private memory of a host's process, without the pages of the binary, which all processes share.
func memory(b *testing.B, host string) float64 {
	b.Helper()
	pid, err := cluster.Pid(host)
	if err != nil {
		b.Fatal(err)
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			kb, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				b.Fatal(err)
			}
			return float64(kb) / 1000
		}
	}
	b.Fatal("the status of a process does not say its memory")
	return 0
}
