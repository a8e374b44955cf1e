package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// gate is an output that blocks until it is opened, and fails while it has an error.
type gate struct {
	mu     sync.Mutex
	err    error
	writes []string
	open   chan struct{}
}

func newGate(open bool) *gate {
	g := &gate{open: make(chan struct{})}
	if open {
		close(g.open)
	}
	return g
}

func (g *gate) Write(b []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return 0, g.err
	}
	g.writes = append(g.writes, string(b))
	return len(b), nil
}

func (g *gate) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

// counted is a writer that counts the events it loses.
func counted(out io.Writer, blocking bool) (*writer, *int, *bytes.Buffer) {
	lost, said := new(int), new(bytes.Buffer)
	return newWriter(out, blocking, func(n int) { *lost += n }, slog.New(slog.NewTextHandler(said, nil))), lost, said
}

func TestAnEventIsWrittenBeforeItsRequestGoesOn(t *testing.T) {
	g := newGate(true)
	w, _, _ := counted(g, true)
	for i := range 3 {
		w.append(fmt.Appendf(nil, "%d\n", i))
		if len(g.writes) != i+1 || g.writes[i] != fmt.Sprintf("%d\n", i) {
			t.Fatalf("%q after event %d", g.writes, i)
		}
	}
}

func TestEventsThatComeDuringAWriteGoOutTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(false)
		w, lost, _ := counted(g, true)
		var requests sync.WaitGroup
		for i := range 4 {
			requests.Go(func() { w.append(fmt.Appendf(nil, "%d\n", i)) })
			synctest.Wait() // they wait in this order
		}
		close(g.open)
		requests.Wait()
		if strings.Join(g.writes, "|") != "0\n|1\n2\n3\n" || *lost != 0 {
			t.Errorf("%q, %d lost", g.writes, *lost)
		}
	})
}

func TestAStalledDiskHoldsUpNobodyForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(false)
		w, lost, said := counted(g, true)
		began := time.Now()
		w.append([]byte("0\n"))
		if waited := time.Since(began); waited != patience {
			t.Errorf("the first request waited %v", waited)
		}
		// From now on requests do not wait, and events for which there is no space are lost.
		line := bytes.Repeat([]byte{'x'}, 1<<20)
		line[len(line)-1] = '\n'
		const more = maxPending>>20 + 5
		for range more {
			w.append(line)
		}
		if waited := time.Since(began); waited != patience {
			t.Errorf("the others waited until %v", waited)
		}
		if *lost != 5 {
			t.Errorf("%d events are lost", *lost)
		}
		close(g.open)
		if err := w.close(); err != nil {
			t.Error(err)
		}
		if len(g.writes) != 2 || len(g.writes[1]) != maxPending {
			t.Errorf("%d writes", len(g.writes))
		}
		for _, want := range []string{"takes too long", "lost=5"} {
			if !strings.Contains(said.String(), want) {
				t.Errorf("%s does not say %q", said, want)
			}
		}
		// And now requests wait again.
		w.append([]byte("1\n"))
		if len(g.writes) != 3 {
			t.Errorf("%d writes", len(g.writes))
		}
	})
}

func TestCloseDoesNotWaitForAStalledDiskForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(false)
		w, _, _ := counted(g, false)
		began := time.Now()
		w.append([]byte("0\n"))
		if time.Since(began) != 0 {
			t.Error("a batch was waited for")
		}
		if err := w.close(); err == nil || time.Since(began) != patience {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		close(g.open)
		if err := w.close(); err != nil || len(g.writes) != 1 {
			t.Errorf("%v, %q", err, g.writes)
		}
	})
}

func TestAFullDiskLosesEventsAndSaysSoOnce(t *testing.T) {
	g := newGate(true)
	g.fail(syscall.ENOSPC)
	w, lost, said := counted(g, true)
	for range 3 {
		w.append([]byte("x\n"))
	}
	g.fail(nil)
	w.append([]byte("y\n"))
	if err := w.close(); err != nil {
		t.Error(err)
	}
	if *lost != 3 || len(g.writes) != 1 {
		t.Errorf("%d lost, %q", *lost, g.writes)
	}
	if strings.Count(said.String(), "cannot be written") != 1 || strings.Count(said.String(), "written again") != 1 {
		t.Error(said)
	}
}

// clock advances by a minute at each call.
func clock() func() time.Time {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return func() time.Time {
		now = now.Add(time.Minute)
		return now
	}
}

func opened(t *testing.T, path string, r Rotation) *file {
	t.Helper()
	f, err := openFile(path, r, clock(), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func contents(t *testing.T, dir string) (out []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e.Name()+":"+string(data))
	}
	return out
}

func put(t *testing.T, f *file, text string) {
	t.Helper()
	if n, err := f.Write([]byte(text)); err != nil || n != len(text) {
		t.Fatalf("%d, %v", n, err)
	}
}

func TestAGrownFileIsPutAsideAndTheOldestGo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	f := opened(t, filepath.Join(dir, "audit.log"), Rotation{MaxSize: 10, MaxBackups: 2})
	if info, err := os.Stat(f.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "audit-mine.log"), []byte("no backup"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"aaaa\n", "bbbb\n", "cccc\n", "dddddddddddddddd\n", "eeee\n", "ffff\n", "gggg\n"} {
		put(t, f, text)
	}
	got := contents(t, dir)
	if len(got) != 4 || !strings.HasSuffix(got[0], ".log:dddddddddddddddd\n") || !strings.HasSuffix(got[1], ".log:eeee\nffff\n") ||
		got[2] != "audit-mine.log:no backup" || got[3] != "audit.log:gggg\n" {
		t.Errorf("%q", got)
	}
	if !strings.HasPrefix(got[0], "audit-2026-01-02T03-") {
		t.Errorf("%q is not named as upstream names it", got[0])
	}
}

func TestOldFilesGoByAgeAndAFileIsGoneOnWith(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	for name, text := range map[string]string{"audit.log": "before\n", "audit-2025-12-01T00-00-00.000.log": "old", "audit-2026-01-02T00-00-00.000.log": "young"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(t, opened(t, path, Rotation{MaxAge: 24 * time.Hour}), "after\n")
	if got := contents(t, dir); strings.Join(got, "|") != "audit-2026-01-02T00-00-00.000.log:young|audit.log:before\nafter\n" {
		t.Errorf("%q", got)
	}
}

func TestTwoFilesPutAsideInOneInstantAreBothKept(t *testing.T) {
	dir := t.TempDir()
	f := opened(t, filepath.Join(dir, "audit.log"), Rotation{MaxSize: 1})
	instant := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.now = func() time.Time { return instant }
	for _, text := range []string{"a\n", "b\n", "c\n"} {
		put(t, f, text)
	}
	got := contents(t, dir)
	if strings.Join(got, "|") != "audit-2026-01-02T03-04-05.000.log:a\n|audit-2026-01-02T03-04-05.001.log:b\n|audit.log:c\n" {
		t.Errorf("%q", got)
	}
}

func TestAWriteThatFailsHalfwayLeavesWholeLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	f := opened(t, path, Rotation{})
	put(t, f, "whole\n")
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	// A file limited to ten bytes accepts four of the next line, as a disk that becomes full does.
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 10, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	_, err := f.Write([]byte("half of it\n"))
	if restore := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); restore != nil {
		t.Fatal(restore)
	}
	if !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("%v", err)
	}
	put(t, f, "next\n")
	if data, err := os.ReadFile(path); err != nil || string(data) != "whole\nnext\n" {
		t.Errorf("%q %v", data, err)
	}
}

func TestAFileThatWasClosedIsOpenedAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	f := opened(t, path, Rotation{})
	put(t, f, "a\n")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	put(t, f, "b\n")
	if data, err := os.ReadFile(path); err != nil || string(data) != "a\nb\n" {
		t.Errorf("%q %v", data, err)
	}
}

func TestALogThatCannotBeOpenedIsRefused(t *testing.T) {
	dir := t.TempDir()
	policy := policyFile(t, head+"rules: [{level: Metadata}]")
	for _, c := range []struct {
		config Config
		want   string
	}{
		{Config{PolicyFile: policy, LogPath: dir, Mode: ModeBlocking}, "--audit-log-path: open " + dir},
		{Config{PolicyFile: policy, Mode: ModeBlocking}, "--audit-log-path: must be given"},
		{Config{PolicyFile: policy, LogPath: "-", Mode: "eager"}, `invalid audit log mode eager, allowed modes are "batch,blocking"`},
		{Config{PolicyFile: filepath.Join(dir, "none"), LogPath: "-", Mode: ModeBatch}, "--audit-policy-file: open "},
	} {
		if _, err := New(c.config); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.config, err)
		}
	}
	for _, c := range []Config{{}, {LogPath: filepath.Join(dir, "audit.log")}} {
		if a, err := New(c); a != nil || err != nil {
			t.Errorf("%+v: %v %v", c, a, err)
		}
	}
	if got := contents(t, dir); len(got) != 0 {
		t.Errorf("%q", got)
	}
}
