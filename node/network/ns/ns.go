// Package ns runs code inside a network namespace and opens netlink handles there.
//
// A network namespace belongs to a thread, not to a process, and Go moves goroutines between threads. So code that configures the
// kernel keeps a Namespace and goes through it: netlink handles are bound to their namespace for life, and code that depends on the
// calling thread (/proc/sys/net, sockets, child processes such as nft) runs in Do.
package ns

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is an open network namespace. It keeps the namespace alive until Close. Its methods are safe for concurrent use, but
// not concurrently with Close.
type Namespace struct {
	file *os.File
	id   identity

	mu     sync.Mutex
	handle *netlink.Handle
}

type identity struct{ dev, ino uint64 }

// Current opens the network namespace of the calling thread.
func Current() (*Namespace, error) { return Open("/proc/thread-self/ns/net") }

// Open opens the network namespace that is pinned at path.
func Open(path string) (*Namespace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace: %w", err)
	}
	id, err := identify(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return &Namespace{file: f, id: id}, nil
}

func identify(f *os.File) (identity, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil {
		return identity{}, err
	}
	if fs.Type != unix.NSFS_MAGIC {
		return identity{}, fmt.Errorf("not a namespace (file system type %#x)", fs.Type)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return identity{}, err
	}
	return identity{uint64(st.Dev), st.Ino}, nil
}

// FD returns the namespace's file descriptor, for netlink requests that refer to a namespace. It is valid until Close.
func (n *Namespace) FD() int { return int(n.file.Fd()) }

// Handle returns the route-netlink handle of the namespace. It is shared, safe for concurrent use and closed by Close.
func (n *Namespace) Handle() (*netlink.Handle, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handle != nil {
		return n.handle, nil
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(n.FD()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	n.handle = h
	return h, nil
}

// Do runs fn on a thread that is in the namespace and returns fn's error. Goroutines that fn starts are not in the namespace;
// processes that it starts are.
func (n *Namespace) Do(fn func() error) error {
	runtime.LockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer here.Close()
	if id, err := identify(here); err == nil && id == n.id {
		defer runtime.UnlockOSThread()
		return fn()
	}
	runtime.UnlockOSThread()

	// In another goroutine, so that a thread that cannot return to its namespace ends with it instead of running other goroutines.
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		back, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		defer back.Close()
		if err := unix.Setns(n.FD(), unix.CLONE_NEWNET); err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		err = fn()
		if unix.Setns(int(back.Fd()), unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Close releases the namespace and its netlink handle.
func (n *Namespace) Close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.handle != nil {
		n.handle.Close()
		n.handle = nil
	}
	n.file.Close()
}

// Pin creates a network namespace with its loopback down and pins it at path by a bind mount. Unpin removes it.
func Pin(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o400)
	if err != nil {
		return err
	}
	f.Close()
	done := make(chan error, 1)
	go func() { // never unlocked, so the thread ends with the goroutine
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make network namespace: %w", err)
			return
		}
		done <- unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	}()
	if err := <-done; err != nil {
		os.Remove(path)
		return err
	}
	return nil
}

// Unpin removes a namespace that Pin created. It continues to exist while a process or an open Namespace uses it.
func Unpin(path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return err
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return err
	}
	return nil
}
