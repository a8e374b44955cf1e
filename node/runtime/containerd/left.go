package containerd

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/pause"
)

// leaseLabel marks the leases that this package creates.
const leaseLabel = "kontiki/lease"

// sweepEvery is how often leases and shims that nobody uses any more are looked for. A shim is killed when it has been found twice.
const sweepEvery = 20 * time.Second

// hold returns a context whose content and snapshots containerd's garbage collector leaves alone until release is called. Without it, the client
// takes leases that stay for a day if containerd or the agent is killed meanwhile.
func (r *Runtime) hold(ctx context.Context) (held context.Context, release func(), err error) {
	id := "kontiki-" + newID()[:16]
	r.leases.Store(id, true)
	service := r.client.LeasesService()
	release = func() {
		r.leases.Delete(id) // if the lease cannot be deleted now, sweep does it
		_ = service.Delete(r.lifeCtx, leases.Lease{ID: id})
	}
	_, err = service.Create(ctx, leases.WithID(id), leases.WithExpiration(24*time.Hour), leases.WithLabels(map[string]string{leaseLabel: "true"}))
	if err != nil {
		release() // containerd may have created it and been killed before it responded
		return nil, nil, classify(err)
	}
	return leases.WithLease(ctx, id), release, nil
}

// sweepStreams removes the directories of an earlier agent's streams into containers.
func (r *Runtime) sweepStreams() error {
	dir := filepath.Join(r.c.StateDir, "io")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), execPrefix) {
			errs = append(errs, os.RemoveAll(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// sweepLoop removes what killed agents and a killed containerd have left, until the Runtime is closed.
func (r *Runtime) sweepLoop() {
	var suspects []string
	for {
		_ = r.sweepLeases(r.lifeCtx) // it is tried again
		if now, err := r.orphanedShims(r.lifeCtx); err == nil {
			for id, pid := range now {
				if slices.Contains(suspects, id) {
					_ = r.killShim(id, pid) // it is found again
				}
			}
			suspects = suspects[:0]
			for id := range now {
				suspects = append(suspects, id)
			}
		}
		if !pause.For(r.lifeCtx, sweepEvery) {
			return
		}
	}
}

// sweepLeases deletes the leases that nobody holds.
func (r *Runtime) sweepLeases(ctx context.Context) error {
	service := r.client.LeasesService()
	list, err := service.List(ctx)
	if err != nil {
		return classify(err)
	}
	var errs []error
	for _, lease := range list {
		if _, held := r.leases.Load(lease.ID); held || lease.Labels[leaseLabel] == "" {
			continue
		}
		if err := service.Delete(ctx, lease); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, classify(err))
		}
	}
	return errors.Join(errs...)
}

// orphanedShims returns the shims of this namespace that have no record and no process, by container. When containerd is killed while it
// starts a container, and the record is deleted before it starts again, it forgets the shim but does not end it. The shim of a pod serves several
// containers, and has the name of the first of them, which may be gone: so one that still has processes is none.
func (r *Runtime) orphanedShims(ctx context.Context) (map[string]int, error) {
	shims, err := r.shims()
	if err != nil || len(shims) == 0 {
		return nil, err
	}
	list, err := r.client.ContainerService().List(ctx)
	if err != nil {
		return nil, classify(err)
	}
	for _, c := range list {
		delete(shims, c.ID)
	}
	if len(shims) == 0 {
		return nil, nil
	}
	parents, err := parents()
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(shims, func(_ string, pid int) bool { return parents[pid] })
	return shims, nil
}

// parents returns the processes that have children.
func parents() (map[int]bool, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	out := map[int]bool{}
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // it has ended
		}
		// PID (COMMAND) STATE PPID: the command may contain anything.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 {
			continue
		}
		if parent, err := strconv.Atoi(fields[1]); err == nil {
			out[parent] = true
		}
	}
	return out, nil
}

// killShim ends the shim of a container. A process that has its pid by now, because the shim has ended, is left alone.
func (r *Runtime) killShim(id string, pid int) error {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(process)
	if now, ok := shimOf(pid, r.c.Namespace, r.c.Address); !ok || now != id {
		return nil
	}
	return unix.PidfdSendSignal(process, unix.SIGKILL, nil, 0)
}

// shims returns the processes that are shims of this namespace, by container.
func (r *Runtime) shims() (map[string]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	out := map[string]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if id, ok := shimOf(pid, r.c.Namespace, r.c.Address); ok {
			out[id] = pid
		}
	}
	return out, nil
}

// shimOf returns the container of a process that is a shim of a namespace of the containerd at an address.
func shimOf(pid int, namespace, address string) (id string, ok bool) {
	line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || !bytes.Contains(line, []byte("containerd-shim-runc")) {
		return "", false // another program, or it has ended
	}
	args := strings.Split(string(line), "\x00")
	if !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim-runc") || argument(args, "-namespace") != namespace || argument(args, "-address") != address {
		return "", false
	}
	id = argument(args, "-id")
	return id, id != ""
}

func argument(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}
