package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/selinux"
)

// A shared process namespace needs a first process, which lives as long as the pod and adopts orphans. It is a container without an
// image: one static program of a few hundred bytes.

func initID(uid string) string { return "init-" + uid }

// initRootfs returns the first process's root directory, which exists before anything else of it and is removed with the sandbox.
func (r *Runtime) initRootfs(uid string) string { return filepath.Join(r.sandboxDir(uid), "init") }

// ensureInit starts the pod's first process if it is not running, and pins its process namespace.
func (r *Runtime) ensureInit(ctx context.Context, c runtime.SandboxConfig) error {
	unlock := r.lock("init/" + c.UID)
	defer unlock()
	// A start that was abandoned halfway would leave a process that is not watched.
	ctx, cancel := detached(ctx)
	defer cancel()
	pin := filepath.Join(r.sandboxDir(c.UID), "pid")
	id := initID(c.UID)
	if ctr, err := r.client.LoadContainer(ctx, id); err == nil {
		if task, err := ctr.Task(ctx, nil); err == nil {
			if st, err := task.Status(ctx); err == nil && st.Status == client.Running && isNamespace(pin) {
				return nil
			}
		}
		if err := r.deleteRecord(ctx, ctr, c.UID); err != nil {
			return err
		}
	} else if !errdefs.IsNotFound(err) {
		return classify(err)
	}
	rootfs := r.initRootfs(c.UID)
	if err := os.MkdirAll(rootfs, 0o755); err != nil {
		return err
	}
	for _, d := range []string{"proc", "dev", "sys"} {
		if err := os.MkdirAll(filepath.Join(rootfs, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(rootfs, "init"), initProgram(), 0o755); err != nil {
		return err
	}
	cfg := runtime.ContainerConfig{Sandbox: c}
	cfg.Sandbox.SharePID = false // it creates the namespace
	adj := max(-998, r.minOOMScoreAdj)
	spec := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: rootfs, Readonly: true},
		Process: &specs.Process{Args: []string{"/init"}, Cwd: "/", NoNewPrivileges: true, Capabilities: &specs.LinuxCapabilities{}, OOMScoreAdj: &adj},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}}},
		Linux: &specs.Linux{
			CgroupsPath: filepath.Join(r.podCgroup(c.UID), "init"),
			Namespaces:  r.namespaces(cfg),
			Resources:   &specs.LinuxResources{},
		},
		Annotations: map[string]string{"io.containerd.runc.v2.group": shimGroup(r.c.Namespace, c.UID)},
	}
	r.mapUsers(spec, c)
	labels, err := r.labelsOfSandbox(c.UID)
	if err != nil {
		return err
	}
	if labels.File != "" {
		if err := selinux.Relabel(ctx, rootfs, labels.File); err != nil {
			return err
		}
	}
	setLabels(spec, labels)
	var options []client.NewTaskOpts
	if c.Users != nil { // its users may not enter the folders above: the shim mounts it where they may
		spec.Root.Path = "rootfs"
		options = append(options, client.WithRootFS([]mount.Mount{{Type: "bind", Source: rootfs, Options: []string{"rbind", "rw"}}}))
		for _, path := range []string{rootfs, filepath.Join(rootfs, "dev")} { // for devices
			if err := os.Chown(path, int(c.Users.First), int(c.Users.First)); err != nil {
				return err
			}
		}
	}
	held, release, err := r.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	handler, err := r.handlerOf(c)
	if err != nil {
		return err
	}
	ctr, err := r.client.NewContainer(held, id, handler.option(), client.WithSpec((*oci.Spec)(spec)),
		client.WithContainerLabels(map[string]string{labelInit: c.UID}))
	if err != nil {
		return classify(err)
	}
	task, err := r.newTask(ctx, ctr, c.UID, cio.NullIO, options...)
	if err != nil {
		return fmt.Errorf("create: %w", classify(err))
	}
	if err := task.Start(ctx); err != nil {
		return fmt.Errorf("start: %w", classify(err))
	}
	unmountAll(pin)
	f, err := os.OpenFile(pin, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	return unix.Mount(fmt.Sprintf("/proc/%d/ns/pid", task.Pid()), pin, "", unix.MS_BIND, "")
}

// removeInit ends the pod's first process, even if it was started only partly.
func (r *Runtime) removeInit(ctx context.Context, uid string) error {
	unlock := r.lock("init/" + uid)
	defer unlock()
	if _, err := os.Lstat(r.initRootfs(uid)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(r.ns(ctx), 30*time.Second)
	defer cancel()
	ctr, err := r.client.LoadContainer(ctx, initID(uid))
	if err == nil {
		err = r.deleteRecord(ctx, ctr, uid)
	}
	if err != nil && !errdefs.IsNotFound(err) {
		return classify(err)
	}
	unmountAll(filepath.Join(r.sandboxDir(uid), "pid"))
	return nil
}
