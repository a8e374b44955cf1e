package tree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// deep makes a tree that is deeper than any path and than the number of descriptors allowed, with a file and a sibling directory
// at each level, like a container does.
func deep(t *testing.T, dir string, depth int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range depth {
		if err := errors.Join(unix.Mkdirat(fd, "a", 0o700), unix.Mkdirat(fd, "b", 0o700), unix.Mkdirat(fd, "z", 0o700), unix.Symlinkat("/", fd, "l")); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "b", unix.O_DIRECTORY, 0)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	unix.Close(fd)
	t.Cleanup(func() {
		if err := RemoveAll(context.Background(), dir); err != nil {
			t.Error(err)
		}
	})
}

// fewDescriptors limits the descriptors of the process to some more than are open.
func fewDescriptors(t *testing.T) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	l := old
	l.Cur = 100
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	})
}

func TestDeepTreesAreWalkedAndRemovedWithFewDescriptors(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const depth = 2500
	deep(t, dir, depth)
	fewDescriptors(t)
	n := 0
	if err := Walk(context.Background(), dir, 4*depth, func(*unix.Stat_t) error { n++; return nil }); err != nil || n != 4*depth+1 {
		t.Errorf("%d entries, %v; want %d", n, err, 4*depth+1)
	}
	if err := Walk(context.Background(), dir, 4*depth-1, func(*unix.Stat_t) error { return nil }); !errors.Is(err, ErrTooMany) {
		t.Errorf("more entries than allowed: %v", err)
	}
	if err := RemoveAll(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
}

// Between two subdirectories of a directory whose descriptor was closed, the walk goes on where it was.
func TestEverythingIsVisitedOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	const wide = 500 // more than one chunk of names
	want := 1
	for i := range wide {
		path := filepath.Join(dir, fmt.Sprintf("%0100d", i))
		want++
		if i%100 == 0 {
			path = filepath.Join(path, strings.Repeat("x/", 2*window))
			want += 2 * window
		}
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[uint64]int{}
	if err := Walk(context.Background(), dir, 1<<20, func(st *unix.Stat_t) error { seen[st.Ino]++; return nil }); err != nil {
		t.Fatal(err)
	}
	for ino, n := range seen {
		if n != 1 {
			t.Errorf("inode %d was visited %d times", ino, n)
		}
	}
	if len(seen) != want {
		t.Errorf("%d entries, want %d", len(seen), want)
	}
	if err := RemoveAll(context.Background(), dir); err != nil {
		t.Error(err)
	}
}

func TestLinksAndMountsAreLeftAlone(t *testing.T) {
	top := t.TempDir()
	dir, other := filepath.Join(top, "d"), filepath.Join(top, "other")
	for _, d := range []string{filepath.Join(dir, "sub", "mount"), other} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	kept := filepath.Join(other, "kept")
	if err := errors.Join(os.WriteFile(kept, nil, 0o600), os.Symlink(other, filepath.Join(dir, "sub", "link")), os.Symlink(other, filepath.Join(top, "toplink"))); err != nil {
		t.Fatal(err)
	}
	if err := RemoveAll(context.Background(), filepath.Join(top, "toplink")); err != nil {
		t.Error(err)
	}
	count := func() (n int) {
		if err := Walk(context.Background(), dir, 100, func(*unix.Stat_t) error { n++; return nil }); err != nil {
			t.Error(err)
		}
		return n
	}
	if n := count(); n != 4 {
		t.Errorf("%d entries, want the directory, sub, mount and link", n)
	}
	if os.Getuid() == 0 {
		mount := filepath.Join(dir, "sub", "mount")
		if err := unix.Mount(other, mount, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(mount, unix.MNT_DETACH) })
		if n := count(); n != 3 {
			t.Errorf("%d entries, want no mount", n)
		}
		if err := RemoveAll(context.Background(), dir); !errors.Is(err, unix.EBUSY) {
			t.Errorf("removed in spite of a mount: %v", err)
		}
		if err := unix.Unmount(mount, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := RemoveAll(context.Background(), dir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
	for _, absent := range []string{dir, filepath.Join(dir, "x")} {
		if err := RemoveAll(context.Background(), absent); err != nil {
			t.Errorf("nothing to remove: %v", err)
		}
	}
}

func TestErrorsAreShortAndCancelled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	deep(t, dir, 300)
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	if err := Walk(ctx, dir, 1<<20, func(*unix.Stat_t) error {
		if n++; n == 10 {
			cancel()
		}
		return nil
	}); !errors.Is(err, context.Canceled) || n != 10 {
		t.Errorf("%v after %d", err, n)
	}
	if err := RemoveAll(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	p := path{levels: make([]level, 15001)}
	if s := p.fail("remove", dir, strings.Repeat("n", 255), unix.EPERM).Error(); len(s) > 1000 {
		t.Errorf("%d bytes", len(s))
	}
}
