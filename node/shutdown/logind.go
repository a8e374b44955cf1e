package shutdown

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/kontiki/kontiki/internal/pause"
)

const (
	service = "org.freedesktop.login1"
	object  = dbus.ObjectPath("/org/freedesktop/login1")
	manager = "org.freedesktop.login1.Manager"
	// dropIn is the file that makes logind wait longer.
	dropIn = "99-kontiki.conf"
)

// logind is a Logind over D-Bus (https://www.freedesktop.org/software/systemd/man/org.freedesktop.login1.html).
type logind struct {
	bus  *dbus.Conn
	conf string
}

// SystemLogind connects to the system's bus, and to logind there.
func SystemLogind(ctx context.Context) (Logind, error) {
	bus, err := dbus.ConnectSystemBus(dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	return &logind{bus, "/etc/systemd/logind.conf.d"}, nil
}

func (l *logind) Close() error { return l.bus.Close() }

// callTimeout limits a call: logind answers at once.
const callTimeout = 10 * time.Second

func (l *logind) call(ctx context.Context, service string, object dbus.ObjectPath, method string, result any, arguments ...any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	call := l.bus.Object(service, object).CallWithContext(ctx, method, 0, arguments...)
	err := call.Err
	if err == nil && result != nil {
		err = call.Store(result)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	return nil
}

func (l *logind) Delay(ctx context.Context) (time.Duration, error) {
	n, err := property[uint64](ctx, l, "InhibitDelayMaxUSec")
	return time.Duration(min(n, uint64(1<<40))) * time.Microsecond, err
}

func (l *logind) Preparing(ctx context.Context) (bool, error) {
	return property[bool](ctx, l, "PreparingForShutdown")
}

// property reads a property of logind's manager.
func property[T any](ctx context.Context, l *logind, name string) (value T, err error) {
	var v dbus.Variant
	if err := l.call(ctx, service, object, "org.freedesktop.DBus.Properties.Get", &v, manager, name); err != nil {
		return value, err
	}
	value, ok := v.Value().(T)
	if !ok {
		return value, fmt.Errorf("logind's %s is a %T", name, v.Value())
	}
	return value, nil
}

// applied is how long logind may take to read its configuration, and how often it is asked meanwhile: it tells nobody.
const applied, askAgain = 5 * time.Second, 100 * time.Millisecond

func (l *logind) SetDelay(ctx context.Context, d time.Duration) error {
	if err := os.MkdirAll(l.conf, 0o755); err != nil {
		return fmt.Errorf("logind's configuration: %w", err)
	}
	seconds := int64((d + time.Second - 1) / time.Second)
	text := fmt.Sprintf("# By kontiki agent: as long as its pods may take to end (--shutdown-grace-period).\n[Login]\nInhibitDelayMaxSec=%d\n", seconds)
	if err := os.WriteFile(filepath.Join(l.conf, dropIn), []byte(text), 0o644); err != nil {
		return fmt.Errorf("logind's configuration: %w", err)
	}
	const hangUp = int32(1)
	if err := l.call(ctx, "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager.KillUnit", nil, "systemd-logind.service", "all", hangUp); err != nil {
		return err
	}
	for end := time.Now().Add(applied); ; {
		now, err := l.Delay(ctx)
		if err != nil || now >= d {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("logind waits for %s at most, the pods may take %s: it does not apply InhibitDelayMaxSec from %s", now, d, filepath.Join(l.conf, dropIn))
		}
		if !pause.For(ctx, askAgain) {
			return ctx.Err()
		}
	}
}

// lock is the file descriptor whose last copy logind waits for. Closing it again has no effect.
type lock struct{ *os.File }

func (l lock) Close() error {
	if err := l.File.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

func (l *logind) Inhibit(ctx context.Context) (io.Closer, error) {
	var fd dbus.UnixFD
	if err := l.call(ctx, service, object, manager+".Inhibit", &fd, "shutdown", "kontiki agent", "Pods need time to end", "delay"); err != nil {
		return nil, err
	}
	return lock{os.NewFile(uintptr(fd), "inhibitor lock")}, nil
}

func (l *logind) Watch(ctx context.Context) (<-chan bool, error) {
	options := []dbus.MatchOption{dbus.WithMatchSender(service), dbus.WithMatchInterface(manager), dbus.WithMatchMember("PrepareForShutdown"), dbus.WithMatchObjectPath(object)}
	if err := l.bus.AddMatchSignalContext(ctx, options...); err != nil {
		return nil, fmt.Errorf("watch logind: %w", err)
	}
	signals := make(chan *dbus.Signal, 16)
	l.bus.Signal(signals)
	out := make(chan bool)
	go func() {
		defer close(out)
		for {
			select {
			case <-l.bus.Context().Done():
				return
			case <-ctx.Done():
				return
			case s, ok := <-signals:
				if !ok {
					return
				}
				if s == nil || s.Name != manager+".PrepareForShutdown" || s.Path != object || len(s.Body) != 1 {
					continue
				}
				if began, ok := s.Body[0].(bool); ok {
					select {
					case out <- began:
					case <-ctx.Done():
						return
					}
				}
			}
		}
	}()
	return out, nil
}
