// Package faultfs provides a disk that fails as a test requests: a FUSE file system in memory, served by a separate process. It
// loses unsynced data, runs full, returns errors, stalls, and flips bits. Any program can use it, with files that it opens, maps
// and syncs as on any disk.
//
// The server is the test binary itself, started again (ServeIfAsked): if it were in the process that uses the disk, a page fault on
// a mapped file would block the goroutine that should serve it.
//
// A test that needs the disk fails if there is no /dev/fuse, unless KONTIKI_SKIP_FUSE is set.
package faultfs

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Operations that can fail and stall. The names count requests of the kernel: fallocate is a Write, a sync of a directory a Sync.
const (
	Write = "write"
	Sync  = "sync"
	Read  = "read"
)

// patience is how long the serving process may take to respond.
const patience = 20 * time.Second

// Disk is a mounted disk. Its methods are safe for concurrent use, and fail the test if they fail.
type Disk struct {
	// Dir is the mount point.
	Dir string

	t       testing.TB
	process *exec.Cmd
	mu      sync.Mutex
	in      io.WriteCloser
	out     *bufio.Reader
}

// Start mounts an empty disk for a test, and unmounts it when the test ends.
func Start(t testing.TB) *Disk {
	t.Helper()
	if _, err := os.Stat("/dev/fuse"); err != nil {
		if os.Getenv("KONTIKI_SKIP_FUSE") != "" {
			t.Skip("KONTIKI_SKIP_FUSE is set, and there is no /dev/fuse")
		}
		t.Fatalf("this test needs FUSE (load the kernel's module fuse, give the container /dev/fuse, or set KONTIKI_SKIP_FUSE=1 to go without): %v", err)
	}
	dir, err := os.MkdirTemp("", "faultfs-")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := &Disk{Dir: dir, t: t, process: exec.Command(self)}
	d.process.Env = append(os.Environ(), mountVariable+"="+dir)
	d.process.Stderr = os.Stderr
	d.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // when the test is interrupted, the end of its input ends it
	if d.in, err = d.process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := d.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.out = bufio.NewReader(out)
	if err := d.process.Start(); err != nil {
		t.Fatalf("start the disk's server: %v", err)
	}
	t.Cleanup(d.stop)
	if _, err := d.answer(); err != nil {
		t.Fatalf("start the disk's server (does TestMain call faultfs.ServeIfAsked?): %v", err)
	}
	return d
}

func (d *Disk) stop() {
	d.in.Close()
	timer := time.AfterFunc(patience, func() { d.process.Process.Kill() })
	d.process.Wait()
	timer.Stop()
	_ = syscall.Unmount(d.Dir, syscall.MNT_DETACH) // in case it was killed
	if err := os.Remove(d.Dir); err != nil {
		d.t.Errorf("the disk is still mounted: %v", err)
	}
}

func (d *Disk) answer() (map[string]int64, error) {
	timer := time.AfterFunc(patience, func() { d.process.Process.Kill() })
	defer timer.Stop()
	line, err := d.out.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("the disk's server is gone: %w", err)
	}
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return nil, fmt.Errorf("the disk's server said %q: %w", line, err)
	}
	if a.Error != "" {
		return nil, errors.New(a.Error)
	}
	return a.Counts, nil
}

func (d *Disk) ask(r request) map[string]int64 {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	line, err := json.Marshal(r)
	if err == nil {
		_, err = d.in.Write(append(line, '\n'))
	}
	var counts map[string]int64
	if err == nil {
		counts, err = d.answer()
	}
	if err != nil {
		d.t.Fatalf("disk: %s: %v", r.Op, err)
	}
	return counts
}

// PowerLoss drops at one instant what was not synced, except what the seed lets survive, and turns the disk off: until PowerOn
// every operation fails, except reads by programs that have files open. These must be ended before PowerOn.
func (d *Disk) PowerLoss(seed uint64) {
	d.t.Helper()
	d.ask(request{Op: "power-loss", Seed: seed})
}

// PowerOn ends a power loss.
func (d *Disk) PowerOn() {
	d.t.Helper()
	d.ask(request{Op: "power-on"})
}

// Capacity sets the size of the disk in bytes; 0 means unlimited. Existing data stay.
func (d *Disk) Capacity(bytes int64) {
	d.t.Helper()
	d.ask(request{Op: "capacity", Bytes: bytes})
}

// Fail makes an operation fail until Fail is called with 0.
func (d *Disk) Fail(op string, errno syscall.Errno) {
	d.t.Helper()
	d.ask(request{Op: "fail", Name: op, Errno: int(errno)})
}

// Stall makes operations wait until Resume.
func (d *Disk) Stall(ops ...string) {
	d.t.Helper()
	for _, op := range ops {
		d.ask(request{Op: "stall", Name: op, On: true})
	}
}

// Resume ends stalls.
func (d *Disk) Resume(ops ...string) {
	d.t.Helper()
	for _, op := range ops {
		d.ask(request{Op: "stall", Name: op})
	}
}

// Flip changes bits of a byte of a file, named relative to Dir, on the disk. Programs that have the file open see it once the
// kernel reads the page again.
func (d *Disk) Flip(path string, at int64, mask byte) {
	d.t.Helper()
	d.ask(request{Op: "flip", Name: path, Bytes: at, Mask: mask})
}

// Counts returns the number of operations and faults since Start, by name: "write", "sync", "stalled write", "no space", "pages
// lost", "pages torn", "changes of directories lost", "write failed with input/output error".
func (d *Disk) Counts() map[string]int64 {
	d.t.Helper()
	return d.ask(request{Op: "counts"})
}
