package faultfs

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// mountVariable names the environment variable with the directory that a process should serve.
const mountVariable = "KONTIKI_FAULTFS"

// request is one line to the serving process, answer one line from it.
type request struct {
	Op    string `json:"op"`
	Name  string `json:"name,omitempty"`
	Seed  uint64 `json:"seed,omitempty"`
	Bytes int64  `json:"bytes,omitempty"`
	Mask  byte   `json:"mask,omitempty"`
	Errno int    `json:"errno,omitempty"`
	On    bool   `json:"on,omitempty"`
}

type answer struct {
	Error  string           `json:"error,omitempty"`
	Counts map[string]int64 `json:"counts,omitempty"`
}

// ServeIfAsked serves a disk and does not return if Start has started this process. Call it first in TestMain.
func ServeIfAsked() {
	dir := os.Getenv(mountVariable)
	if dir == "" {
		return
	}
	if err := serve(dir); err != nil {
		_ = json.NewEncoder(os.Stdout).Encode(answer{Error: err.Error()})
		os.Exit(1)
	}
	os.Exit(0)
}

// serve serves until the standard input ends.
func serve(dir string) error {
	d := newDisk()
	mounted, err := fuse.NewServer(newServer(d), dir, &fuse.MountOptions{
		FsName: "kontiki-faultfs", Name: "faultfs", DirectMountStrict: true, DisableReadDirPlus: true, MaxWrite: 1 << 20,
		ExplicitDataCacheControl: true, // as on any disk, cached data remain readable when the disk fails
	})
	if err != nil {
		return fmt.Errorf("mount a FUSE file system: %w", err)
	}
	go mounted.Serve()
	if err := mounted.WaitMount(); err != nil {
		return fmt.Errorf("mount a FUSE file system: %w", err)
	}
	// Programs may still have files open: they get errors.
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(answer{}); err != nil {
		return err
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var r request
		a := answer{}
		err := json.Unmarshal(in.Bytes(), &r)
		if err == nil {
			a.Counts, err = d.do(r)
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return nil
}

// do carries out one request.
func (d *disk) do(r request) (map[string]int64, error) {
	switch r.Op {
	case "power-loss":
		d.powerLoss(r.Seed)
		return nil, nil
	case "flip":
		return nil, d.flip(r.Name, r.Bytes, r.Mask)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch r.Op {
	case "power-on":
		d.off = false
		for _, f := range d.files {
			f.ghost = nil
		}
	case "capacity":
		d.capacity = (r.Bytes + pageSize - 1) / pageSize
	case "fail":
		if r.Errno == 0 {
			delete(d.failing, r.Name)
		} else {
			d.failing[r.Name] = syscall.Errno(r.Errno)
		}
	case "stall":
		if r.On {
			d.stalled[r.Name] = true
		} else {
			delete(d.stalled, r.Name)
			d.wake()
		}
	case "counts":
		return maps.Clone(d.counts), nil
	default:
		return nil, fmt.Errorf("unknown request %q", r.Op)
	}
	return nil, nil
}
