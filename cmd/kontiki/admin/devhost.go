package admin

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/cmd/kontiki/dev"
)

// enterHost makes the command run as if it had been typed on a host of a development cluster, if dir has the data of one: the host's address is reached only in
// its network namespace. There it executes this program again and does not return; elsewhere it does nothing.
func enterHost(dir string) error {
	namespace, err := devNamespace(dir)
	if namespace == "" || err != nil {
		return err
	}
	there, err := os.Open(filepath.Join("/run/netns", namespace))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is of a development cluster that is not running: start it with `kontiki dev`", dir)
	}
	if err != nil {
		return err
	}
	defer there.Close()
	in, err := there.Stat()
	if err != nil {
		return err
	}
	if here, err := os.Stat("/proc/self/ns/net"); err != nil || os.SameFile(here, in) {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // of the threads, the one that executes a program is the one whose namespace the program has
	defer runtime.UnlockOSThread()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network of the development cluster's host %s: %w", filepath.Base(dir), err)
	}
	return os.NewSyscallError("exec", unix.Exec(self, os.Args, os.Environ()))
}

// devNamespace returns the network namespace of the host whose data are in dir, below a development cluster's directory; "" if it is not of one.
func devNamespace(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	hosts, name := filepath.Split(dir)
	if filepath.Base(hosts) != "hosts" {
		return "", nil
	}
	status, err := dev.ReadStatus(filepath.Dir(filepath.Clean(hosts)))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(status.Hosts, func(h dev.HostStatus) bool { return h.Name == name })
	if i < 0 {
		return "", nil
	}
	return status.Hosts[i].Namespace, nil
}
