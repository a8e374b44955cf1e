package logger

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"syscall"
	"time"
)

// Stream is one of a container's outputs.
type Stream uint8

const (
	// Attached is the stream of the first frame that a client gets: the client gets everything after that. Loggers of earlier
	// versions, which live as long as their containers, do not send it, or send it empty; the content "end" means that an Ended
	// frame will come.
	Attached Stream = 0
	Stdout   Stream = 1
	Stderr   Stream = 2
	// Ended is the stream of the last frame, which is empty: the client has received everything.
	Ended Stream = 3
)

func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// MaxLine is the length in bytes after which a line is written in parts, as by other runtimes.
const MaxLine = 16 << 10

// TimeFormat is RFC 3339 with all nine digits, so that lines can be sorted and cut at fixed columns.
const TimeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// file is a log that is rotated by size. If the disk refuses a write, the line is lost and the container continues.
type file struct {
	mu sync.Mutex
	// root is the directory of all pods' logs, and path the log below it: links created by a pod cannot lead out of it.
	root     *os.Root
	path     string
	f        *os.File
	size     int64
	maxBytes int64
	maxFiles int
}

// openFile opens the log at .../POD/CONTAINER/N.log.
func openFile(path string, maxBytes int64, maxFiles int) (*file, error) {
	base := filepath.Dir(filepath.Dir(filepath.Dir(path)))
	if err := os.MkdirAll(base, 0o755); err != nil {
		return nil, err
	}
	rel, err := filepath.Rel(base, path)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(base)
	if err != nil {
		return nil, err
	}
	w := &file{root: root, path: rel, maxBytes: maxBytes, maxFiles: maxFiles}
	if err = root.MkdirAll(filepath.Dir(rel), 0o755); err == nil {
		err = w.open()
	}
	if err != nil {
		root.Close()
		return nil, err
	}
	return w, nil
}

func (w *file) open() error {
	// If a FIFO is at the path, this fails instead of blocking.
	f, err := w.root.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", w.path)
	}
	if err != nil {
		f.Close()
		return err
	}
	w.f, w.size = f, st.Size()
	return nil
}

func (w *file) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.f.Close(), w.root.Close())
}

// append writes whole lines, and rotates between them so that a file exceeds its size only if a single line does.
func (w *file) append(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(b) > 0 {
		part := b
		if room := w.maxBytes - w.size; int64(len(b)) > room {
			end := bytes.LastIndexByte(b[:max(0, room)], '\n') + 1
			if end == 0 && w.size > 0 {
				w.rotate()
				if w.size > 0 { // rotation failed
					w.size = 0
				}
				continue
			}
			if end == 0 {
				end = bytes.IndexByte(b, '\n') + 1
			}
			part = b[:end]
		}
		n, _ := w.f.Write(part)
		w.size += int64(n)
		b = b[len(part):]
	}
}

// rotate renames the current file and begins a new one. After a failure it continues with the current one.
func (w *file) rotate() {
	aside := w.path + "." + time.Now().UTC().Format("20060102-150405.000000000")
	if err := w.root.Rename(w.path, aside); err != nil {
		return
	}
	old := w.f
	if err := w.open(); err != nil {
		_ = w.root.Rename(aside, w.path)
		return
	}
	old.Close()
	rotated, _ := fs.Glob(w.root.FS(), w.path+".*")
	sort.Strings(rotated)
	for len(rotated) > w.maxFiles-1 {
		_ = w.root.Remove(rotated[0])
		rotated = rotated[1:]
	}
}

// lineWriter splits one stream into lines.
type lineWriter struct {
	file    *file
	stream  Stream
	pending []byte
	at      time.Time
}

func (l *lineWriter) write(now time.Time, b []byte) {
	var out []byte
	for len(b) > 0 {
		if len(l.pending) == 0 {
			l.at = now
		}
		i := bytes.IndexByte(b, '\n')
		room := MaxLine - len(l.pending)
		if i >= 0 && i <= room {
			out = appendLine(out, l.at, l.stream, 'F', l.pending, b[:i])
			l.pending, b = l.pending[:0], b[i+1:]
			continue
		}
		n := min(len(b), room)
		l.pending = append(l.pending, b[:n]...)
		b = b[n:]
		if len(l.pending) == MaxLine {
			out = appendLine(out, l.at, l.stream, 'P', l.pending, nil)
			l.pending = l.pending[:0]
		}
	}
	if len(out) > 0 {
		l.file.append(out)
	}
}

// flush writes a last line without a newline.
func (l *lineWriter) flush() {
	if len(l.pending) > 0 {
		l.file.append(appendLine(nil, l.at, l.stream, 'P', l.pending, nil))
		l.pending = nil
	}
}

func appendLine(out []byte, at time.Time, s Stream, tag byte, parts ...[]byte) []byte {
	out = at.UTC().AppendFormat(out, TimeFormat)
	out = fmt.Appendf(out, " %s %c ", s, tag)
	for _, p := range parts {
		out = append(out, p...)
	}
	return append(out, '\n')
}
