package dev

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

// startTime is field 22 of /proc/PID/stat (proc(5)).
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command's name may hold anything: fields are counted from behind it.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// alive says if the very process that was started still runs.
func (p Process) alive() bool {
	if p.Pid == 0 {
		return false
	}
	started, err := startTime(p.Pid)
	return err == nil && started == p.Started
}

// stop ends the process: politely, and after a while for good. It returns once it is gone.
func (p Process) stop(patience time.Duration) {
	if !p.alive() {
		return
	}
	syscall.Kill(p.Pid, syscall.SIGTERM) // if it is gone already, so much the better
	deadline := time.Now().Add(patience)
	for p.alive() {
		if time.Now().After(deadline) {
			syscall.Kill(p.Pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond) // not a child: there is no event to wait for
	}
}

// startIn starts a command in a network namespace ("" for this one), with its output in a log file. The process gets a
// group of its own, so that a signal to the supervisor's terminal does not reach it.
func startIn(namespace, logFile string, argv ...string) (*exec.Cmd, error) {
	if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := within(namespace, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", strings.Join(argv[:min(2, len(argv))], " "), err)
	}
	return cmd, nil
}

// within runs f on a thread that is in a network namespace. A process that f starts, and a socket that it makes, belong
// to that namespace.
func within(namespace string, f func() error) error {
	if namespace == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		// Without an unlock the thread ends with the goroutine: one that is in a namespace never serves others.
		runtime.LockOSThread()
		handle, err := netns.GetFromName(namespace)
		if err != nil {
			done <- fmt.Errorf("network namespace %s: %w", namespace, err)
			return
		}
		defer handle.Close()
		if err := netns.Set(handle); err != nil {
			done <- fmt.Errorf("enter network namespace %s: %w", namespace, err)
			return
		}
		done <- f()
	}()
	return <-done
}
