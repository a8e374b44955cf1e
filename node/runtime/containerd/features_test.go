package containerd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
)

// lab runs single containers.
type lab struct {
	t   *testing.T
	r   *Runtime
	ctx context.Context
	dir string
	n   int
}

func newLab(t *testing.T, d *runtimetest.Daemon, image []byte) *lab {
	r, _ := open(t, d, image)
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	l := &lab{t: t, r: r, ctx: ctx, dir: t.TempDir()}
	t.Cleanup(func() {
		defer cancel()
		list, _ := r.ListContainers(ctx, "")
		for _, c := range list {
			_ = r.KillContainer(ctx, c.ID)
			if err := r.RemoveContainer(ctx, c.ID); err != nil {
				t.Error(err)
			}
		}
		boxes, _ := r.ListSandboxes(ctx)
		for _, b := range boxes {
			if err := r.RemoveSandbox(ctx, b.UID); err != nil {
				t.Error(err)
			}
		}
	})
	return l
}

// create makes a container in a sandbox of its own, unless mod puts it elsewhere.
func (l *lab) create(mod func(*runtime.ContainerConfig), script string) string {
	l.t.Helper()
	l.n++
	uid := fmt.Sprintf("pod%d", l.n)
	c := runtime.ContainerConfig{Sandbox: runtime.SandboxConfig{UID: uid, Namespace: "ns", Name: uid, Hostname: uid}, Name: "c", Image: runtimetest.BusyboxName,
		Command: []string{"sh", "-c", script}, LogPath: filepath.Join(l.dir, uid, fmt.Sprint(l.n), "0.log")}
	if mod != nil {
		mod(&c)
	}
	if _, err := l.r.EnsureSandbox(l.ctx, c.Sandbox); err != nil {
		l.t.Fatal(err)
	}
	id, err := l.r.CreateContainer(l.ctx, c)
	if err != nil {
		l.t.Fatal(err)
	}
	return id
}

func (l *lab) start(mod func(*runtime.ContainerConfig), script string) string {
	l.t.Helper()
	id := l.create(mod, script)
	if err := l.r.StartContainer(l.ctx, id); err != nil {
		l.t.Fatal(err)
	}
	return id
}

// run runs a script to its end, and answers its container and what it wrote.
func (l *lab) run(mod func(*runtime.ContainerConfig), script string) (runtime.Container, string) {
	l.t.Helper()
	id := l.start(mod, script)
	c, err := l.r.get(id)
	if err != nil {
		l.t.Fatal(err)
	}
	select {
	case <-c.exited:
	case <-l.ctx.Done():
		l.t.Fatal("it does not end")
	}
	info := c.snapshot()
	b, _ := os.ReadFile(info.LogPath)
	var out strings.Builder
	for line := range strings.Lines(string(b)) {
		if f := strings.SplitN(line, " ", 4); len(f) == 4 {
			out.WriteString(f[3])
		}
	}
	return info, out.String()
}

func (l *lab) exec(id string, command ...string) string {
	l.t.Helper()
	var out bytes.Buffer
	code, err := l.r.Exec(l.ctx, id, runtime.ExecOptions{Command: command, Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		l.t.Fatalf("exec %q: %d, %v, %s", command, code, err, out.String())
	}
	return out.String()
}

func TestFeatures(t *testing.T) {
	d := runtimetest.StartDaemon(t)
	image := runtimetest.BusyboxArchive(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *lab)
	}{
		{"MemoryLimitKills", testOOM},
		{"UsersAndGroups", testUsers},
		{"Capabilities", testCapabilities},
		{"ReadOnlyRootfs", testReadOnly},
		{"Environment", testEnvironment},
		{"PodSharesNamespaces", testShared},
		{"SharedProcessNamespace", testSharedPID},
		{"SharedProcessNamespaceGivenUp", testSharedPIDGivenUp},
		{"HostNetwork", testHostNetwork},
		{"Terminal", testTerminal},
		{"LogRotates", testRotation},
		{"Limits", testLimits},
		{"CountsUsage", testStats},
		{"Seccomp", testSeccomp},
		{"PrivilegedHasAll", testPrivileged},
		{"SharedShim", testSharedShim},
		{"SlowReaderLosesNothing", testSlowReader},
		{"Sysctls", testSysctls},
		{"JoinsProcesses", testProcessesOf},
		{"ReadOnlyMounts", testReadOnlyMounts},
		{"ImageMount", testImageMount},
		{"RemovedImageIsGone", testRemoveImage},
		{"BadArchive", testBadArchive},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, newLab(t, d, image)) })
	}
}

func testOOM(t *testing.T, l *lab) {
	c, _ := l.run(func(c *runtime.ContainerConfig) { c.Resources.MemoryLimit = 16 << 20 }, "head -c 200000000 /dev/zero | tail")
	if c.ExitCode == 0 {
		t.Fatalf("it survived: %+v", c)
	}
	c, _ = l.run(func(c *runtime.ContainerConfig) {
		c.Resources.MemoryLimit = 16 << 20
		c.Command = []string{"tail", "/dev/zero"}
	}, "")
	if !c.OOMKilled || c.Reason != "OOMKilled" || c.ExitCode != 137 {
		t.Errorf("exit %d, oom %v, reason %q", c.ExitCode, c.OOMKilled, c.Reason)
	}
	// A limit of the pod counts as well.
	c, _ = l.run(func(c *runtime.ContainerConfig) {
		c.Sandbox.Resources.MemoryLimit = 16 << 20
		c.Command = []string{"tail", "/dev/zero"}
	}, "")
	if !c.OOMKilled {
		t.Errorf("pod's limit: exit %d, oom %v", c.ExitCode, c.OOMKilled)
	}
}

func testUsers(t *testing.T, l *lab) {
	id := func(v int64) *int64 { return &v }
	for _, c := range []struct {
		name string
		s    runtime.Security
		want string
	}{
		{"root of the image", runtime.Security{}, "0 0 0 10"},
		{"a user that the image knows", runtime.Security{RunAsUser: id(1000)}, "1000 1000 1000 50"},
		{"one that it does not know", runtime.Security{RunAsUser: id(4321)}, "4321 0 0"},
		{"group and supplemental groups", runtime.Security{RunAsUser: id(1000), RunAsGroup: id(2000), SupplementalGroups: []int64{3000}}, "1000 2000 2000 50 3000"},
		{"strict groups", runtime.Security{RunAsUser: id(1000), StrictGroups: true, SupplementalGroups: []int64{3000}}, "1000 1000 1000 3000"},
	} {
		_, out := l.run(func(cfg *runtime.ContainerConfig) { cfg.Security = c.s }, "echo $(id -u) $(id -g) $(id -G)")
		if got := strings.TrimSpace(out); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func testCapabilities(t *testing.T, l *lab) {
	caps := func(s runtime.Security) string {
		_, out := l.run(func(c *runtime.ContainerConfig) { c.Security = s }, "grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status")
		return out
	}
	if got := caps(runtime.Security{DropCaps: []string{"ALL"}, NoNewPrivileges: true}); !strings.Contains(got, "0000000000000000") || !strings.Contains(got, "NoNewPrivs:\t1") {
		t.Errorf("all dropped: %s", got)
	}
	if got := caps(runtime.Security{DropCaps: []string{"ALL"}, AddCaps: []string{"NET_BIND_SERVICE"}}); !strings.Contains(got, "0000000000000400") {
		t.Errorf("one added: %s", got)
	}
	if got := caps(runtime.Security{AddCaps: []string{"SYS_RESOURCE"}}); !strings.Contains(got, "CapEff") {
		t.Errorf("one that we may not have ourselves: %s", got)
	}
}

func testReadOnly(t *testing.T, l *lab) {
	_, out := l.run(func(c *runtime.ContainerConfig) { c.Security.ReadOnlyRootfs = true }, "touch /x || echo refused; touch /dev/shm/x && echo shm")
	if !strings.Contains(out, "refused") || !strings.Contains(out, "shm") {
		t.Errorf("%q", out)
	}
}

func testEnvironment(t *testing.T, l *lab) {
	_, out := l.run(func(c *runtime.ContainerConfig) {
		c.Env = []runtime.KeyValue{{Name: "A", Value: "1"}, {Name: "A", Value: "2"}}
		c.WorkingDir = "/made/here"
	}, "echo $A $HOSTNAME $(hostname) $(pwd)")
	if got := strings.TrimSpace(out); got != "2 pod1 pod1 /made/here" {
		t.Errorf("%q", got)
	}
}

func testShared(t *testing.T, l *lab) {
	in := func(c *runtime.ContainerConfig) {
		c.Sandbox = runtime.SandboxConfig{UID: "both", Name: "both", Hostname: "both"}
	}
	server := l.start(in, "echo served > /dev/shm/x; while :; do nc -l -p 8080 -e echo over-loopback; done")
	for l.ctx.Err() == nil {
		if strings.Contains(l.exec(server, "netstat", "-ltn"), ":8080") {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	_, out := l.run(in, "hostname; cat /dev/shm/x; nc 127.0.0.1 8080 </dev/null; ls /proc | grep -c '^[0-9]'")
	if !strings.Contains(out, "both\nserved\nover-loopback\n") {
		t.Errorf("%q", out)
	}
	a, b := l.r.get(server)
	if b != nil {
		t.Fatal(b)
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d", a.snapshot().Pid)); err != nil {
		t.Error(err)
	}
}

func testSharedPID(t *testing.T, l *lab) {
	in := func(c *runtime.ContainerConfig) {
		c.Sandbox = runtime.SandboxConfig{UID: "pids", Name: "pids", Hostname: "pids", SharePID: true}
	}
	first := l.start(in, "exec sleep 12345")
	_, out := l.run(in, "ps -o pid,args; (sleep 0.1 &) ; sleep 0.3; echo zombies $(ps -o stat,args | grep -c '^Z')")
	if !strings.Contains(out, "sleep 12345") || !strings.Contains(out, "/init") || !strings.Contains(out, "zombies 0") {
		t.Errorf("%q", out)
	}
	if err := l.r.KillContainer(l.ctx, first); err != nil {
		t.Error(err)
	}
}

// testSharedPIDGivenUp gives up a pod at moments all over the start of its first process: it can be removed each time.
func testSharedPIDGivenUp(t *testing.T, l *lab) {
	given := 0
	for cut := time.Duration(0); cut < 300*time.Millisecond; cut += 4 * time.Millisecond {
		l.n++
		uid := fmt.Sprintf("given-up-%d", l.n)
		box := runtime.SandboxConfig{UID: uid, Namespace: "ns", Name: uid, Hostname: uid, SharePID: true}
		if _, err := l.r.EnsureSandbox(l.ctx, box); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(l.ctx, cut)
		id, err := l.r.CreateContainer(ctx, runtime.ContainerConfig{Sandbox: box, Name: "c", Image: runtimetest.BusyboxName, Command: []string{"true"}})
		cancel()
		if err != nil {
			given++
		} else if err := l.r.RemoveContainer(l.ctx, id); err != nil {
			t.Fatal(err)
		}
		if err := l.r.RemoveSandbox(l.ctx, uid); err != nil {
			t.Fatalf("given up after %v: %v", cut, err)
		}
		if err == nil && given > 0 {
			return
		}
	}
	if given == 0 {
		t.Error("no start was given up")
	}
}

func testHostNetwork(t *testing.T, l *lab) {
	_, out := l.run(func(c *runtime.ContainerConfig) { c.Sandbox.Net = runtime.NamespaceHost }, "readlink /proc/self/ns/net")
	own, err := os.Readlink("/proc/thread-self/ns/net") // the main thread may be in a pod's
	if err != nil || strings.TrimSpace(out) != own {
		t.Errorf("container is in %q, the agent in %q", out, own)
	}
}

func testTerminal(t *testing.T, l *lab) {
	info, out := l.run(func(c *runtime.ContainerConfig) { c.TTY = true; c.Stdin = true }, "tty; echo done")
	if info.ExitCode != 0 || !strings.Contains(out, "/dev/pts/0") || !strings.Contains(out, "done") {
		t.Errorf("%+v %q", info, out)
	}
	id := l.start(nil, "sleep 1000")
	resize := make(chan runtime.Size, 1)
	resize <- runtime.Size{Width: 123, Height: 45}
	var screen bytes.Buffer
	pr, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pr.Close()
	go func() {
		fmt.Fprint(pw, "until stty size | grep -q 45; do sleep 0.05; done; stty size; exit 9\n")
		pw.Close()
	}()
	code, err := l.r.Exec(l.ctx, id, runtime.ExecOptions{Command: []string{"sh"}, TTY: true, Stdin: pr, Stdout: &screen, Resize: resize})
	if err != nil || code != 9 || !strings.Contains(screen.String(), "45 123") {
		t.Errorf("%d, %v, %q", code, err, screen.String())
	}
}

func testRotation(t *testing.T, l *lab) {
	l.r.c.LogMaxBytes, l.r.c.LogMaxFiles = 10_000, 3
	info, _ := l.run(nil, "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done")
	logs, err := filepath.Glob(info.LogPath + "*")
	if err != nil || len(logs) != 3 {
		t.Errorf("log files %v, %v; want 3", logs, err)
	}
	var last string
	for _, f := range logs {
		b, err := os.ReadFile(f)
		if err != nil || len(b) > 10_000 {
			t.Errorf("%s: %d bytes, %v", f, len(b), err)
		}
		if f == info.LogPath {
			last = string(b)
		}
	}
	if !strings.HasSuffix(last, "stdout F line 1999\n") {
		t.Errorf("the current file ends with %q", last[max(0, len(last)-80):])
	}
	if err := l.r.RemoveContainer(l.ctx, info.ID); err != nil {
		t.Fatal(err)
	}
	if logs, _ = filepath.Glob(info.LogPath + "*"); len(logs) != 0 {
		t.Errorf("logs of a removed container: %v", logs)
	}
}

func testLimits(t *testing.T, l *lab) {
	id := l.start(func(c *runtime.ContainerConfig) {
		c.Resources = runtime.Resources{CPUShares: 512, CPUQuota: 50_000, CPUPeriod: 100_000, MemoryLimit: 64 << 20, PidsLimit: 50}
	}, "sleep 1000")
	c, _ := l.r.get(id)
	path := filepath.Join(l.r.podCgroup(c.snapshot().PodUID), id)
	read := func(controller, v1, v2 string) string {
		f := v1
		if l.r.cg.v2 {
			f = v2
		}
		b, err := os.ReadFile(filepath.Join(l.r.cg.dir(controller, path), f))
		if err != nil {
			t.Error(err)
		}
		return strings.TrimSpace(string(b))
	}
	if got := read("memory", "memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(64<<20) {
		t.Errorf("memory limit %s", got)
	}
	if got := read("pids", "pids.max", "pids.max"); got != "50" {
		t.Errorf("process limit %s", got)
	}
	if got := read("cpu", "cpu.cfs_quota_us", "cpu.max"); !strings.HasPrefix(got, "50000") {
		t.Errorf("processor limit %s", got)
	}
	if err := l.r.UpdateResources(l.ctx, id, runtime.Resources{MemoryLimit: 128 << 20}); err != nil {
		t.Error(err)
	}
	if got := read("memory", "memory.limit_in_bytes", "memory.max"); got != fmt.Sprint(128<<20) {
		t.Errorf("memory limit after the update %s", got)
	}
}

func testStats(t *testing.T, l *lab) {
	id := l.start(nil, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; head -c 1000000 /dev/zero > /file; echo ready; sleep 1000")
	c, _ := l.r.get(id)
	for l.ctx.Err() == nil {
		if b, _ := os.ReadFile(c.snapshot().LogPath); bytes.Contains(b, []byte("ready")) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	s, err := l.r.Stats(l.ctx, id)
	if err != nil || s.CPUNanoseconds == 0 || s.MemoryBytes == 0 || s.Processes == 0 || s.RootfsBytes < 1_000_000 || s.LogBytes == 0 {
		t.Errorf("%+v, %v", s, err)
	}
}

func testSeccomp(t *testing.T, l *lab) {
	_, out := l.run(func(c *runtime.ContainerConfig) { c.Security.Seccomp = "runtime/default" }, "grep Seccomp: /proc/self/status")
	if !strings.Contains(out, "2") {
		t.Errorf("%q", out)
	}
	if _, out = l.run(nil, "grep Seccomp: /proc/self/status"); !strings.Contains(out, "0") {
		t.Errorf("by default: %q", out)
	}
}

func testRemoveImage(t *testing.T, l *lab) {
	if err := l.r.RemoveImage(l.ctx, runtimetest.BusyboxName); err != nil {
		t.Fatal(err)
	}
	if _, err := l.r.GetImage(l.ctx, runtimetest.BusyboxName); err == nil {
		t.Error("a removed image is still there")
	}
}

func testBadArchive(t *testing.T, l *lab) {
	if _, err := l.r.ImportImage(l.ctx, strings.NewReader("this is no archive")); err == nil {
		t.Error("garbage was imported")
	}
	if _, err := l.r.ImportImage(l.ctx, bytes.NewReader(runtimetest.BusyboxArchive(t)[:5000])); err == nil {
		t.Error("half an archive was imported")
	}
}

// TestDaemonKilled: the daemon goes and comes; containers run on, exits meanwhile are seen after.
func TestDaemonKilled(t *testing.T) {
	d := runtimetest.StartDaemon(t)
	l := newLab(t, d, runtimetest.BusyboxArchive(t))
	runs := l.start(nil, "sleep 1000")
	ends := l.start(nil, "while [ ! -e /dev/shm/go ]; do sleep 0.05; done; exit 4")
	before, _ := l.r.get(runs)
	pid := before.snapshot().Pid
	e, _ := l.r.get(ends)
	shm := filepath.Join(l.r.sandboxDir(e.snapshot().PodUID), "shm", "go")
	d.Kill()
	if err := os.WriteFile(shm, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for l.ctx.Err() == nil { // until the process has exited, with nobody to see it
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", e.snapshot().Pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	d.Start()
	select {
	case <-e.exited:
	case <-l.ctx.Done():
		t.Fatal("an exit during the daemon's absence is never seen")
	}
	if c := e.snapshot(); c.ExitCode != 4 && c.ExitCode != unknownExit {
		t.Errorf("exit code %d (%s), want 4, or %d for unknown", c.ExitCode, c.Reason, unknownExit)
	}
	if c := before.snapshot(); c.State != runtime.StateRunning || c.Pid != pid {
		t.Errorf("the other one: %+v", c)
	}
	if out := l.exec(runs, "echo", "alive"); out != "alive\n" {
		t.Errorf("%q", out)
	}
}
