package dev

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/network/nettest"
)

// waiting makes this binary a process that only waits, whatever its arguments.
const waiting = "KONTIKI_DEV_TEST_WAIT"

// TestMain runs the tests in their own network and mount namespaces, without other named network namespaces.
func TestMain(m *testing.M) {
	if os.Getenv(waiting) != "" {
		io.Copy(io.Discard, os.Stdin) // until the test, or its end, closes it
		return
	}
	os.Exit(nettest.Main(m))
}

// isolate hides the machine's named network namespaces; the mount ends with the test binary.
func isolate(t *testing.T) {
	t.Helper()
	if isolated {
		if left := named(t); len(left) > 0 {
			t.Fatalf("an earlier test left network namespaces: %q", left)
		}
		return
	}
	if err := os.MkdirAll(namedDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", namedDir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	isolated = true
}

var isolated bool

// testState is the state of a cluster in its own directory, which is torn down after the test.
func testState(t *testing.T, masters, workers int) *State {
	t.Helper()
	isolate(t)
	s, err := newState(t.TempDir(), masters, workers, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.tearDown(); err != nil {
			t.Errorf("tear down: %v", err)
		}
	})
	return s
}

// start runs a process that waits; it ends with the test at the latest.
func start(t *testing.T, args ...string) (*exec.Cmd, Process) {
	t.Helper()
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: args, Env: append(os.Environ(), waiting+"=1")}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait() // most were killed, which is an error
	})
	started, err := startTime(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	return cmd, Process{cmd.Process.Pid, started}
}

// eventually polls for changes that have no event.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	if err := poll(t.Context(), 20*time.Second, what, ask); err != nil {
		t.Fatal(err)
	}
}

func named(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(namedDir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// logged fails the test unless the file contains the text.
func logged(path, text string) func() error {
	return func() error {
		data, err := os.ReadFile(path)
		if err == nil && !strings.Contains(string(data), text) {
			err = fmt.Errorf("%s holds %q", filepath.Base(path), data)
		}
		return err
	}
}
