// Package logindtest is a fake logind for tests, on a D-Bus of its own.
package logindtest

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	object  = dbus.ObjectPath("/org/freedesktop/login1")
	manager = "org.freedesktop.login1.Manager"
)

// Logind is a fake logind, and as much of systemd as tells it to read its configuration. Its methods may be called concurrently.
type Logind struct {
	// Address is that of the bus.
	Address string
	// Conf is the folder of its configuration files.
	Conf string

	t    testing.TB
	bus  *dbus.Conn
	mu   sync.Mutex
	wait time.Duration
	held []*os.File // the other ends of the locks
	told chan struct{}
}

const config = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path=%s</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`

// Start starts a bus and a logind on it, which waits for locks for a given time at most. Both end with the test.
func Start(t testing.TB, wait time.Duration) *Logind {
	t.Helper()
	dir := t.TempDir()
	l := &Logind{Address: "unix:path=" + filepath.Join(dir, "bus"), Conf: filepath.Join(dir, "logind.conf.d"), t: t, wait: wait, told: make(chan struct{}, 1)}
	file := filepath.Join(dir, "bus.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, config, filepath.Join(dir, "bus")), 0o600); err != nil {
		t.Fatal(err)
	}
	daemon := exec.Command("dbus-daemon", "--config-file="+file, "--nofork", "--nopidfile", "--print-address")
	daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	daemon.Stderr = os.Stderr
	if err := daemon.Start(); err != nil {
		t.Fatalf("%v; `make deps` installs it", err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // it listens
		t.Fatal(err)
	}
	go io.Copy(io.Discard, out)
	if l.bus, err = dbus.Connect(l.Address); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.bus.Close() })
	for _, export := range []struct {
		methods    map[string]any
		path       dbus.ObjectPath
		interface_ string
	}{
		{map[string]any{"Inhibit": l.inhibit}, object, manager},
		{map[string]any{"Get": l.get}, object, "org.freedesktop.DBus.Properties"},
		{map[string]any{"KillUnit": l.kill}, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"},
	} {
		if err := l.bus.ExportMethodTable(export.methods, export.path, export.interface_); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"org.freedesktop.login1", "org.freedesktop.systemd1"} {
		if reply, err := l.bus.RequestName(name, dbus.NameFlagDoNotQueue); err != nil || reply != dbus.RequestNameReplyPrimaryOwner {
			t.Fatalf("the name %s: %v, %v", name, reply, err)
		}
	}
	return l
}

func (l *Logind) inhibit(what, who, why, mode string) (dbus.UnixFD, *dbus.Error) {
	if what != "shutdown" || mode != "delay" || who == "" || why == "" {
		return 0, dbus.MakeFailedError(fmt.Errorf("a lock of %q in mode %q by %q because of %q", what, mode, who, why))
	}
	r, w, err := os.Pipe()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	l.mu.Lock()
	l.held = append(l.held, r)
	l.mu.Unlock()
	fd, err := syscall.Dup(int(w.Fd())) // it is sent, and then closed below
	w.Close()
	if err != nil {
		return 0, dbus.MakeFailedError(err)
	}
	time.AfterFunc(time.Second, func() { syscall.Close(fd) })
	select {
	case l.told <- struct{}{}:
	default:
	}
	return dbus.UnixFD(fd), nil
}

func (l *Logind) get(of, name string) (dbus.Variant, *dbus.Error) {
	if of != manager || name != "InhibitDelayMaxUSec" {
		return dbus.Variant{}, dbus.MakeFailedError(fmt.Errorf("no property %s of %s", name, of))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return dbus.MakeVariant(uint64(l.wait / time.Microsecond)), nil
}

var setting = regexp.MustCompile(`(?m)^InhibitDelayMaxSec=(\d+)$`)

// kill makes logind read its configuration, some time later.
func (l *Logind) kill(unit, who string, signal int32) *dbus.Error {
	if unit != "systemd-logind.service" || who != "all" || syscall.Signal(signal) != syscall.SIGHUP {
		return dbus.MakeFailedError(fmt.Errorf("signal %d to %s of %s", signal, who, unit))
	}
	time.AfterFunc(150*time.Millisecond, func() {
		files, _ := filepath.Glob(filepath.Join(l.Conf, "*.conf"))
		for _, file := range files {
			text, _ := os.ReadFile(file)
			if m := setting.FindSubmatch(text); m != nil && strings.Contains(string(text), "[Login]") {
				n, _ := strconv.Atoi(string(m[1]))
				l.mu.Lock()
				l.wait = time.Duration(n) * time.Second
				l.mu.Unlock()
			}
		}
	})
	return nil
}

// Wait returns how long it waits for locks at most.
func (l *Logind) Wait() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wait
}

// AwaitLock waits until a lock is taken.
func (l *Logind) AwaitLock() {
	l.t.Helper()
	select {
	case <-l.told:
	case <-time.After(30 * time.Second):
		l.t.Fatal("nobody takes a lock")
	}
}

// Announce says that a shutdown begins, or that it is cancelled.
func (l *Logind) Announce(begins bool) {
	l.t.Helper()
	if err := l.bus.Emit(object, manager+".PrepareForShutdown", begins); err != nil {
		l.t.Fatal(err)
	}
}

// AwaitRelease waits until every lock is released.
func (l *Logind) AwaitRelease() {
	l.t.Helper()
	l.mu.Lock()
	held := l.held
	l.held = nil
	l.mu.Unlock()
	for _, r := range held {
		if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			l.t.Fatal(err)
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.EOF {
			l.t.Fatalf("the lock is not released: %v", err)
		}
		r.Close()
	}
}

// Held says whether a lock is held.
func (l *Logind) Held() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.held {
		if err := r.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
			return false
		}
		if _, err := r.Read(make([]byte, 1)); err != io.EOF {
			return true
		}
	}
	return false
}
