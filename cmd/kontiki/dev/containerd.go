package dev

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// startContainerd starts the containerd that all workers share, and waits until it responds.
func (s *Supervisor) startContainerd(ctx context.Context) error {
	binary, err := exec.LookPath("containerd")
	if err != nil {
		return fmt.Errorf("containerd is not installed; `make deps` installs it on Debian: %w", err)
	}
	dir := s.state.containerdDir()
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	config := filepath.Join(dir, "config.toml")
	text := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), s.state.containerdSocket())
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	if s.state.Processes["containerd"].alive() {
		return nil // left running by a supervisor that was killed
	}
	if err := s.launch("containerd", "", binary, "--config", config); err != nil {
		return err
	}
	return poll(ctx, 30*time.Second, "containerd to answer", func() error {
		conn, err := net.Dial("unix", s.state.containerdSocket())
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// poll calls ask until it returns nil; on a timeout it returns ask's last error, and ctx's when that has ended.
func poll(ctx context.Context, limit time.Duration, what string, ask func() error) error {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline.C:
			return fmt.Errorf("waited %s for %s: %w", limit, what, err)
		}
	}
}
