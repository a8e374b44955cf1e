package bench_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
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
// of the leader, and the higher of the two followers'.
func BenchmarkIdle(b *testing.B) {
	leader, followers, err := roles()
	if err != nil {
		b.Fatal(err)
	}
	settle.Do(func() { time.Sleep(15 * time.Second) }) // what starting left to do
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
