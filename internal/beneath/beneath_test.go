package beneath

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// folder is a directory next to a secret, with anything that an attacker may put into it.
func folder(t *testing.T) string {
	t.Helper()
	top := t.TempDir()
	dir := filepath.Join(top, "dir")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.WriteFile(filepath.Join(top, "secret"), []byte("secret"), 0o600))
	check(os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	check(os.WriteFile(filepath.Join(dir, "sub", "file"), []byte("0123456789"), 0o644))
	check(os.Symlink("sub/file", filepath.Join(dir, "inside")))
	check(os.Symlink("/sub/file", filepath.Join(dir, "absolute")))
	check(os.Symlink("../secret", filepath.Join(dir, "outside")))
	check(os.Symlink("..", filepath.Join(dir, "up")))
	check(os.Symlink("/proc/self/root", filepath.Join(dir, "magic")))
	check(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))
	l, err := net.Listen("unix", filepath.Join(dir, "socket"))
	check(err)
	t.Cleanup(func() { l.Close() })
	return dir
}

func TestOnlyRegularFilesBelowTheFolderAreRead(t *testing.T) {
	dir := folder(t)
	for _, c := range []struct {
		path  string
		links Links
		want  string // "" for an error
	}{
		{"sub/file", Refuse, "0123456789"},
		{"inside", Refuse, ""},
		{"inside", Follow, "0123456789"},
		{"absolute", Follow, ""},
		{"absolute", AsRoot, "0123456789"},
		{"outside", Follow, ""},
		{"outside", AsRoot, ""},
		{"up/secret", Follow, ""},
		{"../secret", Follow, ""},
		{"/etc/hostname", Follow, ""},
		{"magic/etc/hostname", AsRoot, ""},
		{"fifo", Follow, ""},
		{"socket", Follow, ""},
		{"sub", Follow, ""},
		{"none", Follow, ""},
	} {
		b, err := ReadFile(dir, c.path, c.links, 100)
		if string(b) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s (%#x): %q, %v; want %q", c.path, uint64(c.links), b, err, c.want)
		}
	}
	if _, err := ReadFile(dir, "fifo", Refuse, 100); !errors.Is(err, ErrNotRegular) {
		t.Errorf("a FIFO: %v", err)
	}
}

func TestReadsAreBounded(t *testing.T) {
	dir := folder(t)
	if _, err := ReadFile(dir, "sub/file", Refuse, 9); !errors.Is(err, ErrTooLarge) {
		t.Errorf("ten bytes where nine are allowed: %v", err)
	}
	if b, err := ReadFile(dir, "sub/file", Refuse, 10); err != nil || string(b) != "0123456789" {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := ReadTail(dir, "sub/file", Refuse, 4); err != nil || string(b) != "6789" {
		t.Errorf("%q, %v", b, err)
	}
	if b, err := ReadTail(dir, "sub/file", Refuse, 100); err != nil || string(b) != "0123456789" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestAHandleOpensNothing(t *testing.T) {
	dir := folder(t)
	for _, name := range []string{"fifo", "socket", "sub"} {
		h, err := Handle(dir, name, Refuse)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		a, _ := h.Stat()
		b, _ := os.Lstat(filepath.Join(dir, name))
		if !os.SameFile(a, b) {
			t.Errorf("%s: the handle is of another file", name)
		}
		h.Close()
	}
}
