package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kontiki/kontiki/node/runtime"
)

// Harness is one runtime under test.
type Harness struct {
	Runtime runtime.Runtime
	// Image is a local image with these commands: true; false; echo TEXT; cat; sleep N; sh -c with "exit N", with `echo TEXT`, and
	// with `trap "exit N" TERM` around a loop.
	Image string
	// Reopen returns a new Runtime with the same state, as after a restart of the agent; nil if that is not supported.
	Reopen func() runtime.Runtime
	// HasLogs means that the log file is written.
	HasLogs bool
}

// Suite checks the promises of runtime.Runtime. factory is called once per subtest.
func Suite(t *testing.T, factory func(t *testing.T) Harness) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *env)
	}{
		{"SandboxIsIdempotent", testSandbox},
		{"ExitCodesAreKept", testExitCodes},
		{"LogIsCompleteAtExit", testLog},
		{"SignalReachesTheProcess", testSignal},
		{"KillIgnoresHandlers", testKill},
		{"StartErrorIsAnExit", testStartError},
		{"ExecAnswersExitCodeAndOutput", testExec},
		{"ExecStopsWithContext", testExecContext},
		{"AttachReadsAndWrites", testAttach},
		{"UnknownIsNotFound", testNotFound},
		{"ListSeesOnePod", testList},
		{"NonRootIsVerified", testNonRoot},
		{"ImagesAreListed", testImages},
		{"ReopenFindsContainers", testReopen},
		{"SandboxKeepsItsGeneration", testGeneration},
		{"ImagesAreMountedForSandboxes", testMountImage},
		{"ProcessesAreJoinedWhileTheyRun", testProcessesOf},
		{"LimitsChangeInPlace", testUpdate},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
			defer cancel()
			e := &env{Harness: factory(t), t: t, ctx: ctx, dir: t.TempDir()}
			e.uid = fmt.Sprintf("uid-%d", time.Now().UnixNano())
			t.Cleanup(e.cleanup)
			c.test(t, e)
		})
	}
}

type env struct {
	Harness
	t   *testing.T
	ctx context.Context
	dir string
	uid string
	n   int
}

func (e *env) cleanup() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	list, _ := e.Runtime.ListContainers(ctx, "")
	for _, c := range list {
		if err := e.Runtime.KillContainer(ctx, c.ID); err != nil {
			e.t.Errorf("kill %s: %v", c.ID, err)
		}
		if err := e.Runtime.RemoveContainer(ctx, c.ID); err != nil {
			e.t.Errorf("remove %s: %v", c.ID, err)
		}
	}
	boxes, _ := e.Runtime.ListSandboxes(ctx)
	for _, s := range boxes {
		if err := e.Runtime.RemoveSandbox(ctx, s.UID); err != nil {
			e.t.Errorf("remove sandbox %s: %v", s.UID, err)
		}
	}
}

func (e *env) sandbox() runtime.SandboxConfig {
	e.t.Helper()
	c := runtime.SandboxConfig{UID: e.uid, Namespace: "ns", Name: "pod", Hostname: "pod"}
	if _, err := e.Runtime.EnsureSandbox(e.ctx, c); err != nil {
		e.t.Fatalf("EnsureSandbox: %v", err)
	}
	return c
}

func (e *env) create(mod func(*runtime.ContainerConfig), command ...string) string {
	e.t.Helper()
	e.n++
	c := runtime.ContainerConfig{Sandbox: e.sandbox(), Name: fmt.Sprintf("c%d", e.n), Attempt: 0, Image: e.Image, Command: command,
		LogPath: filepath.Join(e.dir, "logs", fmt.Sprintf("c%d", e.n), "0.log")}
	if mod != nil {
		mod(&c)
	}
	id, err := e.Runtime.CreateContainer(e.ctx, c)
	if err != nil {
		e.t.Fatalf("CreateContainer: %v", err)
	}
	return id
}

func (e *env) start(command ...string) string {
	e.t.Helper()
	id := e.create(nil, command...)
	if err := e.Runtime.StartContainer(e.ctx, id); err != nil {
		e.t.Fatalf("StartContainer: %v", err)
	}
	return id
}

func (e *env) get(id string) runtime.Container {
	e.t.Helper()
	c, err := e.Runtime.Container(e.ctx, id)
	if err != nil {
		e.t.Fatalf("Container: %v", err)
	}
	return c
}

// await waits for a state, by events and by polling.
func (e *env) await(id string, want runtime.State) runtime.Container {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.ctx, 20*time.Second)
	defer cancel()
	events := e.Runtime.Events(ctx)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		c := e.get(id)
		if c.State == want {
			return c
		}
		select {
		case <-events:
		case <-tick.C:
		case <-ctx.Done():
			e.t.Fatalf("container is %s, want %s: %+v", c.State, want, c)
		}
	}
}

func testSandbox(t *testing.T, e *env) {
	c := runtime.SandboxConfig{UID: e.uid, Namespace: "ns", Name: "pod", Hostname: "pod"}
	a, err := e.Runtime.EnsureSandbox(e.ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.Runtime.EnsureSandbox(e.ctx, c)
	if err != nil || a != b {
		t.Fatalf("second EnsureSandbox answers %+v, %v; first %+v", b, err, a)
	}
	if a.NetNS == "" {
		t.Fatal("a sandbox with its own network has no network namespace")
	}
	list, err := e.Runtime.ListSandboxes(e.ctx)
	if err != nil || !slices.Contains(list, a) {
		t.Fatalf("ListSandboxes = %+v, %v; want %+v in it", list, err, a)
	}
	for range 2 { // removing something that does not exist is not an error
		if err := e.Runtime.RemoveSandbox(e.ctx, e.uid); err != nil {
			t.Fatal(err)
		}
	}
	if list, _ = e.Runtime.ListSandboxes(e.ctx); len(list) != 0 {
		t.Fatalf("sandboxes after removal: %+v", list)
	}
}

func testExitCodes(t *testing.T, e *env) {
	for _, c := range []struct {
		command []string
		code    int
	}{{[]string{"true"}, 0}, {[]string{"false"}, 1}, {[]string{"sh", "-c", "exit 42"}, 42}} {
		id := e.start(c.command...)
		got := e.await(id, runtime.StateExited)
		if got.ExitCode != c.code || got.OOMKilled {
			t.Errorf("%q: exit code %d (oom %v), want %d", c.command, got.ExitCode, got.OOMKilled, c.code)
		}
		if got.StartedAt.IsZero() || got.FinishedAt.Before(got.StartedAt.Add(-time.Second)) {
			t.Errorf("%q: started %v, finished %v", c.command, got.StartedAt, got.FinishedAt)
		}
		if err := e.Runtime.RemoveContainer(e.ctx, id); err != nil {
			t.Error(err)
		}
		if _, err := e.Runtime.Container(e.ctx, id); !errors.Is(err, runtime.ErrNotFound) {
			t.Errorf("removed container answers %v, want ErrNotFound", err)
		}
	}
}

func testLog(t *testing.T, e *env) {
	if !e.HasLogs {
		t.Skip("writes no logs")
	}
	id := e.start("sh", "-c", "echo one; echo two >&2; printf three")
	c := e.await(id, runtime.StateExited)
	b, err := os.ReadFile(c.LogPath)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(b)) {
		at, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
			t.Errorf("line %q has no time", line)
		}
		got = append(got, rest)
	}
	slices.Sort(got) // the order between the streams is not defined
	if want := []string{"stderr F two", "stdout F one", "stdout P three"}; !slices.Equal(got, want) {
		t.Errorf("log = %q, want %q", got, want)
	}
}

func testSignal(t *testing.T, e *env) {
	id := e.start("sh", "-c", `trap "exit 7" TERM; echo ready; while :; do sleep 0.05; done`)
	e.await(id, runtime.StateRunning)
	if e.HasLogs { // the trap is set before ready is written
		for e.ctx.Err() == nil {
			if b, _ := os.ReadFile(e.get(id).LogPath); bytes.Contains(b, []byte("ready")) {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	if err := e.Runtime.SignalContainer(e.ctx, id, "SIGTERM"); err != nil {
		t.Fatal(err)
	}
	if c := e.await(id, runtime.StateExited); c.ExitCode != 7 {
		t.Errorf("exit code %d, want the handler's 7", c.ExitCode)
	}
	if err := e.Runtime.SignalContainer(e.ctx, id, "SIGTERM"); !errors.Is(err, runtime.ErrNotRunning) {
		t.Errorf("signal to an exited container: %v, want ErrNotRunning", err)
	}
}

func testKill(t *testing.T, e *env) {
	id := e.start("sh", "-c", `trap "" TERM; while :; do sleep 0.05; done`)
	if err := e.Runtime.KillContainer(e.ctx, id); err != nil {
		t.Fatal(err)
	}
	if c := e.get(id); c.State != runtime.StateExited || c.ExitCode != 137 || c.OOMKilled {
		t.Errorf("after KillContainer: %s, exit code %d, oom %v; want exited, 137, false", c.State, c.ExitCode, c.OOMKilled)
	}
	if err := e.Runtime.KillContainer(e.ctx, id); err != nil {
		t.Errorf("second KillContainer: %v", err)
	}
}

func testStartError(t *testing.T, e *env) {
	id := e.create(nil, "/no/such/program")
	err := e.Runtime.StartContainer(e.ctx, id)
	if err == nil {
		t.Fatal("a program that is not there started")
	}
	c := e.get(id)
	if c.State != runtime.StateExited || c.ExitCode != 128 || c.Reason != "StartError" || c.Message == "" {
		t.Errorf("after a failed start: %s, %d, %q, %q; want exited, 128, StartError and a message", c.State, c.ExitCode, c.Reason, c.Message)
	}
	if err := e.Runtime.RemoveContainer(e.ctx, id); err != nil {
		t.Error(err)
	}
}

func testExec(t *testing.T, e *env) {
	id := e.start("sleep", "1000")
	var out bytes.Buffer
	code, err := e.Runtime.Exec(e.ctx, id, runtime.ExecOptions{Command: []string{"echo", "hello"}, Stdout: &out})
	if err != nil || code != 0 || out.String() != "hello\n" {
		t.Errorf("echo: %d, %v, %q", code, err, out.String())
	}
	code, err = e.Runtime.Exec(e.ctx, id, runtime.ExecOptions{Command: []string{"sh", "-c", "exit 3"}})
	if err != nil || code != 3 {
		t.Errorf("exit 3: %d, %v", code, err)
	}
	out.Reset()
	code, err = e.Runtime.Exec(e.ctx, id, runtime.ExecOptions{Command: []string{"cat"}, Stdin: strings.NewReader("typed"), Stdout: &out})
	if err != nil || code != 0 || out.String() != "typed" {
		t.Errorf("cat: %d, %v, %q", code, err, out.String())
	}
	if _, err = e.Runtime.Exec(e.ctx, id, runtime.ExecOptions{Command: []string{"/no/such/program"}}); err == nil {
		t.Error("exec of a program that is not there succeeded")
	}
	if c := e.get(id); c.State != runtime.StateRunning {
		t.Errorf("the container is %s after exec", c.State)
	}
}

func testExecContext(t *testing.T, e *env) {
	id := e.start("sleep", "1000")
	ctx, cancel := context.WithTimeout(e.ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := e.Runtime.Exec(ctx, id, runtime.ExecOptions{Command: []string{"sleep", "1000"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("exec past its deadline: %v, want DeadlineExceeded", err)
	}
}

// syncBuffer can be read while it is being written.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func testAttach(t *testing.T, e *env) {
	id := e.create(func(c *runtime.ContainerConfig) { c.Stdin, c.StdinOnce = true, true }, "cat")
	if err := e.Runtime.StartContainer(e.ctx, id); err != nil {
		t.Fatal(err)
	}
	var out syncBuffer
	if err := e.Runtime.Attach(e.ctx, id, runtime.AttachOptions{Stdin: strings.NewReader("once upon"), Stdout: &out}); err != nil {
		t.Fatal(err)
	}
	if out.String() != "once upon" {
		t.Errorf("attached output = %q", out.String())
	}
	if c := e.await(id, runtime.StateExited); c.ExitCode != 0 {
		t.Errorf("exit code %d after the input's end", c.ExitCode)
	}
}

func testNotFound(t *testing.T, e *env) {
	if _, err := e.Runtime.Container(e.ctx, "none"); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("Container: %v", err)
	}
	if err := e.Runtime.RemoveContainer(e.ctx, "none"); err != nil {
		t.Errorf("RemoveContainer: %v", err)
	}
	if err := e.Runtime.KillContainer(e.ctx, "none"); err != nil {
		t.Errorf("KillContainer: %v", err)
	}
	if _, err := e.Runtime.GetImage(e.ctx, "example.invalid/none:1"); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("GetImage: %v", err)
	}
	if _, err := e.Runtime.GetImage(e.ctx, "UPPER case"); !errors.Is(err, runtime.ErrInvalidImageName) {
		t.Errorf("GetImage of a bad name: %v", err)
	}
	_, err := e.Runtime.CreateContainer(e.ctx, runtime.ContainerConfig{Sandbox: e.sandbox(), Name: "x", Image: "example.invalid/none:1"})
	if !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("CreateContainer without its image: %v", err)
	}
}

func testList(t *testing.T, e *env) {
	id := e.create(func(c *runtime.ContainerConfig) { c.Attempt = 3; c.Labels = map[string]string{"hash": "abc"} }, "true")
	list, err := e.Runtime.ListContainers(e.ctx, e.uid)
	if err != nil || len(list) != 1 {
		t.Fatalf("ListContainers = %+v, %v", list, err)
	}
	c := list[0]
	if c.ID != id || c.Attempt != 3 || c.Labels["hash"] != "abc" || c.PodUID != e.uid || c.PodName != "pod" || c.State != runtime.StateCreated || c.ImageID == "" {
		t.Errorf("listed %+v", c)
	}
	if list, _ := e.Runtime.ListContainers(e.ctx, "other"); len(list) != 0 {
		t.Errorf("another pod's list: %+v", list)
	}
}

func testNonRoot(t *testing.T, e *env) {
	c := runtime.ContainerConfig{Sandbox: e.sandbox(), Name: "x", Image: e.Image, Command: []string{"true"}, Security: runtime.Security{RunAsNonRoot: true}}
	if _, err := e.Runtime.CreateContainer(e.ctx, c); !errors.Is(err, runtime.ErrRunAsRoot) {
		t.Errorf("an image that runs as root: %v, want ErrRunAsRoot", err)
	}
	uid := int64(1000)
	c.Security.RunAsUser = &uid
	c.LogPath = filepath.Join(e.dir, "logs", "x", "0.log")
	if _, err := e.Runtime.CreateContainer(e.ctx, c); err != nil {
		t.Errorf("as user 1000: %v", err)
	}
}

func testImages(t *testing.T, e *env) {
	var archive bytes.Buffer
	if err := e.Runtime.ExportImage(e.ctx, e.Image, &archive); err != nil {
		t.Fatalf("ExportImage: %v", err)
	}
	exported, err := e.Runtime.GetImage(e.ctx, e.Image)
	if err != nil {
		t.Fatalf("GetImage: %v", err)
	}
	if list, err := e.Runtime.ImportImage(e.ctx, &archive); err != nil || len(list) != 1 || list[0].ID != exported.ID {
		t.Errorf("the exported archive has %+v (%v), not %s", list, err, exported.ID)
	}
	if err := e.Runtime.ExportImage(e.ctx, "docker.io/test/nowhere:1", &archive); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("ExportImage of an unknown image: %v", err)
	}
	if root, err := e.Runtime.ImageRoot(e.ctx); err != nil || root == "" {
		t.Errorf("ImageRoot: %q, %v", root, err)
	} else if info, err := os.Stat(root); err != nil || !info.IsDir() {
		t.Errorf("ImageRoot %s: %v", root, err)
	}
	img, err := e.Runtime.GetImage(e.ctx, e.Image)
	if err != nil {
		t.Fatal(err)
	}
	byID, err := e.Runtime.GetImage(e.ctx, img.ID)
	if err != nil || byID.ID != img.ID {
		t.Errorf("by ID: %+v, %v", byID, err)
	}
	list, err := e.Runtime.ListImages(e.ctx)
	if err != nil || !slices.ContainsFunc(list, func(i runtime.Image) bool { return i.ID == img.ID && slices.Contains(i.RepoTags, e.Image) }) {
		t.Errorf("ListImages = %+v, %v", list, err)
	}
}

func testReopen(t *testing.T, e *env) {
	if e.Reopen == nil {
		t.Skip("cannot reopen")
	}
	runs := e.start("sleep", "1000")
	ended := e.start("sh", "-c", "exit 5")
	e.await(ended, runtime.StateExited)
	before := e.get(runs)
	e.Runtime = e.Reopen()
	after := e.get(runs)
	if after.State != runtime.StateRunning || after.Pid != before.Pid || !after.StartedAt.Equal(before.StartedAt) {
		t.Errorf("after reopening: %+v, before: %+v", after, before)
	}
	if c := e.get(ended); c.State != runtime.StateExited || c.ExitCode != 5 {
		t.Errorf("ended container after reopening: %s, %d", c.State, c.ExitCode)
	}
	var out bytes.Buffer
	if code, err := e.Runtime.Exec(e.ctx, runs, runtime.ExecOptions{Command: []string{"echo", "alive"}, Stdout: &out}); err != nil || code != 0 || out.String() != "alive\n" {
		t.Errorf("exec after reopening: %d, %v, %q", code, err, out.String())
	}
	if err := e.Runtime.KillContainer(e.ctx, runs); err != nil {
		t.Error(err)
	}
	if c := e.get(runs); c.State != runtime.StateExited || c.ExitCode != 137 {
		t.Errorf("killed after reopening: %s, %d", c.State, c.ExitCode)
	}
}

func testGeneration(t *testing.T, e *env) {
	ensure := func(r runtime.Runtime) string {
		b, err := r.EnsureSandbox(e.ctx, runtime.SandboxConfig{UID: e.uid, Namespace: "ns", Name: "pod", Hostname: "pod"})
		if err != nil {
			t.Fatal(err)
		}
		return b.Generation
	}
	first := ensure(e.Runtime)
	if first == "" || ensure(e.Runtime) != first {
		t.Errorf("the generation of one sandbox is %q and then %q", first, ensure(e.Runtime))
	}
	if e.Reopen != nil {
		e.Runtime = e.Reopen()
		if again := ensure(e.Runtime); again != first {
			t.Errorf("after a restart of the agent the generation is %q, was %q", again, first)
		}
	}
}

func testMountImage(t *testing.T, e *env) {
	target := t.TempDir()
	if err := e.Runtime.MountImage(e.ctx, "no-such-pod", e.Image, target); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("without a sandbox: %v", err)
	}
	e.sandbox()
	if err := e.Runtime.MountImage(e.ctx, e.uid, "docker.io/no/such:1", target); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("an image that is not there: %v", err)
	}
	t.Cleanup(func() { UnmountBelow(filepath.Dir(target)) })
	for range 2 {
		if err := e.Runtime.MountImage(e.ctx, e.uid, e.Image, target); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := os.ReadDir(target); err != nil || len(entries) == 0 {
		t.Errorf("nothing is mounted: %v", err)
	}
}

func testProcessesOf(t *testing.T, e *env) {
	c := runtime.ContainerConfig{Sandbox: e.sandbox(), Name: "c", Image: e.Image, Command: []string{"true"}, ProcessesOf: "no-such-container"}
	if _, err := e.Runtime.CreateContainer(e.ctx, c); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("one that is not there: %v", err)
	}
	ended := e.start("true")
	e.await(ended, runtime.StateExited)
	c.ProcessesOf = ended
	if _, err := e.Runtime.CreateContainer(e.ctx, c); !errors.Is(err, runtime.ErrNotRunning) {
		t.Errorf("one that has ended: %v", err)
	}
}

func testUpdate(t *testing.T, e *env) {
	limited := runtime.Resources{CPUShares: 102, CPUQuota: 10_000, CPUPeriod: 100_000, MemoryLimit: 64 << 20}
	box := runtime.SandboxConfig{UID: e.uid, Namespace: "ns", Name: "pod", Hostname: "pod", Resources: limited}
	if _, err := e.Runtime.EnsureSandbox(e.ctx, box); err != nil {
		t.Fatalf("EnsureSandbox: %v", err)
	}
	id := e.create(func(c *runtime.ContainerConfig) { c.Sandbox, c.Resources = box, limited }, "sleep", "1000")
	if err := e.Runtime.UpdateResources(e.ctx, id, runtime.Resources{MemoryLimit: 1 << 30}); !errors.Is(err, runtime.ErrNotRunning) {
		t.Errorf("UpdateResources before the start: %v", err)
	}
	if err := e.Runtime.StartContainer(e.ctx, id); err != nil {
		t.Fatalf("StartContainer: %v", err)
	}
	limit := func() uint64 {
		s, err := e.Runtime.Stats(e.ctx, id)
		if err != nil {
			t.Fatalf("Stats: %v", err)
		}
		return s.MemoryLimit
	}
	for _, change := range []runtime.Resources{{MemoryLimit: 128 << 20}, {CPUShares: 204, CPUQuota: 20_000, CPUPeriod: 100_000}} {
		if err := e.Runtime.UpdateSandbox(e.ctx, e.uid, change); err != nil {
			t.Fatalf("UpdateSandbox %+v: %v", change, err)
		}
		if err := e.Runtime.UpdateResources(e.ctx, id, change); err != nil {
			t.Fatalf("UpdateResources %+v: %v", change, err)
		}
		if l := limit(); l != 128<<20 {
			t.Errorf("after %+v the memory limit is %d", change, l)
		}
	}
	down := runtime.Resources{MemoryLimit: 32 << 20}
	if err := e.Runtime.UpdateResources(e.ctx, id, down); err != nil {
		t.Fatalf("UpdateResources %+v: %v", down, err)
	}
	if err := e.Runtime.UpdateSandbox(e.ctx, e.uid, down); err != nil {
		t.Fatalf("UpdateSandbox %+v: %v", down, err)
	}
	if l := limit(); l != 32<<20 {
		t.Errorf("the memory limit is %d", l)
	}
	if err := e.Runtime.UpdateSandbox(e.ctx, "no-such-pod", down); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("UpdateSandbox of an unknown one: %v", err)
	}
}
