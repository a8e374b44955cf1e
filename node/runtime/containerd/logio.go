package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/containerd/logger"
)

// How a container's streams are connected: the shim starts the logger (binary://), except for a container with an input and no
// terminal. With a binary logger the shim gives such a process no input, so the streams are FIFOs, and the agent starts the logger,
// detached, as their reader.

// logIO writes the logger's configuration and creates the FIFOs.
func (r *Runtime) logIO(info runtime.Container) (cio.Creator, error) {
	lc := logger.Config{Log: info.LogPath, Socket: r.ioPath(info.ID, ".sock"), TTY: info.TTY, PidFile: r.ioPath(info.ID, ".pid"),
		MaxBytes: r.c.LogMaxBytes, MaxFiles: r.c.LogMaxFiles}
	cfg := cio.Config{Terminal: info.TTY}
	var fifos []string
	if info.Stdin {
		cfg.Stdin = r.ioPath(info.ID, ".in")
		fifos = append(fifos, cfg.Stdin)
	}
	detached := info.Stdin && !info.TTY
	config := r.ioPath(info.ID, ".json")
	if detached {
		cfg.Stdout, cfg.Stderr = r.ioPath(info.ID, ".out"), r.ioPath(info.ID, ".err")
		lc.Stdout, lc.Stderr = cfg.Stdout, cfg.Stderr
		fifos = append(fifos, cfg.Stdout, cfg.Stderr)
	} else {
		uri, err := cio.LogURIGenerator("binary", r.c.Logger[0], map[string]string{r.c.Logger[1]: config})
		if err != nil {
			return nil, err
		}
		cfg.Stdout = uri.String()
		if !info.TTY {
			cfg.Stderr = uri.String()
		}
	}
	for _, path := range fifos {
		os.Remove(path)
		if err := unix.Mkfifo(path, 0o600); err != nil {
			return nil, fmt.Errorf("streams of container: %w", err)
		}
	}
	b, err := json.Marshal(lc)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(config, b, 0o600); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(info.LogPath), 0o755); err != nil {
		return nil, err
	}
	if detached {
		cmd := exec.Command(r.c.Logger[0], r.c.Logger[1], config)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return nil, fmt.Errorf("start logger: %w", err)
		}
		go func() { _ = cmd.Wait() }() // it may outlive the agent; until then this reaps it
	}
	return func(string) (cio.IO, error) { return foreignIO(cfg), nil }, nil
}

// foreignIO is I/O of other processes: there is nothing to wait for or to close here.
type foreignIO cio.Config

func (f foreignIO) Config() cio.Config { return cio.Config(f) }
func (foreignIO) Cancel()              {}
func (foreignIO) Wait()                {}
func (foreignIO) Close() error         { return nil }

func (r *Runtime) removeIO(id string) {
	for _, s := range []string{".sock", ".pid", ".in", ".out", ".err", ".json"} {
		os.Remove(r.ioPath(id, s))
	}
}

// endLogger tells a logger that no more output will come (with a terminal the shim never closes its pipes), and waits until the log
// is complete.
func (r *Runtime) endLogger(id string) {
	path := r.ioPath(id, ".pid")
	b, err := os.ReadFile(path)
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return
	}
	// The pid may have been reused: our logger has the container's configuration in its arguments.
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(cmdline), r.ioPath(id, ".json")) {
		return
	}
	_ = syscall.Kill(pid, syscall.SIGTERM)
	for range 100 {
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
