package dev

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
)

func TestAliveIsTheVeryProcessThatWasStarted(t *testing.T) {
	cmd, p := start(t, "some (odd) name", "with spaces")
	if !p.alive() {
		t.Fatal("it runs and counts as dead")
	}
	if (Process{}).alive() {
		t.Error("no process is alive")
	}
	if (Process{p.Pid, p.Started + 1}).alive() {
		t.Error("another process with the pid is taken for it")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// It is not waited for yet: it is a zombie, which counts as dead.
	eventually(t, "the process to end", func() error {
		if p.alive() {
			return errors.New("it is alive")
		}
		return nil
	})
	if _, err := os.Stat(filepath.Join("/proc", itoa(p.Pid))); err != nil {
		t.Errorf("it should be a zombie still: %v", err)
	}
	cmd.Wait()
	if p.alive() {
		t.Error("it is gone and counts as alive")
	}
	if _, err := startTime(p.Pid); err == nil {
		t.Error("a process that is gone has a start time")
	}
}

func TestStop(t *testing.T) {
	cmd, p := start(t, "polite")
	p.stop(time.Minute)
	if p.alive() {
		t.Fatal("it still runs")
	}
	cmd.Wait()
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGTERM {
		t.Errorf("it ended by %v", status)
	}
	p.stop(time.Minute) // one that is gone

	_, other := start(t, "other")
	Process{other.Pid, other.Started - 1}.stop(0) // its pid is another's now
	if !other.alive() {
		t.Error("another process with the pid was stopped")
	}

	stubborn, q := start(t, "stubborn")
	if err := stubborn.Process.Signal(syscall.SIGSTOP); err != nil { // SIGTERM waits until it goes on
		t.Fatal(err)
	}
	if _, err := syscall.Wait4(q.Pid, nil, syscall.WUNTRACED, nil); err != nil { // until it has stopped
		t.Fatal(err)
	}
	q.stop(0)
	stubborn.Wait()
	if status := stubborn.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("the stubborn one ended by %v", status)
	}
}

func TestWithinIsInTheNamespaceAndLeavesNoTraceOfIt(t *testing.T) {
	s := testState(t, 1, 0)
	if err := s.makeNetwork(); err != nil {
		t.Fatal(err)
	}
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	h := s.Hosts[0]
	var addresses string
	err = within(s.namespace(h), func() error {
		here, err := netns.Get()
		if err != nil {
			return err
		}
		defer here.Close()
		if here.Equal(home) {
			t.Error("not in another namespace")
		}
		all, err := net.InterfaceAddrs()
		for _, a := range all {
			addresses += a.String() + " "
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(addresses, "10.89.0.11/24") {
		t.Errorf("addresses in %s: %s", s.namespace(h), addresses)
	}
	for range 100 { // on whatever threads
		done := make(chan bool)
		go func() {
			here, err := netns.Get()
			if err != nil {
				done <- false
				return
			}
			defer here.Close()
			done <- here.Equal(home)
		}()
		if !<-done {
			t.Fatal("a goroutine runs in the namespace")
		}
	}
	want := errors.New("as f says")
	for _, namespace := range []string{"", s.namespace(h)} {
		if err := within(namespace, func() error { return want }); err != want {
			t.Errorf("within %q: %v", namespace, err)
		}
	}
	called := false
	err = within("kontiki-nobody", func() error { called = true; return nil })
	if err == nil || !strings.Contains(err.Error(), "kontiki-nobody") || called {
		t.Errorf("a namespace that is not there: %v, called: %v", err, called)
	}
}

func TestStartIn(t *testing.T) {
	s := testState(t, 1, 0)
	if err := s.makeNetwork(); err != nil {
		t.Fatal(err)
	}
	log := s.logFile("probe") // its folder is not there yet
	for range 2 {
		cmd, err := startIn(s.namespace(s.Hosts[0]), log, "/bin/sh", "-c", "echo out; echo err >&2; cat /proc/self/net/fib_trie; ps -o pgid= -p $$ 2>/dev/null || cut -d' ' -f5 /proc/$$/stat")
		if err != nil {
			t.Fatal(err)
		}
		pid := cmd.Process.Pid
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{"out\n", "err\n", "10.89.0.11", itoa(pid)} {
			if err := logged(log, text)(); err != nil {
				t.Errorf("no %q: %v", text, err)
			}
		}
	}
	data, err := os.ReadFile(log)
	if err != nil || strings.Count(string(data), "out\n") != 2 {
		t.Errorf("the second start should append to the log: %q, %v", data, err)
	}
	if _, err := startIn("", log, filepath.Join(s.Dir, "none"), "server"); err == nil || !strings.Contains(err.Error(), "none server") {
		t.Errorf("a program that is not there: %v", err)
	}
}

func TestPoll(t *testing.T) {
	no := errors.New("not yet")
	asked := 0
	if err := poll(t.Context(), time.Minute, "three questions", func() error {
		if asked++; asked < 3 {
			return no
		}
		return nil
	}); err != nil || asked != 3 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	err := poll(t.Context(), time.Millisecond, "it to happen", func() error { return no })
	if !errors.Is(err, no) || !strings.Contains(err.Error(), "waited 1ms for it to happen") {
		t.Errorf("the time is over: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = poll(ctx, time.Minute, "it to happen", func() error { cancel(); return no })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the context has ended: %v", err)
	}
}
