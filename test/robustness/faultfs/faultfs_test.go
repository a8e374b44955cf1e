package faultfs

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	ServeIfAsked()
	os.Exit(m.Run())
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func syncDir(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Open(dir)
	check(t, err)
	check(t, f.Sync())
	check(t, f.Close())
}

// write writes a file, and syncs it and its name as asked.
func write(t *testing.T, path string, data []byte, sync, name bool) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	check(t, err)
	_, err = f.Write(data)
	check(t, err)
	if sync {
		check(t, f.Sync())
	}
	check(t, f.Close())
	if name {
		syncDir(t, filepath.Dir(path))
	}
}

func lose(d *Disk, seed uint64) {
	d.PowerLoss(seed)
	d.PowerOn()
}

// Unsynced data may survive a power loss or not; over some seeds both happen. Synced data always survives.
func TestPowerLoss(t *testing.T) {
	d := Start(t)
	old, young := bytes.Repeat([]byte("old"), 20000), bytes.Repeat([]byte("new"), 20000)
	outcomes := map[string]int{}
	for seed := range uint64(30) {
		dir := filepath.Join(d.Dir, fmt.Sprint(seed))
		check(t, os.Mkdir(dir, 0o700))
		syncDir(t, d.Dir)
		write(t, filepath.Join(dir, "kept"), old, true, true)
		write(t, filepath.Join(dir, "overwritten"), old, true, true)
		write(t, filepath.Join(dir, "overwritten"), young, false, false)
		write(t, filepath.Join(dir, "nameless"), old, true, false)
		lose(d, seed)
		kept, err := os.ReadFile(filepath.Join(dir, "kept"))
		if err != nil || !bytes.Equal(kept, old) {
			t.Fatalf("seed %d: what was synced holds %d bytes, %v", seed, len(kept), err)
		}
		got, err := os.ReadFile(filepath.Join(dir, "overwritten"))
		check(t, err)
		if len(got) != len(old) {
			t.Fatalf("seed %d: the file has %d bytes", seed, len(got))
		}
		for at := 0; at < len(got); at += sectorSize {
			end := min(at+sectorSize, len(got))
			switch {
			case bytes.Equal(got[at:end], old[at:end]):
				outcomes["sector lost"]++
			case bytes.Equal(got[at:end], young[at:end]):
				outcomes["sector survived"]++
			default:
				t.Fatalf("seed %d: the sector at %d is neither old nor new", seed, at)
			}
		}
		if _, err := os.Stat(filepath.Join(dir, "nameless")); errors.Is(err, os.ErrNotExist) {
			outcomes["name lost"]++
		} else {
			outcomes["name survived"]++
		}
	}
	for _, o := range []string{"sector lost", "sector survived", "name lost", "name survived"} {
		if outcomes[o] == 0 {
			t.Errorf("it never happened: %s (%v)", o, outcomes)
		}
	}
	if counts := d.Counts(); counts["pages lost"] == 0 || counts["pages torn"] == 0 || counts["changes of directories lost"] == 0 {
		t.Errorf("the counts are %v", counts)
	}
}

// A rename survives completely or not at all, and never without the earlier changes in its directory.
func TestARenameIsAtomic(t *testing.T) {
	d := Start(t)
	seen := map[bool]int{}
	for seed := range uint64(20) {
		from, to := filepath.Join(d.Dir, fmt.Sprintf("from-%d", seed)), filepath.Join(d.Dir, fmt.Sprintf("to-%d", seed))
		check(t, os.Mkdir(from, 0o700))
		check(t, os.Mkdir(to, 0o700))
		syncDir(t, d.Dir)
		write(t, filepath.Join(from, "f"), []byte("x"), true, true)
		check(t, os.Rename(filepath.Join(from, "f"), filepath.Join(to, "f")))
		lose(d, seed)
		_, there := os.Stat(filepath.Join(to, "f"))
		_, here := os.Stat(filepath.Join(from, "f"))
		if (there == nil) == (here == nil) {
			t.Fatalf("seed %d: new name: %v, old name: %v", seed, there, here)
		}
		seen[there == nil]++
	}
	if len(seen) != 2 {
		t.Errorf("only one outcome was seen: %v", seen)
	}
}

func TestADiskThatIsOffAnswersErrors(t *testing.T) {
	d := Start(t)
	write(t, filepath.Join(d.Dir, "f"), []byte("x"), true, true)
	f, err := os.OpenFile(filepath.Join(d.Dir, "f"), os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	d.PowerLoss(1)
	if _, err := f.Write([]byte("y")); !errors.Is(err, syscall.EIO) {
		t.Errorf("a write: %v", err)
	}
	if _, err := os.ReadDir(d.Dir); !errors.Is(err, syscall.EIO) {
		t.Errorf("a listing: %v", err)
	}
	d.PowerOn()
	if _, err := os.ReadDir(d.Dir); err != nil {
		t.Error(err)
	}
}

func TestAFullDisk(t *testing.T) {
	d := Start(t)
	d.Capacity(1 << 20)
	f, err := os.Create(filepath.Join(d.Dir, "f"))
	check(t, err)
	defer f.Close()
	n, err := f.Write(make([]byte, 2<<20))
	if !errors.Is(err, syscall.ENOSPC) || n != 1<<20 {
		t.Errorf("wrote %d bytes: %v", n, err)
	}
	var fs syscall.Statfs_t
	check(t, syscall.Statfs(d.Dir, &fs))
	if fs.Bavail != 0 || fs.Blocks*uint64(fs.Bsize) != 1<<20 {
		t.Errorf("%d of %d blocks are free", fs.Bavail, fs.Blocks)
	}
	if _, err := f.WriteAt([]byte("over what is there"), 100); err != nil {
		t.Error(err)
	}
	if err := syscall.Fallocate(int(f.Fd()), 0, 1<<20, 4096); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("an allocation: %v", err)
	}
	check(t, f.Truncate(4096))
	if _, err := f.WriteAt(make([]byte, 8192), 4096); err != nil {
		t.Errorf("after something was deleted: %v", err)
	}
	if d.Counts()["no space"] == 0 {
		t.Error("it was not counted")
	}
}

func TestErrorsAndStalls(t *testing.T) {
	d := Start(t)
	f, err := os.Create(filepath.Join(d.Dir, "f"))
	check(t, err)
	defer f.Close()
	d.Fail(Sync, syscall.EIO)
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Errorf("a sync: %v", err)
	}
	d.Fail(Sync, 0)
	check(t, f.Sync())
	d.Stall(Write)
	done := make(chan error, 1)
	go func() { _, err := f.Write([]byte("x")); done <- err }()
	for deadline := time.Now().Add(patience); d.Counts()["stalled write"] == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the write does not stall")
		}
	}
	select {
	case err := <-done:
		t.Errorf("a write went through: %v", err)
	default:
	}
	d.Resume(Write)
	check(t, <-done)
}

// Files are mapped as bbolt does it; a page that flips is seen once the file is opened again.
func TestMappedFilesAndFlippedBits(t *testing.T) {
	d := Start(t)
	path := filepath.Join(d.Dir, "f")
	write(t, path, make([]byte, 3*pageSize), true, true)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	m, err := syscall.Mmap(int(f.Fd()), 0, 3*pageSize, syscall.PROT_READ, syscall.MAP_SHARED)
	check(t, err)
	_, err = f.WriteAt([]byte("seen"), 5000)
	check(t, err)
	if string(m[5000:5004]) != "seen" {
		t.Errorf("the mapping shows %q", m[5000:5004])
	}
	check(t, syscall.Munmap(m))
	check(t, f.Close())
	d.Flip("f", 5001, 0x20)
	data, err := os.ReadFile(path)
	check(t, err)
	if string(data[5000:5004]) != "sEen" {
		t.Errorf("read %q", data[5000:5004])
	}
}

// The disk beside a plain one, under random operations.
func TestTheDiskIsAFileSystem(t *testing.T) {
	d, plain := Start(t), t.TempDir()
	r := rand.New(rand.NewPCG(3, 3))
	both := func(do func(root string) error) {
		a, b := do(d.Dir), do(plain)
		if (a == nil) != (b == nil) {
			t.Fatalf("here: %v; on a plain disk: %v", a, b)
		}
	}
	for step := range 600 {
		name := filepath.Join(fmt.Sprintf("d%d", r.IntN(3)), fmt.Sprintf("f%d", r.IntN(4)))
		other := filepath.Join(fmt.Sprintf("d%d", r.IntN(3)), fmt.Sprintf("f%d", r.IntN(4)))
		at, data := int64(r.IntN(20000)), bytes.Repeat([]byte{byte(step)}, r.IntN(9000))
		switch r.IntN(7) {
		case 0:
			both(func(root string) error { return os.Mkdir(filepath.Join(root, filepath.Dir(name)), 0o700) })
		case 1, 2:
			both(func(root string) error {
				f, err := os.OpenFile(filepath.Join(root, name), os.O_CREATE|os.O_RDWR, 0o600)
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = f.WriteAt(data, at)
				return err
			})
		case 3:
			both(func(root string) error { return os.Truncate(filepath.Join(root, name), at) })
		case 4:
			both(func(root string) error { return os.Remove(filepath.Join(root, name)) })
		case 5:
			both(func(root string) error { return os.Rename(filepath.Join(root, name), filepath.Join(root, other)) })
		case 6:
			both(func(root string) error { return os.Remove(filepath.Join(root, filepath.Dir(name))) })
		}
		for _, root := range []string{"d0", "d1", "d2"} {
			here, _ := os.ReadDir(filepath.Join(d.Dir, root))
			there, _ := os.ReadDir(filepath.Join(plain, root))
			if len(here) != len(there) {
				t.Fatalf("step %d: %s holds %v, should hold %v", step, root, here, there)
			}
			for i := range here {
				a, err := os.ReadFile(filepath.Join(d.Dir, root, here[i].Name()))
				check(t, err)
				b, err := os.ReadFile(filepath.Join(plain, root, there[i].Name()))
				if err != nil || here[i].Name() != there[i].Name() || !bytes.Equal(a, b) {
					t.Fatalf("step %d: %s/%s differs, %v", step, root, here[i].Name(), err)
				}
			}
		}
	}
}
