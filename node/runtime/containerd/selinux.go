package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/selinux"
)

// The labels of a sandbox are in its directory, in the file selinux. Its containers have them unless they have options of their own.

func (r *Runtime) labelsFile(uid string) string { return filepath.Join(r.sandboxDir(uid), "selinux") }

// labelsOfSandbox returns the labels of a sandbox, none if it, or this host's containers, have none.
func (r *Runtime) labelsOfSandbox(uid string) (selinux.Labels, error) {
	var l selinux.Labels
	if r.c.SELinux == nil {
		return l, nil
	}
	b, err := os.ReadFile(r.labelsFile(uid))
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &l)
	}
	if err != nil {
		return l, fmt.Errorf("SELinux labels of a sandbox: %w", err)
	}
	return l, nil
}

// ensureLabels gives a sandbox labels that it keeps while it exists. The caller has locked the sandbox.
func (r *Runtime) ensureLabels(c runtime.SandboxConfig) (selinux.Labels, error) {
	l, err := r.labelsOfSandbox(c.UID)
	if r.c.SELinux == nil || err != nil || l != (selinux.Labels{}) {
		return l, err
	}
	if l, err = r.c.SELinux.Pod(c.SELinux); err != nil {
		return l, err
	}
	b, err := json.Marshal(l)
	if err == nil {
		path := r.labelsFile(c.UID)
		if err = os.WriteFile(path+".tmp", b, 0o600); err == nil {
			err = os.Rename(path+".tmp", path)
		}
	}
	if err != nil {
		r.c.SELinux.Release(l)
	}
	return l, err
}

// keepLabels reserves the levels of the sandboxes that exist when the agent starts.
func (r *Runtime) keepLabels() error {
	if r.c.SELinux == nil {
		return nil
	}
	entries, err := os.ReadDir(filepath.Join(r.c.StateDir, "sandboxes"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		l, err := r.labelsOfSandbox(e.Name())
		if err == nil && l != (selinux.Labels{}) {
			err = r.c.SELinux.Keep(l)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// labelsOfContainer returns the labels of a new container. A privileged one has none, only its files do.
func (r *Runtime) labelsOfContainer(c runtime.ContainerConfig, h handler) (selinux.Labels, error) {
	if r.c.SELinux == nil {
		return selinux.Labels{}, nil
	}
	l, err := r.labelsOfSandbox(c.Sandbox.UID)
	if err != nil {
		return l, err
	}
	if l == (selinux.Labels{}) {
		return l, fmt.Errorf("sandbox %s has no SELinux labels: it is from before they were enabled, and its pod has to be created again", c.Sandbox.UID)
	}
	if l, err = r.c.SELinux.Container(l, c.Security.SELinux); err != nil {
		return l, err
	}
	switch {
	case c.Security.Privileged:
		l.Process = ""
	case h.virtual():
		l.Process, err = selinux.VM(l.Process)
	}
	return l, err
}

// relabel gives mounts that are the container's the label of its files.
func relabel(ctx context.Context, mounts []runtime.Mount, l selinux.Labels) error {
	for _, m := range mounts {
		if !m.Relabel || l.File == "" {
			continue
		}
		if err := selinux.Relabel(ctx, m.HostPath, l.File); err != nil {
			return fmt.Errorf("mount %s: %w", m.ContainerPath, err)
		}
	}
	return nil
}

func setLabels(s *specs.Spec, l selinux.Labels) {
	s.Process.SelinuxLabel, s.Linux.MountLabel = l.Process, l.File
}

// labelOption returns the option that gives all files of a mount a label.
func labelOption(label string) string { return fmt.Sprintf("context=%q", label) }
