package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestWatchersSeparateAndRecognizeEvents(t *testing.T) {
	long := strings.Repeat("x", 100<<10)
	names := []string{`{"object":"json-watched-000001 ` + long + `"}`, `{"type":"BOOKMARK"}`, `"json-watched-000000"`, `"json-watched-000001"`}
	var framed []byte
	for _, name := range names {
		framed = append(binary.BigEndian.AppendUint32(framed, uint32(len(name))), name...)
	}
	for _, stream := range []struct {
		protobuf bool
		data     string
	}{{false, strings.Join(names, "\n") + "\n"}, {true, string(framed)}} {
		f := &fanOut{begin: time.Now().Add(-time.Second), marker: []byte("json-watched-"), arrive: make(chan struct{}, 2), left: make([]atomic.Int64, 2)}
		for i := range f.left {
			f.left[i].Store(1)
		}
		took := make([]time.Duration, 2)
		if err := f.read(bufio.NewReader(strings.NewReader(stream.data)), took, stream.protobuf); !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if len(f.arrive) != 2 || took[0] == 0 || took[1] == 0 || took[1] > took[0] {
			t.Errorf("protobuf %v: %d events arrived, at %v", stream.protobuf, len(f.arrive), took)
		}
		if err := f.read(bufio.NewReader(strings.NewReader("json-watched-000002\n")), took, false); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("an event that was not sent: %v", err)
		}
	}
}

func TestRatiosSayHowManyTimesBetterKontikiIs(t *testing.T) {
	var r results
	r.add(measurement{system: kontikiName, encoding: "json", phase: "create", rate: 300, p50: time.Millisecond, p99: 4 * time.Millisecond, servers: time.Millisecond})
	r.add(measurement{system: kontikiName, encoding: "json", phase: "create", rate: 500, p50: time.Millisecond, p99: 4 * time.Millisecond, servers: time.Millisecond})
	r.add(measurement{system: etcd1Name, encoding: "json", phase: "create", rate: 100, p50: 3 * time.Millisecond, p99: 2 * time.Millisecond, servers: 2 * time.Millisecond})
	r.add(measurement{system: kontikiName, encoding: "json", phase: "memory", memory: 1 << 20})
	r.add(measurement{system: etcd1Name, encoding: "json", phase: "memory", memory: 5 << 20})
	var out strings.Builder
	r.print(&out)
	for _, want := range [][]string{
		{"create", "kontiki", "400", "1.0ms", "4.0ms", "1.0ms", "-"},
		{"create", "etcd-1", "100", "(4.0)", "3.0ms", "(3.0)", "2.0ms", "(0.5)", "2.0ms", "(2.0)", "-"},
		{"memory", "etcd-1", "-", "-", "-", "-", "5", "MiB", "(5.0)"},
	} {
		if !hasLine(out.String(), want) {
			t.Errorf("there is no line %q in\n%s", want, out.String())
		}
	}
}

func hasLine(text string, fields []string) bool {
	for line := range strings.Lines(text) {
		if strings.Join(strings.Fields(line), " ") == strings.Join(fields, " ") {
			return true
		}
	}
	return false
}

func TestUsageOfThisProcess(t *testing.T) {
	self := []int{os.Getpid()}
	if _, err := processorTime(self); err != nil {
		t.Error(err)
	}
	one, err := memory(self)
	if err != nil || one < 1<<20 {
		t.Errorf("%d bytes, %v", one, err)
	}
}

func TestStartedProcessesEnd(t *testing.T) {
	log := t.TempDir() + "/log"
	p, err := startProcess(log, "/bin/sh", "-c", "echo begun; trap '' TERM; while :; do sleep 1; done")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.await(t.Context(), "it has begun", func(context.Context) error {
		if !strings.Contains(p.end(), "begun") {
			return errors.New("not yet")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := p.stop(time.Millisecond); err != nil { // it ignores SIGTERM
		t.Fatal(err)
	}
	select {
	case <-p.done:
	default:
		t.Error("it still runs")
	}
	early, err := startProcess(log, "/bin/sh", "-c", "echo it is broken; exit 1")
	if err != nil {
		t.Fatal(err)
	}
	err = early.await(t.Context(), "it works", func(context.Context) error { return errors.New("no") })
	if err == nil || !strings.Contains(err.Error(), "it is broken") {
		t.Errorf("the error does not show the log: %v", err)
	}
}
