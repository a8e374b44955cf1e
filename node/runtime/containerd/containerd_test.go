package containerd

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/leases"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/containerd/logger"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
	"github.com/kontiki/kontiki/test/await"
)

// TestMain lets the test's own binary be the containers' logger.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "container-logger" {
		os.Exit(logger.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

var seq atomic.Int64

// open makes a Runtime with a namespace and a state of its own on the daemon.
func open(t testing.TB, d *runtimetest.Daemon, image []byte) (*Runtime, func() *Runtime) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n := seq.Add(1)
	c := Config{Address: d.Address, Namespace: fmt.Sprintf("t%d", n), StateDir: filepath.Join(d.Dir, fmt.Sprintf("s%d", n)),
		CgroupParent: fmt.Sprintf("kontiki-test-%d/%d", os.Getpid(), n), Logger: [2]string{self, "container-logger"}}
	make := func() *Runtime {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		r, err := New(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := make()
	t.Cleanup(func() { _ = r.cg.remove(fmt.Sprintf("/kontiki-test-%d", os.Getpid())) })
	current := r
	t.Cleanup(func() { current.Close() })
	if image != nil {
		if _, err := r.ImportImage(context.Background(), bytes.NewReader(image)); err != nil {
			t.Fatal(err)
		}
	}
	return r, func() *Runtime {
		current.Close()
		current = make()
		return current
	}
}

func TestSuite(t *testing.T) {
	d := runtimetest.StartDaemon(t)
	image := runtimetest.BusyboxArchive(t)
	runtimetest.Suite(t, func(t *testing.T) runtimetest.Harness {
		r, reopen := open(t, d, image)
		return runtimetest.Harness{Runtime: r, Image: runtimetest.BusyboxName, HasLogs: true, Reopen: func() runtime.Runtime { return reopen() }}
	})
}

// TestNobodyElseReachesTheState: files of pods below it may be writable by all, or set-uid, so the folders above are root's alone, also
// those that an earlier version left open (the kind of CVE-2024-25621).
func TestNobodyElseReachesTheState(t *testing.T) {
	d := runtimetest.StartDaemon(t)
	r, reopen := open(t, d, nil)
	for _, name := range []string{"sandboxes", "io", "tmp"} {
		if err := os.Chmod(filepath.Join(r.c.StateDir, name), 0o711); err != nil {
			t.Fatal(err)
		}
	}
	r = reopen()
	for _, name := range []string{"sandboxes", "io", "tmp"} {
		if info, err := os.Stat(filepath.Join(r.c.StateDir, name)); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// TestLabelsOfAContainerAreTheAgentsOwn: containerd's plugins act on labels (its restart monitor starts programs of the host, the kind of
// CVE-2026-53488), so nothing that a pod or an image says becomes a label under its own name.
func TestLabelsOfAContainerAreTheAgentsOwn(t *testing.T) {
	labels, err := labelsOf(runtime.Container{PodUID: "u", Labels: map[string]string{"containerd.io/restart.loguri": "binary:///bin/sh", labelSpec: "{}"}})
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range labels {
		if own := key == labelPod || key == labelSpec || strings.HasPrefix(key, userPrefix); !own || key == labelSpec && value == "{}" {
			t.Errorf("a label %s=%s", key, value)
		}
	}
}

// TestWhatAKilledAgentLeft: leases and directories of an agent that was killed are removed by the next one.
func TestWhatAKilledAgentLeft(t *testing.T) {
	r, restart := open(t, runtimetest.StartDaemon(t), nil)
	ctx := r.ns(t.Context())
	if _, _, err := r.hold(ctx); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(r.c.StateDir, "io", execPrefix+"0123456789abcdef", "fifo")
	if err := os.MkdirAll(left, 0o700); err != nil {
		t.Fatal(err)
	}
	foreign, err := r.client.LeasesService().Create(ctx, leases.WithID("foreign"))
	if err != nil {
		t.Fatal(err)
	}
	r = restart()
	held, release, err := r.hold(ctx)
	if err != nil {
		t.Fatal(err)
	}
	await.That(t, "leases that nobody holds to be deleted", func() error {
		list, err := r.client.LeasesService().List(ctx)
		id, _ := leases.FromContext(held)
		if err == nil && (len(list) != 2 || !slices.ContainsFunc(list, func(l leases.Lease) bool { return l.ID == foreign.ID }) || !slices.ContainsFunc(list, func(l leases.Lease) bool { return l.ID == id })) {
			err = fmt.Errorf("the leases are %v", list)
		}
		return err
	})
	release()
	if _, err := os.Stat(filepath.Dir(left)); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
}

// TestOrphanedShims: a shim whose container has no record is found, others and those of other namespaces are not.
func TestOrphanedShims(t *testing.T) {
	r, _ := open(t, runtimetest.StartDaemon(t), nil)
	const shim = "/usr/bin/containerd-shim-runc-v2"
	start := func(namespace, id, script string) int {
		t.Helper()
		// A shell under a shim's name.
		cmd := &exec.Cmd{Path: "/bin/sh", Args: []string{shim, "-c", script, "-namespace", namespace, "-id", id, "-address", r.c.Address}}
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { stdin.Close(); cmd.Wait() })
		return cmd.Process.Pid
	}
	if _, err := r.client.ContainerService().Create(r.ns(t.Context()), containers.Container{ID: "known", Runtime: containers.RuntimeInfo{Name: runcRuntime}, Spec: &anypb.Any{}}); err != nil {
		t.Fatal(err)
	}
	pid := start(r.c.Namespace, "orphan", "read line")
	start(r.c.Namespace, "known", "read line")
	start("another", "orphan2", "read line")
	busy := start(r.c.Namespace, "first of several", "sleep 3600 & read line; kill $!; wait")
	await.That(t, "the orphan to be all that is found", func() error {
		if p, err := parents(); err != nil || !p[busy] {
			return fmt.Errorf("the busy shim has no child yet: %v", err)
		}
		found, err := r.orphanedShims(r.ns(t.Context()))
		if err == nil && (len(found) != 1 || found["orphan"] != pid) {
			err = fmt.Errorf("found %v; the orphan is %d", found, pid)
		}
		return err
	})
}
