// Package beneath opens files in directories that others may write to: a pod's volume, an image's file system, a log directory. The
// kernel resolves each path below its directory (openat2), so that no link leads out of it, not even one that is created while the
// path is walked. The file type is checked before the file is opened (O_PATH), so that a FIFO, a device or a socket at that path
// can neither block the caller nor have side effects.
package beneath

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/eintr"
)

// Links says how symbolic links are treated.
type Links uint64

const (
	// Refuse fails at any symbolic link.
	Refuse Links = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS
	// Follow follows relative links that stay below the directory and fails at others.
	Follow Links = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
	// AsRoot follows links like a process whose root is the directory.
	AsRoot Links = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
)

var (
	// ErrNotRegular means that a path does not name a regular file.
	ErrNotRegular = errors.New("not a regular file")
	// ErrTooLarge means that a file is larger than its reader allows.
	ErrTooLarge = errors.New("file is too large")
)

// Handle returns a handle of the file at path below dir, without opening the file itself (O_PATH): the handle can be examined,
// bind-mounted through Path, and opened by Reopen. dir itself is trusted.
func Handle(dir, path string, links Links) (*os.File, error) {
	var d int
	err := eintr.Retry(func() (err error) {
		d, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(d)
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: uint64(links)}
	for range 32 { // EAGAIN: something was renamed while ".." was resolved
		var fd int
		if fd, err = unix.Openat2(d, path, &how); err == nil {
			return os.NewFile(uintptr(fd), path), nil
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			break
		}
	}
	return nil, &os.PathError{Op: "open", Path: path, Err: err}
}

// Path returns a path to the file of a handle, whatever is at the original path by now.
func Path(handle *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(handle.Fd())) }

// Regular opens a regular file for reading. Errors: ErrNotRegular.
func Regular(dir, path string, links Links) (*os.File, error) {
	h, err := Handle(dir, path, links)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	st, err := h.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, &os.PathError{Op: "open", Path: path, Err: ErrNotRegular}
	}
	var fd int
	err = eintr.Retry(func() (err error) {
		fd, err = unix.Open(Path(h), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// ReadFile reads a regular file of at most limit bytes. Errors: ErrNotRegular, ErrTooLarge.
func ReadFile(dir, path string, links Links, limit int64) ([]byte, error) {
	f, err := Regular(dir, path, links)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s: %w (over %d bytes)", path, ErrTooLarge, limit)
	}
	return b, nil
}

// ReadTail reads the last limit bytes of a regular file, or all of a shorter one.
func ReadTail(dir, path string, links Links, limit int64) ([]byte, error) {
	f, err := Regular(dir, path, links)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	from := st.Size() - limit
	return io.ReadAll(io.NewSectionReader(f, max(from, 0), limit))
}
