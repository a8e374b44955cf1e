package guard

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/test/await"
)

// guarded is the program that a test runs as a guard's process.
const guarded = "KONTIKI_TEST_GUARD"

func TestMain(m *testing.M) {
	if os.Getenv(guarded) != "" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// podCgroup makes the cgroup of a pod in which a process sleeps, and returns the parent's name and the process.
func podCgroup(t *testing.T, uid string) (parent string, process *exec.Cmd) {
	t.Helper()
	parent = "kontiki-test-" + strconv.Itoa(os.Getpid())
	c := newCgroups(parent)
	root := c.root.Dir
	if !c.root.V2 {
		root = filepath.Join(root, "freezer")
	}
	dir := filepath.Join(root, parent, "pod"+uid)
	inner := filepath.Join(dir, "container")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Skip("cgroups cannot be made here: ", err) // without root, or with a read-only /sys/fs/cgroup, as in many containers
	}
	t.Cleanup(func() {
		for _, d := range []string{inner, dir, filepath.Dir(dir)} {
			await.That(t, "the kernel to take dead processes out of their cgroup", func() error {
				if err := os.Remove(d); err != nil && !os.IsNotExist(err) {
					return err
				}
				return nil
			})
		}
	})
	process = exec.Command("sleep", "3600")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { process.Process.Kill() })
	if err := os.WriteFile(filepath.Join(inner, "cgroup.procs"), []byte(strconv.Itoa(process.Process.Pid)), 0o644); err != nil {
		t.Skip("processes cannot be put into cgroups here: ", err) // on cgroup v2 in a delegated subtree whose root has processes
	}
	return parent, process
}

func start(t *testing.T, socket, parent string) *Guard {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(guarded, "1")
	g := &Guard{Command: []string{self}, Socket: socket, CgroupParent: parent}
	t.Cleanup(g.Close)
	return g
}

func alive(p *exec.Cmd) bool { return unix.Kill(p.Process.Pid, 0) == nil }

func TestAGuardKillsPodsWhoseLeaseIsOver(t *testing.T) {
	parent, process := podCgroup(t, "p1")
	socket := filepath.Join(t.TempDir(), "guard.sock")
	g := start(t, socket, parent)
	if _, ok := g.Found(t.Context()); ok {
		t.Fatal("there is a guard that nobody started")
	}
	far := Now() + time.Hour
	if err := g.Tell(t.Context(), State{Deadline: far, Pods: []string{"p1"}}); err != nil {
		t.Fatal(err)
	}
	// The agent ends, and another one finds the guard with what it was told.
	g.Close()
	again := start(t, socket, parent)
	s, ok := again.Found(t.Context())
	if !ok || s.Deadline != far || len(s.Pods) != 1 {
		t.Fatalf("the guard holds to %+v, %v", s, ok)
	}
	if !alive(process) {
		t.Fatal("a process was killed that has a lease")
	}
	// That one ends too, and the lease runs out without an agent.
	if err := again.Tell(t.Context(), State{Deadline: Now() + 200*time.Millisecond, Pods: []string{"p1"}}); err != nil {
		t.Fatal(err)
	}
	again.Close()
	if err := process.Wait(); err == nil {
		t.Error("the process ended by itself")
	} else if signal := process.ProcessState.Sys().(syscall.WaitStatus).Signal(); signal != syscall.SIGKILL {
		t.Errorf("it ended by signal %v", signal)
	}
	// Nothing is left to do, so the guard ends.
	awaitNone(t, again)
}

func awaitNone(t *testing.T, g *Guard) {
	t.Helper()
	await.That(t, "the guard to end", func() error {
		if _, err := os.Stat(g.Socket); !os.IsNotExist(err) {
			return fmt.Errorf("its socket: %v", err)
		}
		return nil
	})
}

// A guard that is killed is started again by the agent, and told everything.
func TestAGuardThatIsGone(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "guard.sock")
	g := start(t, socket, "none")
	if err := g.Tell(t.Context(), State{Deadline: Now() + time.Hour, Pods: []string{"p"}}); err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	raw, err := g.conn.(interface {
		SyscallConn() (syscall.RawConn, error)
	}).SyscallConn()
	g.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	var peer *unix.Ucred
	if err := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || peer == nil {
		t.Fatal(err)
	}
	if err := unix.Kill(int(peer.Pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	told := State{Deadline: Now() + 2*time.Hour, Pods: []string{"p"}}
	await.That(t, "the new guard to answer", func() error { return g.Tell(context.Background(), told) })
	if s, ok := g.Found(t.Context()); !ok || s.Deadline != told.Deadline {
		t.Errorf("the new guard holds to %+v", s)
	}
	if err := g.Tell(t.Context(), State{}); err != nil {
		t.Fatal(err)
	}
	g.Close()
	awaitNone(t, g)
}

// Time is looked at again and again, so a deadline that passes while the machine sleeps is noticed, and so is a process that is started
// after the deadline.
func TestPodsAreKilledAsLongAsThereIsNoLease(t *testing.T) {
	var mu sync.Mutex
	var now time.Duration
	killed := 0
	s := &server{now: func() time.Duration { return now }, kill: func(string) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		killed++
		return killed < 3, nil
	}}
	s.state = State{Deadline: time.Second, Pods: []string{"p"}}
	if !s.look() || killed != 0 {
		t.Errorf("killed %d times with a lease", killed)
	}
	now = time.Hour
	for i := 1; i <= 2; i++ {
		if !s.look() || killed != i {
			t.Errorf("killed %d times, expected %d", killed, i)
		}
	}
	if s.look() {
		t.Error("needed though nothing is left and there is no agent")
	}
	s.state.Deadline = 2 * time.Hour
	if !s.look() || killed != 3 {
		t.Errorf("killed %d times with a new lease", killed)
	}
}
