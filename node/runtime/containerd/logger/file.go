package logger

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"time"
)

// Stream is one of a container's outputs.
type Stream uint8

const (
	// Attached is the stream of the first frame that a client gets, which is empty: it gets everything that comes from then on.
	// Loggers of earlier versions, which live as long as their containers, do not send it.
	Attached Stream = 0
	Stdout   Stream = 1
	Stderr   Stream = 2
)

func (s Stream) String() string {
	if s == Stderr {
		return "stderr"
	}
	return "stdout"
}

// MaxLine is how long a line may get before it is written in parts, as other runtimes have it.
const MaxLine = 16 << 10

// TimeFormat is RFC 3339 with all nine digits, so that lines sort and cut at fixed places.
const TimeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// file is a log that rotates by size. When the disk refuses a write the line is lost and the container goes on.
type file struct {
	mu       sync.Mutex
	path     string
	f        *os.File
	size     int64
	maxBytes int64
	maxFiles int
}

func openFile(path string, maxBytes int64, maxFiles int) (*file, error) {
	w := &file{path: path, maxBytes: maxBytes, maxFiles: maxFiles}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return w, w.open()
}

func (w *file) open() error {
	f, err := os.OpenFile(w.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	st, err := f.Stat()
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
	return w.f.Close()
}

// append writes whole lines, and rotates between them so that no file outgrows its size (but by one line longer than it).
func (w *file) append(b []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(b) > 0 {
		part := b
		if room := w.maxBytes - w.size; int64(len(b)) > room {
			end := bytes.LastIndexByte(b[:max(0, room)], '\n') + 1
			if end == 0 && w.size > 0 {
				w.rotate()
				if w.size > 0 { // it could not
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

// rotate sets the current file aside and begins a new one. On failure it goes on with the current one.
func (w *file) rotate() {
	aside := w.path + "." + time.Now().UTC().Format("20060102-150405.000000000")
	if err := os.Rename(w.path, aside); err != nil {
		return
	}
	old := w.f
	if err := w.open(); err != nil {
		_ = os.Rename(aside, w.path)
		return
	}
	old.Close()
	rotated, _ := filepath.Glob(w.path + ".*")
	sort.Strings(rotated)
	for len(rotated) > w.maxFiles-1 {
		os.Remove(rotated[0])
		rotated = rotated[1:]
	}
}

// lineWriter cuts one stream into lines.
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

// flush writes a last line that had no end.
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
