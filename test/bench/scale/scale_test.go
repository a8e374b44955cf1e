// Package scale_test measures a whole cluster with many simulated workers (`kontiki dev --hollow`): the real binary, three masters, and
// workers that are real in all that masters see. Nothing is asserted about time. Run it with `make bench-scale`, which passes these
// variables:
//
//	HOLLOW   how many workers (200)
//	PODS     how many pods (2000)
//	SHAPES   which shapes of pods BenchmarkPods measures, separated by commas (all)
//	OBJECTS  how many objects the namespace has that is deleted (10000)
//	JOBPODS  how many pods the Job runs (PODS)
//	FLAPS    how many nodes are drained, deleted and registered again (200)
//	LIMIT    how long each benchmark may take (15m)
package scale_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/kontiki/kontiki/test/devcluster"
)

// clients is how many clients create objects at a time.
const clients = 32

var cluster *devcluster.Cluster

func number(variable string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

func hollow() int  { return number("HOLLOW", 200) }
func podsOf() int  { return number("PODS", 2000) }
func objects() int { return number("OBJECTS", 10000) }

// wanted says whether SHAPES has a shape.
func wanted(shape string) bool {
	list := os.Getenv("SHAPES")
	return list == "" || slices.Contains(strings.Split(list, ","), shape)
}

func TestMain(m *testing.M) {
	if os.Getenv("KONTIKI") == "" {
		fmt.Println("KONTIKI is not set: these benchmarks are run by `make bench-scale`")
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	interrupted, _ := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) // until this process ends
	stop, err := start(interrupted, hollow())
	stop = sync.OnceFunc(stop)
	defer stop()
	go func() {
		<-interrupted.Done()
		stop()
		os.Exit(1)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// startLimit is how long thousands of workers may take to join.
const startLimit = 20 * time.Minute

// start starts the cluster as a child that the kernel ends with this process, however that ends: thousands of workers must not outlive a
// benchmark that was interrupted or took too long. It reports how long the workers took to join, and what they cost.
func start(ctx context.Context, workers int) (stop func(), err error) {
	dir, err := os.MkdirTemp("", "kts")
	if err != nil {
		return func() {}, err
	}
	port, err := devcluster.FreePort()
	if err != nil {
		return func() { os.RemoveAll(dir) }, err
	}
	cluster = devcluster.At(os.Getenv("KONTIKI"), dir, port)
	cmd := exec.Command(cluster.Kontiki, "dev", "--data-dir", dir, "--masters", "3", "--workers", "0", "--hollow", strconv.Itoa(workers), "--api-port", strconv.Itoa(port))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return func() { os.RemoveAll(dir) }, err
	}
	cmd.Stderr = os.Stderr
	ended := make(chan error, 1)
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the kernel sends the signal when this thread ends
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return func() { os.RemoveAll(dir) }, err
	}
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(time.Minute):
			_ = cmd.Process.Kill()
			<-ended
		}
		_ = cluster.Stop() // what the supervisor has left, also after it was killed
	}
	begin := time.Now()
	ready := make(chan error, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			fmt.Fprintln(os.Stderr, lines.Text())
			if strings.Contains(lines.Text(), "hollow workers:") {
				ready <- nil
				break
			}
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	select {
	case err = <-ready:
	case err = <-ended:
		ended <- err
		err = fmt.Errorf("kontiki dev has ended: %w", err)
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(startLimit):
		err = fmt.Errorf("%d workers have not joined within %s", workers, startLimit)
	}
	if err != nil {
		return stop, err
	}
	fmt.Printf("%d workers joined within %s\n", workers, time.Since(begin).Round(100*time.Millisecond))
	return stop, cluster.Refresh()
}

// limited returns a context that bounds a benchmark.
func limited(b *testing.B) context.Context {
	limit, err := time.ParseDuration(os.Getenv("LIMIT"))
	if err != nil {
		limit = 15 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	b.Cleanup(cancel)
	return ctx
}

// newNamespace creates a namespace that is deleted at the end of the benchmark, also if that fails.
func newNamespace(ctx context.Context, b *testing.B, name string) string {
	b.Helper()
	name = fmt.Sprintf("%s-%d", name, time.Now().UnixNano()%1e9)
	if _, err := cluster.Set.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		after, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := removeNamespace(after, name); err != nil {
			b.Error(err)
		}
	})
	return name
}

// removeNamespace deletes a namespace and waits until it is gone.
func removeNamespace(ctx context.Context, name string) error {
	namespaces := cluster.Set.CoreV1().Namespaces()
	w, err := namespaces.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return err
	}
	defer w.Stop()
	if _, err := namespaces.Get(ctx, name, metav1.GetOptions{}); err != nil {
		return nil // it is gone
	}
	if err := namespaces.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	for event := range w.ResultChan() {
		if event.Type == watch.Deleted {
			return nil
		}
	}
	return fmt.Errorf("the watch of namespace %s ended", name)
}

// each calls a function with all numbers below n, by all clients.
func each(ctx context.Context, n int, call func(i int) error) error {
	var next atomic.Int64
	var callers sync.WaitGroup
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	for range clients {
		callers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := call(i); err != nil {
					cancel(err)
				}
			}
		})
	}
	callers.Wait()
	return context.Cause(ctx)
}

var masters = []string{"master-1", "master-2", "master-3"}

// usage is what the masters use together.
type usage struct {
	processor time.Duration
	resident  int64 // bytes
	peak      int64 // bytes, since resetPeak
}

func mastersUse() (u usage, err error) {
	for _, m := range masters {
		pid, err := cluster.Pid(m)
		if err != nil {
			return u, err
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return u, err
		}
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 13 {
			return u, errors.New("/proc/PID/stat is too short")
		}
		for _, f := range fields[11:13] {
			n, err := strconv.ParseInt(f, 10, 64)
			if err != nil {
				return u, err
			}
			u.processor += time.Duration(n) * 10 * time.Millisecond // USER_HZ is 100
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return u, err
		}
		for _, line := range strings.Split(string(status), "\n") {
			f := strings.Fields(line)
			if len(f) < 2 {
				continue
			}
			n, _ := strconv.ParseInt(f[1], 10, 64) // the lines that are used have a number
			switch f[0] {
			case "VmHWM:":
				u.peak += n << 10
			case "VmRSS:":
				u.resident += n << 10
			}
		}
	}
	return u, nil
}

// resetPeak begins to count the masters' peak memory anew.
func resetPeak() error {
	for _, m := range masters {
		pid, err := cluster.Pid(m)
		if err != nil {
			return err
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0); err != nil {
			return err
		}
	}
	return nil
}

// logSize returns the size of a master's folder of Raft logs.
func logSize(master string) (bytes int64, err error) {
	err = filepath.WalkDir(filepath.Join(cluster.Dir, "hosts", master, "raft"), func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			bytes += info.Size()
		}
		return err
	})
	return bytes, err
}
