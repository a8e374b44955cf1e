package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/test/devcluster"
)

// previousVersion is the version of a binary with the previous feature level.
const previousVersion = "v1.37.2+kontiki.0.0.previous"

// previousProgram builds it. It differs from the binary under test only in its version and its feature level.
func previousProgram(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kontiki")
	build := exec.Command("go", "build", "-trimpath", "-tags", "previouslevel", "-ldflags", "-s -w -X github.com/kontiki/kontiki/cmd/kontiki/process.GitVersion="+previousVersion, "-o", path, "../../cmd/kontiki")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the previous program: %v\n%s", err, out)
	}
	return path
}

// ownCluster starts a cluster for one test, which all helpers use until the test ends.
func ownCluster(t *testing.T, program string, masters, workers int, further ...string) {
	t.Helper()
	shared := env
	own, err := devcluster.StartProgram(program, t.Output(), masters, workers, further...)
	t.Cleanup(func() {
		if t.Failed() {
			own.ShowLogs(t.Output())
		}
		if err := own.Stop(); err != nil {
			t.Error(err)
		}
		env = shared
	})
	if err != nil {
		t.Fatal(err)
	}
	env = own
}

func member(t *testing.T, host string) cluster.MemberStatus {
	t.Helper()
	s, _ := clusterStatus(t)
	i := slices.IndexFunc(s.Members, func(m cluster.MemberStatus) bool { return m.Name == host })
	if i < 0 {
		t.Fatalf("%s is not among %+v", host, s.Members)
	}
	return s.Members[i]
}

// newestSnapshot returns the last index in a master's newest raft snapshot.
func newestSnapshot(t *testing.T, host string) (newest uint64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(hostDir(host), "raft", "snapshots", "*-*-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		fields := strings.Split(filepath.Base(file), "-") // term, index, time
		index, err := strconv.ParseUint(fields[1], 10, 64)
		if err == nil && !strings.HasSuffix(file, ".tmp") {
			newest = max(newest, index)
		}
	}
	return newest
}

// logSince returns what a host has logged since its log had a given size; logSize returns that size.
func logSince(t *testing.T, host string, size int) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(env.Dir, "logs", host+".log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(data[size:])
}

func logSize(t *testing.T, host string) int { return len(logSince(t, host, 0)) }

// The masters of TestRollingUpgrade keep so few log entries that a master which is down for a moment is sent a snapshot.
const upgradeTrailing = 300

// TestRollingUpgrade follows the upgrade in docs/operations.md with two binaries, and the way back, while a client writes and
// containers run. Masters of both versions work together whichever of them leads, also by snapshots.
func TestRollingUpgrade(t *testing.T) {
	previous, next := previousProgram(t), os.Getenv("KONTIKI")
	printed, err := exec.Command(next, "--version").Output()
	fields := strings.Fields(string(printed))
	if err != nil || len(fields) == 0 {
		t.Fatalf("%s --version: %s %v", next, printed, err)
	}
	nextVersion := fields[len(fields)-1]
	ownCluster(t, previous, masters, workers, "--server-arg=--log-level=debug", "--server-arg=--raft-snapshot-interval=1s",
		fmt.Sprintf("--server-arg=--raft-snapshot-threshold=%d", upgradeTrailing), fmt.Sprintf("--server-arg=--raft-trailing-logs=%d", upgradeTrailing))
	healthy(t)
	const ns, before, after = "upgrade", cluster.FeatureLevel - 1, cluster.FeatureLevel
	kubectl(t, "create", "namespace", ns)
	for i := range workers {
		apply(t, in(ns, toolPod(fmt.Sprint("server-", i+1), fmt.Sprint("worker-", i+1), "tools", "serve")))
	}
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s")
	containers, nodes := containerIDs(t, ns), readySince(t)
	w := writeEvery(ns, 10*time.Millisecond)
	defer w.done.Wait()
	defer w.stop()

	// A master that does not answer in time counts as one that is waited for, and as of no version: what it says is awaited.
	level := func(want int, behind ...string) {
		t.Helper()
		slices.Sort(behind)
		eventually(t, time.Minute, fmt.Sprintf("feature level %d, which waits for %v", want, behind), func() error {
			if s, _ := clusterStatus(t); s.FeatureLevel != want || !slices.Equal(s.Behind, behind) {
				return fmt.Errorf("it is %d, and waits for %v", s.FeatureLevel, s.Behind)
			}
			return nil
		})
	}
	runs := func(host, version string) {
		t.Helper()
		healthy(t)
		eventually(t, time.Minute, host+" to run "+version, func() error {
			if m := member(t, host); m.Version != version {
				return fmt.Errorf("it runs %q", m.Version)
			}
			return nil
		})
	}
	// replace stops a master, as a service manager does, and starts it with a program.
	replace := func(host, program, version string) {
		t.Helper()
		must(t, "dev", "stop", host)
		must(t, "dev", "start", host, "--kontiki", program)
		runs(host, version)
	}
	// bySnapshot is replace of a follower that stays down until the leader's log no longer has the entries that it needs.
	bySnapshot := func(host, program, version string) {
		t.Helper()
		must(t, "dev", "stop", host)
		leader, err := env.Leader()
		if err != nil {
			t.Fatal(err)
		}
		last := member(t, leader).LastIndex
		eventually(t, time.Minute, "the leader's log to be cut", func() error {
			if newest := newestSnapshot(t, leader); newest < last+upgradeTrailing {
				return fmt.Errorf("its snapshot ends at %d, the log of %s at %d", newest, host, last)
			}
			return nil
		})
		size := logSize(t, host)
		must(t, "dev", "start", host, "--kontiki", program)
		runs(host, version)
		contains(t, strings.ToLower(logSince(t, host, size)), "installed remote snapshot")
	}

	s, _ := clusterStatus(t)
	var followers []string
	for _, m := range s.Members {
		if m.Version != previousVersion || m.FeatureLevel != before {
			t.Errorf("before the upgrade: %+v", m)
		}
		if m.Name != s.Leader {
			followers = append(followers, m.Name)
		}
	}
	level(before)
	first, second, third := followers[0], followers[1], s.Leader

	// The previous version leads, and sends the next one its snapshot.
	bySnapshot(first, next, nextVersion)
	level(before, second, third)
	file := filepath.Join(t.TempDir(), "state.snapshot")
	must(t, "snapshot", "save", file)
	// The other way round.
	contains(t, must(t, "cluster", "transfer", first), first+" leads")
	bySnapshot(second, previous, previousVersion)
	level(before, second, third)
	// A downgrade is still possible.
	replace(first, previous, previousVersion)
	level(before)

	// One after the other, whichever master leads.
	replace(first, next, nextVersion)
	replace(second, next, nextVersion)
	level(before, third)
	replace(third, next, nextVersion)
	level(after)
	for i := range workers {
		host := fmt.Sprint("worker-", i+1)
		must(t, "dev", "stop", host)
		must(t, "dev", "start", host, "--kontiki", next)
		eventually(t, time.Minute, host+" to be of the next program", func() error {
			node, err := env.Set.CoreV1().Nodes().Get(context.Background(), host, metav1.GetOptions{})
			if err == nil && node.Status.NodeInfo.KubeletVersion != nextVersion {
				err = errors.New(node.Status.NodeInfo.KubeletVersion)
			}
			return err
		})
	}
	sameContainers(t, containers, containerIDs(t, ns))
	for name, since := range readySince(t) {
		if since != nodes[name] {
			t.Errorf("%s was not ready during the upgrade: %s, before %s", name, since, nodes[name])
		}
	}

	// A downgrade is no longer possible, neither for a member nor for a new machine.
	refused := func(what string) {
		t.Helper()
		size := logSize(t, third)
		must(t, "dev", "start", third, "--kontiki", previous)
		eventually(t, time.Minute, third+" to refuse", func() error {
			log := logSince(t, third, size)
			if !strings.Contains(log, fmt.Sprintf("the cluster is at level %d", after)) || !strings.Contains(log, what) {
				return fmt.Errorf("it says\n%s", log[max(0, len(log)-2000):])
			}
			return nil
		})
		must(t, "dev", "kill", third)
	}
	must(t, "dev", "stop", third)
	refused(fmt.Sprintf("this program (version %s) supports %d: run a newer version of it", previousVersion, before))
	if err := os.RemoveAll(hostDir(third)); err != nil {
		t.Fatal(err)
	}
	refused(fmt.Sprintf("the master %s (version %s) supports %d: run a newer version of it there", third, previousVersion, before))
	must(t, "dev", "start", third, "--kontiki", next)
	runs(third, nextVersion)

	w.stop()
	w.done.Wait()
	w.nothingLost(t, ns)
	contains(t, must(t, "snapshot", "restore", file), "restored revision") // what was saved before the level rose
	if out := bytes.TrimSpace([]byte(kubectl(t, "-n", ns, "get", "pods", "-o", "name"))); bytes.Count(out, []byte("\n")) != workers-1 {
		t.Errorf("pods after the restore: %s", out)
	}
}
