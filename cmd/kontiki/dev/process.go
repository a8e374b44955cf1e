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

// startTime returns field 22 of /proc/PID/stat (proc(5)).
func startTime(pid int) (uint64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command's name may contain anything, so fields are counted after it.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 20 || fields[0] == "Z" {
		return 0, os.ErrProcessDone
	}
	return strconv.ParseUint(fields[19], 10, 64)
}

// alive says whether the process that was started is still running.
func (p Process) alive() bool {
	if p.Pid == 0 {
		return false
	}
	started, err := startTime(p.Pid)
	return err == nil && started == p.Started
}

// stop ends the process: with SIGTERM, and after patience with SIGKILL. It returns when the process has ended.
func (p Process) stop(patience time.Duration) {
	if !p.alive() {
		return
	}
	syscall.Kill(p.Pid, syscall.SIGTERM) // it may already have ended
	deadline := time.Now().Add(patience)
	for p.alive() {
		if time.Now().After(deadline) {
			syscall.Kill(p.Pid, syscall.SIGKILL)
		}
		time.Sleep(20 * time.Millisecond) // not a child, so there is no event to wait for
	}
}

// startIn starts a command in a network namespace ("" for this one), with its output in a log file. The process gets its own
// process group, so that a signal from the supervisor's terminal does not reach it.
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

// within runs f on a thread that is in a network namespace. Processes that f starts, and sockets that it creates, belong to that
// namespace.
func within(namespace string, f func() error) error {
	if namespace == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		// Without an unlock the thread ends with the goroutine, so no other goroutine runs in the namespace.
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
