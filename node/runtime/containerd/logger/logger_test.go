package logger

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
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
		path := filepath.Join(t.TempDir(), "log")
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

func TestClientsGetOutputAndSlowOnesAreDropped(t *testing.T) {
	dir := t.TempDir()
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	errR, errW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	ready, done := make(chan struct{}), make(chan error, 1)
	c := Config{Log: filepath.Join(dir, "log"), Socket: filepath.Join(dir, "s"), PidFile: filepath.Join(dir, "pid")}
	go func() { done <- Run(c, outR, errR, make(chan os.Signal), func() { close(ready) }) }()
	<-ready
	slow, err := net.Dial("unix", c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	conn, err := net.Dial("unix", c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var out, errs bytes.Buffer
	read := make(chan error, 1)
	attached := make(chan struct{})
	go func() {
		read <- ReadFrames(conn, func(s Stream, b []byte) error {
			switch s {
			case Attached:
				close(attached)
			case Stderr:
				errs.Write(b)
			default:
				out.Write(b)
			}
			return nil
		})
	}()
	<-attached
	if _, err := outW.WriteString("first"); err != nil {
		t.Fatal(err)
	}
	if _, err := errW.WriteString("to stderr"); err != nil {
		t.Fatal(err)
	}
	chunk := bytes.Repeat([]byte("y"), 4096)
	for range 5000 { // 20 MB, far more than a client that does not read may hold up
		if _, err := outW.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	outW.Close()
	errW.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Logf("the client was too slow: %v", err)
	}
	if !strings.HasPrefix(out.String(), "first") {
		t.Errorf("what came first after attaching is missing: %.20q", out.String())
	}
	if errs.String() != "to stderr" {
		t.Errorf("stderr %q", errs.String())
	}
	if _, err := os.Stat(c.PidFile); !os.IsNotExist(err) {
		t.Errorf("pid file after the end: %v", err)
	}
}
