package ns_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kontiki/kontiki/node/network/nettest"
	"github.com/kontiki/kontiki/node/network/ns"
)

func TestMain(m *testing.M) { os.Exit(nettest.Main(m)) }

func where(t *testing.T) string {
	t.Helper()
	s, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return s
}

func TestDoEntersAndReturns(t *testing.T) {
	home := where(t)
	a, b := nettest.New(t), nettest.New(t)
	boom := errors.New("boom")
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			var inA, inB, again string
			err := a.Do(func() error {
				inA = where(t)
				return b.Do(func() error {
					inB = where(t)
					return b.Do(func() error { again = where(t); return boom })
				})
			})
			if err != boom || inA == inB || inA == home || inB == home || again != inB || where(t) != home {
				t.Errorf("home %s, a %s, b %s, again %s, now %s, error %v", home, inA, inB, again, where(t), err)
			}
		})
	}
	wg.Wait()
}

func TestPinAndUnpin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "net")
	if err := ns.Pin(path); err != nil {
		t.Fatal(err)
	}
	if err := ns.Pin(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("pinned twice: %v", err)
	}
	for range 2 {
		if err := ns.Unpin(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := ns.Open(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open after Unpin: %v", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ns.Open(path); err == nil || !strings.Contains(err.Error(), "not a namespace") {
		t.Errorf("open a plain file: %v", err)
	}
}
