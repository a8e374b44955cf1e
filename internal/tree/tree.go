// Package tree walks and removes directory trees that containers have written to, whatever their depth and size.
//
// A container can nest directories far deeper than the longest path and than the number of files that a process may open. So every
// directory is opened relative to its parent, never by a path from the top, and only the descriptors of the innermost directories
// stay open. To return to a directory whose descriptor was closed, ".." is opened, and its device and inode must be those that were
// seen on the way down. Symbolic links are not followed, and mounts are not entered. Directories are read in chunks.
package tree

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/eintr"
)

var (
	// ErrTooMany means that a tree has more entries than its reader allows.
	ErrTooMany = errors.New("too many files")
	// ErrMoved means that a directory was moved while its tree was read.
	ErrMoved = errors.New("a directory was moved meanwhile")
	// ErrMount means that a directory is a mount point.
	ErrMount = errors.New("something is mounted in it")
)

const (
	// window is the number of directories whose descriptors stay open.
	window = 32
	// chunk is the number of bytes of directory entries that are read at once.
	chunk = 8 << 10
)

// id identifies a directory.
type id struct{ dev, ino uint64 }

// level is a directory on the way from the top to the present one. It is kept small, because there may be very many.
type level struct {
	id   id
	at   int64 // the position after the last entry that was taken
	open *open // nil outside of the window
}

// open is a directory whose descriptor is open.
type open struct {
	fd     int
	buf    []byte
	unread []byte // of buf
}

// entry is an entry of a directory.
type entry struct {
	name string
	kind byte // DT_*
	next int64
	size int // of the record in the buffer
}

// path is the way from the top of a tree to the directory that is being read.
type path struct {
	levels []level
	spare  *open // its buffer is used for the next directory
}

func (p *path) here() *level { return &p.levels[len(p.levels)-1] }

// enter makes the directory fd the present one, and owns fd from then on, also after an error.
func (p *path) enter(fd int) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, err
	}
	o := p.take(fd)
	p.levels = append(p.levels, level{id: id{uint64(st.Dev), st.Ino}, open: o})
	if i := len(p.levels) - 1 - window; i >= 0 {
		p.release(&p.levels[i])
	}
	return &st, nil
}

func (p *path) take(fd int) *open {
	o := p.spare
	p.spare = nil
	if o == nil {
		o = &open{buf: make([]byte, chunk)}
	}
	o.fd, o.unread = fd, nil
	return o
}

func (p *path) release(l *level) {
	if l.open != nil {
		unix.Close(l.open.fd)
		p.spare, l.open = l.open, nil
	}
}

// leave makes the parent of the present directory the present one. It returns false at the top.
func (p *path) leave() (bool, error) {
	if len(p.levels) == 1 {
		return false, nil
	}
	up := &p.levels[len(p.levels)-2]
	if up.open == nil {
		fd, err := openDir(p.here().open.fd, "..")
		if err != nil {
			return false, err
		}
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && (id{uint64(st.Dev), st.Ino}) != up.id {
			err = ErrMoved
		}
		if err == nil && up.at != 0 {
			_, err = unix.Seek(fd, up.at, unix.SEEK_SET)
		}
		if err != nil {
			unix.Close(fd)
			return false, err
		}
		up.open = p.take(fd)
	}
	p.release(p.here())
	p.levels = p.levels[:len(p.levels)-1]
	return true, nil
}

func (p *path) close() {
	for i := max(0, len(p.levels)-1-window); i < len(p.levels); i++ {
		p.release(&p.levels[i])
	}
}

// peek returns the present directory's next entry; false at its end.
func (l *level) peek() (entry, bool, error) {
	for {
		if len(l.open.unread) == 0 {
			n, err := 0, error(nil)
			err = eintr.Retry(func() error { n, err = unix.Getdents(l.open.fd, l.open.buf); return err })
			if errors.Is(err, unix.ENOENT) { // the directory itself was removed
				return entry{}, false, nil
			}
			if err != nil || n == 0 {
				return entry{}, false, err
			}
			l.open.unread = l.open.buf[:n]
		}
		e, err := parse(l.open.unread)
		if err != nil || e.name != "." && e.name != ".." {
			return e, err == nil, err
		}
		l.took(e)
	}
}

// took moves to the entry after e.
func (l *level) took(e entry) {
	l.at = e.next
	l.open.unread = l.open.unread[e.size:]
}

// parse reads the first record of what getdents64 returned.
func parse(b []byte) (entry, error) {
	const name = int(unsafe.Offsetof(unix.Dirent{}.Name))
	if len(b) < name {
		return entry{}, unix.EIO
	}
	size := int(binary.NativeEndian.Uint16(b[unsafe.Offsetof(unix.Dirent{}.Reclen):]))
	if size < name || size > len(b) {
		return entry{}, unix.EIO
	}
	e := entry{kind: b[unsafe.Offsetof(unix.Dirent{}.Type)], next: int64(binary.NativeEndian.Uint64(b[unsafe.Offsetof(unix.Dirent{}.Off):])), size: size}
	text, _, _ := bytes.Cut(b[name:size], []byte{0})
	e.name = string(text)
	return e, nil
}

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NONBLOCK

func openDir(at int, name string) (fd int, err error) {
	err = eintr.Retry(func() error { fd, err = unix.Openat(at, name, dirFlags, 0); return err })
	return fd, err
}

// openBelow opens a subdirectory that is not a mount point.
func openBelow(at int, name string) (fd int, err error) {
	how := unix.OpenHow{Flags: dirFlags, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	for range 32 { // EAGAIN: something was renamed meanwhile
		if fd, err = unix.Openat2(at, name, &how); err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	if err == unix.EXDEV {
		err = ErrMount
	}
	return fd, err
}

// gone says whether a directory of that name does not exist (any more).
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// Walk calls visit for everything in the tree of the directory dir, and for dir itself, and ends with visit's first error. What is
// removed meanwhile is left out. The time and the number of system calls are proportional to the number of entries; after more than
// most of them it fails with ErrTooMany. dir itself is trusted.
func Walk(ctx context.Context, dir string, most int, visit func(*unix.Stat_t) error) error {
	return Each(ctx, dir, most, func(_ int, _ string, st *unix.Stat_t) error { return visit(st) })
}

// Each is Walk, and says where what it visits is: a directory is the open descriptor fd, and name is empty then; anything else is the
// entry name of the directory fd, and may have been replaced meanwhile.
func Each(ctx context.Context, dir string, most int, visit func(fd int, name string, st *unix.Stat_t) error) error {
	fd, err := openDir(unix.AT_FDCWD, dir)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	var p path
	defer p.close()
	enter := func(fd int) error {
		st, err := p.enter(fd)
		if err != nil {
			return err
		}
		return visit(fd, "", st)
	}
	if err := enter(fd); err != nil {
		return err
	}
	for n := 0; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		l := p.here()
		e, ok, err := l.peek()
		if err != nil {
			return p.fail("read", dir, "", err)
		}
		if !ok {
			if ok, err = p.leave(); err != nil {
				return p.fail("read", dir, "..", err)
			}
			if !ok {
				return nil
			}
			continue
		}
		if n++; n > most {
			return ErrTooMany
		}
		l.took(e)
		var st unix.Stat_t
		if e.kind != unix.DT_DIR {
			err := eintr.Retry(func() error { return unix.Fstatat(l.open.fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW) })
			if gone(err) {
				continue
			}
			if err != nil {
				return p.fail("stat", dir, e.name, err)
			}
			if st.Mode&unix.S_IFMT != unix.S_IFDIR {
				if err := visit(l.open.fd, e.name, &st); err != nil {
					return err
				}
				continue
			}
		}
		fd, err := openBelow(l.open.fd, e.name)
		if gone(err) || err == ErrMount {
			continue
		}
		if err != nil {
			return p.fail("open", dir, e.name, err)
		}
		if err := enter(fd); err != nil {
			return err
		}
	}
}

// fail returns an error of bounded length, whatever the depth.
func (p *path) fail(op, top, name string, err error) error {
	return fmt.Errorf("%s %q, %d directories below %s: %w", op, name, len(p.levels)-1, top, err)
}

// RemoveAll removes path and everything below it, like os.RemoveAll. It ends at the first thing that cannot be removed. The
// directory that path is in is trusted.
func RemoveAll(ctx context.Context, name string) error {
	parent, err := os.OpenFile(filepath.Dir(name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	return RemoveIn(ctx, parent, filepath.Base(name))
}

// RemoveIn removes the entry name of a directory and everything below it.
func RemoveIn(ctx context.Context, parent *os.File, name string) error {
	at, top := int(parent.Fd()), filepath.Join(parent.Name(), name)
	for {
		switch full, err := remove(at, entry{name: name}); {
		case err != nil:
			return &os.PathError{Op: "remove", Path: top, Err: err}
		case !full:
			return nil
		}
		fd, err := openDir(at, name)
		if gone(err) {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "open", Path: top, Err: err}
		}
		if err := empty(ctx, fd, top); err != nil {
			return err
		}
	}
}

// empty removes everything in the directory fd, and closes fd.
func empty(ctx context.Context, fd int, top string) error {
	var p path
	defer p.close()
	if _, err := p.enter(fd); err != nil {
		return err
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		l := p.here()
		e, ok, err := l.peek()
		if err != nil {
			return p.fail("read", top, "", err)
		}
		if !ok {
			if ok, err = p.leave(); err != nil {
				return p.fail("remove", top, "..", err)
			}
			if !ok {
				return nil
			}
			// The parent's next entry is the directory that is empty now. If the parent had been closed, its entries are read
			// again.
			continue
		}
		full, err := remove(l.open.fd, e)
		if err != nil {
			return p.fail("remove", top, e.name, err)
		}
		if !full {
			l.took(e)
			l.at = 0 // read again from the beginning, because there the entries before this one are gone
			continue
		}
		fd, err := openBelow(l.open.fd, e.name)
		if gone(err) {
			continue
		}
		if err == nil {
			_, err = p.enter(fd)
		}
		if err != nil {
			return p.fail("remove", top, e.name, err)
		}
	}
}

// remove removes one entry; full says that it is a directory that is not empty. What does not exist counts as removed.
func remove(at int, e entry) (full bool, err error) {
	unlink := func(flags int) error { return eintr.Retry(func() error { return unix.Unlinkat(at, e.name, flags) }) }
	if e.kind != unix.DT_DIR {
		if err = unlink(0); err == nil || err == unix.ENOENT {
			return false, nil
		}
		if err != unix.EISDIR {
			return false, err
		}
	}
	err = unlink(unix.AT_REMOVEDIR)
	if err == unix.ENOTDIR { // it was replaced by a file
		err = unlink(0)
	}
	switch err {
	case nil, unix.ENOENT:
		return false, nil
	case unix.ENOTEMPTY, unix.EEXIST:
		return true, nil
	}
	return false, err
}
