package faultfs

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	pageSize   = 4096
	sectorSize = 512
	rootID     = 1
)

type page = [pageSize]byte

// file is the content of a file or a directory. Pages are never changed in place once they are durable.
type file struct {
	id      uint64
	mode    uint32
	changed time.Time

	// The content of a file, and which part of it is durable. A page that does not exist is a hole.
	size, durableSize int64
	pages, durable    map[int64]*page
	dirty             map[int64]bool
	// The content at the time of the power loss, until the power is on again: programs that are still running have it in their page
	// cache.
	ghost     map[int64]*page
	ghostSize int64

	// The entries of a directory, and the durable ones.
	entries, durableEntries map[string]*file

	lookups uint64 // references held by the kernel
}

// change is one change of a directory that is not durable yet.
type change struct {
	dir, other *file  // other is the second directory of a rename
	redo       func() // applies it to the durable entries
}

// disk is an in-memory file system that distinguishes durable from other data.
//
// A file's pages become durable by a sync of the file, a directory's entries by a sync of the directory. That is what POSIX
// promises, and no more: a file that was synced and whose name was not is lost in a power loss. Data that are not durable may
// nevertheless have reached the disk: after a power loss, an arbitrary number of the first changes to directories is kept, and of
// every page that was written all, nothing, or some of its sectors.
type disk struct {
	mu      sync.Mutex
	files   map[uint64]*file
	journal []change
	nextID  uint64

	off      bool
	capacity int64 // in pages; 0 means unlimited
	failing  map[string]syscall.Errno
	stalled  map[string]bool
	resume   chan struct{}
	counts   map[string]int64
}

func newDisk() *disk {
	d := &disk{
		files: map[uint64]*file{}, nextID: rootID,
		failing: map[string]syscall.Errno{}, stalled: map[string]bool{}, resume: make(chan struct{}), counts: map[string]int64{},
	}
	d.newFile(syscall.S_IFDIR | 0o755)
	return d
}

func (d *disk) newFile(mode uint32) *file {
	f := &file{id: d.nextID, mode: mode, changed: time.Now()}
	d.nextID++
	if mode&syscall.S_IFDIR != 0 {
		f.entries, f.durableEntries = map[string]*file{}, map[string]*file{}
	} else {
		f.pages, f.durable, f.dirty = map[int64]*page{}, map[int64]*page{}, map[int64]bool{}
	}
	d.files[f.id] = f
	return f
}

// begin waits during a stall, and returns an error if the operation should fail. If it returns none, mu is held.
func (d *disk) begin(op string, cancel <-chan struct{}) syscall.Errno {
	d.mu.Lock()
	for d.stalled[op] && !d.off {
		d.counts["stalled "+op]++
		resume := d.resume
		d.mu.Unlock()
		select {
		case <-resume:
		case <-cancel:
			return syscall.EINTR
		}
		d.mu.Lock()
	}
	d.counts[op]++
	errno := d.failing[op]
	if d.off && op != Read {
		errno = syscall.EIO
	}
	if errno != 0 {
		d.counts[fmt.Sprintf("%s failed with %v", op, errno)]++
		d.mu.Unlock()
	}
	return errno
}

// note records a change of directories, which has already been made, until it becomes durable.
func (d *disk) note(dir, other *file, redo func()) {
	d.journal = append(d.journal, change{dir, other, redo})
	dir.changed = time.Now()
}

func (d *disk) link(dir *file, name string, f *file) {
	dir.entries[name] = f
	d.note(dir, nil, func() { dir.durableEntries[name] = f })
}

func (d *disk) unlink(dir *file, name string) {
	delete(dir.entries, name)
	d.note(dir, nil, func() { delete(dir.durableEntries, name) })
}

func (d *disk) rename(from *file, name string, to *file, newName string) {
	f := from.entries[name]
	delete(from.entries, name)
	to.entries[newName] = f
	d.note(from, to, func() {
		delete(from.durableEntries, name)
		to.durableEntries[newName] = f
	})
}

// syncDir makes the changes of a directory durable, in order.
func (d *disk) syncDir(dir *file) {
	var left []change
	for _, c := range d.journal {
		if c.dir == dir || c.other == dir {
			c.redo()
		} else {
			left = append(left, c)
		}
	}
	d.journal = left
	d.collect()
}

// collect removes files that can no longer be reached.
func (d *disk) collect() {
	if len(d.journal) > 0 {
		return
	}
	marked := map[*file]bool{}
	var mark func(*file)
	mark = func(f *file) {
		if marked[f] {
			return
		}
		marked[f] = true
		for _, entries := range []map[string]*file{f.entries, f.durableEntries} {
			for _, e := range entries {
				mark(e)
			}
		}
	}
	mark(d.files[rootID])
	for id, f := range d.files {
		if !marked[f] && f.lookups == 0 {
			delete(d.files, id)
		}
	}
}

// used returns the number of pages of all present files.
func (d *disk) used() (pages int64) {
	var walk func(*file)
	walk = func(f *file) {
		pages += int64(len(f.pages))
		for _, e := range f.entries {
			walk(e)
		}
	}
	walk(d.files[rootID])
	return pages
}

// syncFile makes a file's content durable.
func (d *disk) syncFile(f *file) {
	for i := range f.dirty {
		d.keep(f, i, f.pages[i])
	}
	clear(f.dirty)
	f.durableSize = f.size
}

func (d *disk) keep(f *file, i int64, p *page) {
	if p == nil {
		delete(f.durable, i)
	} else {
		f.durable[i] = p
	}
}

// write returns how many bytes were written, which may be fewer if the disk is full.
func (d *disk) write(f *file, data []byte, at int64) (int, syscall.Errno) {
	done := 0
	for done < len(data) {
		i, from := (at+int64(done))/pageSize, (at+int64(done))%pageSize
		n := min(len(data)-done, int(pageSize-from))
		p, errno := d.writable(f, i)
		if errno != 0 {
			if done > 0 {
				break
			}
			return 0, errno
		}
		copy(p[from:], data[done:done+n])
		done += n
	}
	f.size = max(f.size, at+int64(done))
	f.changed = time.Now()
	return done, 0
}

// writable returns a page that may be changed.
func (d *disk) writable(f *file, i int64) (*page, syscall.Errno) {
	p := f.pages[i]
	switch {
	case p == nil:
		if d.capacity > 0 && d.used() >= d.capacity {
			d.counts["no space"]++
			return nil, syscall.ENOSPC
		}
		p = new(page)
	case p == f.durable[i] || !f.dirty[i]:
		clone := *p
		p = &clone
	}
	f.pages[i] = p
	f.dirty[i] = true
	return p, 0
}

func (d *disk) read(f *file, buf []byte, at int64) int {
	pages, size := f.pages, f.size
	if d.off {
		pages, size = f.ghost, f.ghostSize
	}
	n := int(max(0, min(int64(len(buf)), size-at)))
	for done := 0; done < n; {
		i, from := (at+int64(done))/pageSize, (at+int64(done))%pageSize
		step := min(n-done, int(pageSize-from))
		if p := pages[i]; p != nil {
			copy(buf[done:done+step], p[from:])
		} else {
			clear(buf[done : done+step])
		}
		done += step
	}
	return n
}

// resize truncates a file or extends it with a hole.
func (d *disk) resize(f *file, size int64) {
	for i, p := range f.pages {
		if i*pageSize >= size {
			delete(f.pages, i)
			f.dirty[i] = true
		} else if end := size - i*pageSize; end < pageSize {
			clone := *p
			clear(clone[end:])
			f.pages[i], f.dirty[i] = &clone, true
		}
	}
	f.size, f.changed = size, time.Now()
}

// allocate ensures that there is space for a range.
func (d *disk) allocate(f *file, at, length int64, keepSize bool) syscall.Errno {
	for i := at / pageSize; i*pageSize < at+length; i++ {
		if f.pages[i] != nil {
			continue
		}
		if _, errno := d.writable(f, i); errno != 0 {
			return errno
		}
	}
	if !keepSize {
		f.size = max(f.size, at+length)
	}
	return 0
}

// powerLoss drops what is not durable, except what a seed lets survive, and turns the disk off.
func (d *disk) powerLoss(seed uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := rand.New(rand.NewPCG(seed, 0x705e))
	survive := 0
	if len(d.journal) > 0 {
		survive = r.IntN(len(d.journal) + 1)
	}
	d.counts["changes of directories lost"] += int64(len(d.journal) - survive)
	for _, c := range d.journal[:survive] {
		c.redo()
	}
	d.journal = nil
	for _, id := range slices.Sorted(maps.Keys(d.files)) {
		if f := d.files[id]; f.entries != nil {
			f.entries = maps.Clone(f.durableEntries)
		} else {
			d.loseFile(r, f)
		}
	}
	d.collect()
	d.off = true
	d.wake()
}

// loseFile decides, page by page, which writes to a file since its last sync reached the disk.
func (d *disk) loseFile(r *rand.Rand, f *file) {
	f.ghost, f.ghostSize = f.pages, f.size
	size := f.durableSize
	if f.size < size && r.IntN(2) == 0 {
		size = f.size // it was truncated, and that reached the disk
	}
	for _, i := range slices.SortedFunc(maps.Keys(f.dirty), cmp.Compare[int64]) {
		p := f.pages[i]
		switch r.IntN(4) {
		case 0, 1:
			d.counts["pages lost"]++
			continue
		case 2:
			if p == nil {
				continue
			}
			torn := page{}
			if old := f.durable[i]; old != nil {
				torn = *old
			}
			for at := 0; at < pageSize; at += sectorSize {
				if r.IntN(2) == 0 {
					copy(torn[at:at+sectorSize], p[at:at+sectorSize])
				}
			}
			p = &torn
			d.counts["pages torn"]++
		default:
			d.counts["pages that reached the disk"]++
		}
		d.keep(f, i, p)
		if p != nil {
			size = max(size, min(f.size, (i+1)*pageSize))
		}
	}
	clear(f.dirty)
	f.pages = maps.Clone(f.durable)
	f.size, f.durableSize = size, size
}

// wake wakes stalled operations; those that are still stalled wait again. The caller holds mu.
func (d *disk) wake() {
	close(d.resume)
	d.resume = make(chan struct{})
}

// find walks a path from the root.
func (d *disk) find(path string) (*file, error) {
	f := d.files[rootID]
	for _, name := range strings.Split(strings.Trim(path, "/"), "/") {
		if f = f.entries[name]; f == nil {
			return nil, fmt.Errorf("%s: %w", path, syscall.ENOENT)
		}
	}
	return f, nil
}

// flip changes bits on the disk, unnoticed by programs that have the file open.
func (d *disk) flip(path string, at int64, mask byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.find(path)
	if err != nil {
		return err
	}
	i := at / pageSize
	if at < 0 || at >= f.size || f.pages[i] == nil {
		return fmt.Errorf("%s has no byte %d on the disk", path, at)
	}
	p := *f.pages[i]
	p[at%pageSize] ^= mask
	f.pages[i] = &p
	if !f.dirty[i] {
		f.durable[i] = &p
	}
	d.counts["bits flipped"]++
	return nil
}
