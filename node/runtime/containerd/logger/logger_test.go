package logger

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestLines(t *testing.T) {
	long := strings.Repeat("x", MaxLine)
	for _, c := range []struct {
		name   string
		writes []string
		want   []string
	}{
		{"one line", []string{"a\n"}, []string{"F a"}},
		{"a line in pieces", []string{"a", "b", "c\nd\n"}, []string{"F abc", "F d"}},
		{"empty lines", []string{"\n\n"}, []string{"F ", "F "}},
		{"no end", []string{"a"}, []string{"P a"}},
		{"exactly the longest", []string{long + "\n"}, []string{"F " + long}},
		{"longer than the longest", []string{long + "yz\n"}, []string{"P " + long, "F yz"}},
		{"the longest, its end later", []string{long, "\n"}, []string{"P " + long, "F "}},
	} {
		path := filepath.Join(t.TempDir(), "pod", "c", "0.log")
		f, err := openFile(path, 1<<20, 5)
		if err != nil {
			t.Fatal(err)
		}
		w := lineWriter{file: f, stream: Stdout}
		for _, s := range c.writes {
			w.write(time.Unix(0, 0), []byte(s))
		}
		w.flush()
		f.Close()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(string(b)) {
			rest, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "1970-01-01T00:00:00.000000000Z stdout ")
			if !ok {
				t.Errorf("%s: line %.80q", c.name, line)
			}
			got = append(got, rest)
		}
		if strings.Join(got, "|") != strings.Join(c.want, "|") {
			t.Errorf("%s: %.100q, want %.100q", c.name, got, c.want)
		}
	}
}

// running is a logger that runs in the test's process.
type running struct {
	t        *testing.T
	c        Config
	out, err *os.File
	done     chan error
}

func start(t *testing.T, patience time.Duration) *running {
	t.Helper()
	dir := t.TempDir()
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r := &running{t: t, out: outW, err: errW, done: make(chan error, 1),
		c: Config{Log: filepath.Join(dir, "pod", "c", "0.log"), Socket: filepath.Join(dir, "s"), PidFile: filepath.Join(dir, "pid"), Patience: patience}}
	ready := make(chan struct{})
	go func() { r.done <- Run(r.c, outR, errR, make(chan os.Signal), func() { close(ready) }) }()
	<-ready
	return r
}

func (r *running) dial() net.Conn {
	r.t.Helper()
	conn, err := net.Dial("unix", r.c.Socket)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// attach reads frames in the background, and waits until the client is attached.
func (r *running) attach(conn net.Conn, frame func(Stream, []byte) error) <-chan error {
	read, attached := make(chan error, 1), make(chan struct{})
	go func() {
		read <- ReadFrames(conn, func(s Stream, b []byte) error {
			if s == Attached {
				close(attached)
				return nil
			}
			return frame(s, b)
		})
	}()
	<-attached
	return read
}

// end ends the container and waits for the logger.
func (r *running) end() {
	r.t.Helper()
	r.out.Close()
	r.err.Close()
	if err := <-r.done; err != nil {
		r.t.Fatal(err)
	}
	if _, err := os.Stat(r.c.PidFile); !os.IsNotExist(err) {
		r.t.Errorf("pid file after the end: %v", err)
	}
}

func TestClientsLoseNothing(t *testing.T) {
	r := start(t, time.Minute)
	var out, errs bytes.Buffer
	frames := 0
	read := r.attach(r.dial(), func(s Stream, b []byte) error {
		if frames++; frames%50 == 0 {
			time.Sleep(time.Millisecond) // slower than the container
		}
		if s == Stderr {
			errs.Write(b)
		} else {
			out.Write(b)
		}
		return nil
	})
	if _, err := r.err.WriteString("to stderr"); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	for i := range 5000 { // 20 MB, far more than what may wait for a client
		chunk := bytes.Repeat([]byte{byte(i)}, 4096)
		want.Write(chunk)
		if _, err := r.out.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	r.end()
	if err := <-read; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(out.Bytes(), want.Bytes()) || errs.String() != "to stderr" {
		t.Errorf("%d bytes of %d arrived in order, and %q", out.Len(), want.Len(), errs.String())
	}
}

func TestAClientThatReadsNothingIsDroppedAndCanTell(t *testing.T) {
	r := start(t, 50*time.Millisecond)
	dead := r.dial()
	chunk := bytes.Repeat([]byte("y"), 4096)
	for range 5000 { // does not block for ever
		if _, err := r.out.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	r.end()
	if err := ReadFrames(dead, func(Stream, []byte) error { return nil }); !errors.Is(err, ErrLost) {
		t.Errorf("the client was told %v", err)
	}
}

func TestFramesOfAnEarlierLogger(t *testing.T) {
	var b bytes.Buffer
	b.Write(frameOf(Attached, nil)) // says nothing of its end
	b.Write(frameOf(Stdout, []byte("x")))
	got := ""
	if err := ReadFrames(&b, func(s Stream, b []byte) error { got += string(b); return nil }); err != nil || got != "x" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestNoLogIsWrittenThroughLinks(t *testing.T) {
	for name, plant := range map[string]func(dir, victim string) error{
		"the log": func(dir, victim string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "pod", "c"), 0o755), os.Symlink(victim, filepath.Join(dir, "pod", "c", "0.log")))
		},
		"its folder": func(dir, victim string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "pod"), 0o755), os.Symlink(filepath.Dir(victim), filepath.Join(dir, "pod", "c")))
		},
		"a FIFO": func(dir, victim string) error {
			return errors.Join(os.MkdirAll(filepath.Join(dir, "pod", "c"), 0o755), syscall.Mkfifo(filepath.Join(dir, "pod", "c", "0.log"), 0o644))
		},
	} {
		dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "0.log")
		if err := os.WriteFile(victim, []byte("the host's"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := plant(dir, victim); err != nil {
			t.Fatal(err)
		}
		f, err := openFile(filepath.Join(dir, "pod", "c", "0.log"), 1<<20, 3)
		if err == nil {
			f.Close()
			t.Errorf("%s: it was opened", name)
		}
		if b, _ := os.ReadFile(victim); string(b) != "the host's" {
			t.Errorf("%s: %q", name, b)
		}
	}
}
