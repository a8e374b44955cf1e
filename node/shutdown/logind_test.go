package shutdown

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/kontiki/kontiki/node/shutdown/logindtest"
)

func TestLogindOverDBus(t *testing.T) {
	fake := logindtest.Start(t, 5*time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	bus, err := dbus.Connect(fake.Address, dbus.WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	l := &logind{bus, fake.Conf}
	defer l.Close()
	if d, err := l.Delay(ctx); err != nil || d != 5*time.Second {
		t.Fatalf("logind waits %s, %v", d, err)
	}
	if err := l.SetDelay(ctx, 29500*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if fake.Wait() != 30*time.Second {
		t.Errorf("logind waits %s, want 30s", fake.Wait())
	}
	text, err := os.ReadFile(filepath.Join(fake.Conf, dropIn))
	if err != nil || !strings.Contains(string(text), "[Login]\nInhibitDelayMaxSec=30\n") {
		t.Errorf("%v\n%s", err, text)
	}
	events, err := l.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lock, err := l.Inhibit(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, begins := range []bool{true, false} {
		fake.Announce(begins)
		select {
		case got := <-events:
			if got != begins {
				t.Errorf("it says %v, want %v", got, begins)
			}
		case <-ctx.Done():
			t.Fatal("the announcement did not arrive")
		}
	}
	if !fake.Held() {
		t.Error("the lock is not held")
	}
	for range 2 {
		if err := lock.Close(); err != nil {
			t.Error(err)
		}
	}
	fake.AwaitRelease()
	l.Close()
	if _, open := <-events; open {
		t.Error("the end of the connection is not noticed")
	}
}
