package server

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/node/runtime"
)

const stamp = "2026-01-01T00:00:00.000000000Z"

// TestLinesThatNoLoggerWrote: a pod with write access to the log directory writes an endless line into a log.
func TestLinesThatNoLoggerWrote(t *testing.T) {
	endless := strings.Repeat("x", 3*maxLogLine)
	for _, c := range []struct{ name, log, want string }{
		{"usual lines", stamp + " stdout F a\n" + stamp + " stderr F b\n", "a\nb\n"},
		{"one that is too long between two", stamp + " stdout F a\n" + stamp + " stdout F " + endless + "\n" + stamp + " stdout F b\n", "a\nb\n"},
		{"one without an end", stamp + " stdout F a\n" + endless, "a\n"},
	} {
		path := filepath.Join(t.TempDir(), "log")
		if err := os.WriteFile(path, []byte(c.log), 0o644); err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var out bytes.Buffer
		l := &lineReader{o: LogOptions{Stdout: true, Stderr: true}, w: &out, left: -1}
		if _, err := l.copy(f); err != nil || out.String() != c.want || len(l.partial) > maxLogLine {
			t.Errorf("%s: %.100q, %v, %d bytes kept", c.name, out.String(), err, len(l.partial))
		}
	}
}

// TestLogsAreNotReadThroughLinks: a client gets the container's log, or an error.
func TestLogsAreNotReadThroughLinks(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(stamp+" stdout F secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(dir, "pod", "c", "0.log")
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, log); err != nil {
		t.Fatal(err)
	}
	if f, err := runtime.OpenLog(log); err == nil {
		f.Close()
		t.Error("a link was followed")
	}
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(log, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := runtime.OpenLog(log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Remove(log); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(secret, log); err != nil {
		t.Fatal(err)
	}
	if next := rotated(f, log); next != nil {
		next.Close()
		t.Error("a rotation led to a link")
	}
	var out bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = (&Server{}).readLog(t.Context(), runtime.Container{LogPath: log}, LogOptions{Stdout: true}, &out)
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("reading does not end")
	}
	if strings.Contains(out.String(), "secret") {
		t.Error("a file of the host was read")
	}
}
