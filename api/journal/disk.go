package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/kontiki/kontiki/internal/durable"
)

// suffix ends the names of the journal's files, before which their number stands.
const suffix = ".jsonl"

// disk has the journal's files. It is safe for concurrent use by one writer and many readers.
type disk struct {
	dir     string
	most    int64 // bytes of all files
	oneFile int64 // bytes at which a file is full
	age     time.Duration

	mu    sync.Mutex
	files []segment // oldest first; the last one is written to
	out   *os.File
}

type segment struct {
	number uint64
	bytes  int64
	newest time.Time // of the last write
}

func openDisk(dir string, most int64, age time.Duration) (*disk, error) {
	if err := durable.MakeDir(dir, 0o700); err != nil {
		return nil, err
	}
	d := &disk{dir: dir, most: most, oneFile: min(max(most/16, 4<<10), 4<<20), age: age}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), suffix)
		number, err := strconv.ParseUint(digits, 10, 64)
		if !ok || err != nil || !e.Type().IsRegular() {
			continue // not ours
		}
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		d.files = append(d.files, segment{number, info.Size(), info.ModTime()})
	}
	slices.SortFunc(d.files, func(a, b segment) int { return int(int64(a.number) - int64(b.number)) })
	return d, nil
}

func (d *disk) path(number uint64) string {
	return filepath.Join(d.dir, fmt.Sprintf("%010d%s", number, suffix))
}

// append writes entries at the end, and removes what is too much or too old. What an error leaves of a line is skipped by readers.
func (d *disk) append(entries []Entry, now time.Time) error {
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	for i := range entries {
		if err := encoder.Encode(&entries[i]); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.trim(now)
	if lines.Len() == 0 {
		return nil
	}
	// After a start a new file begins, since the last one may end in the middle of a line.
	if d.out == nil || d.files[len(d.files)-1].bytes >= d.oneFile {
		if err := d.begin(); err != nil {
			return err
		}
	}
	last := &d.files[len(d.files)-1]
	n, err := d.out.Write(lines.Bytes())
	last.bytes += int64(n)
	last.newest = now
	if err != nil {
		err = errors.Join(err, d.out.Close())
		d.out = nil
	}
	return err
}

func (d *disk) begin() error {
	number := uint64(1)
	if len(d.files) > 0 {
		number = d.files[len(d.files)-1].number + 1
	}
	out, err := os.OpenFile(d.path(number), os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if d.out != nil {
		_ = d.out.Close() // all has been written; the files are not synced
	}
	d.out = out
	d.files = append(d.files, segment{number: number})
	return nil
}

// trim removes the oldest files: never the one that is written to.
func (d *disk) trim(now time.Time) {
	total := int64(0)
	for _, f := range d.files {
		total += f.bytes
	}
	for len(d.files) > 1 && (total > d.most-d.oneFile || now.Sub(d.files[0].newest) > d.age) {
		if err := os.Remove(d.path(d.files[0].number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return // it is tried again with the next write
		}
		total -= d.files[0].bytes
		d.files = d.files[1:]
	}
}

func (d *disk) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.out == nil {
		return nil
	}
	err := d.out.Close()
	d.out = nil
	return err
}

// newestFirst calls visit with the lines of all files, from the newest to the oldest, until it returns false.
func (d *disk) newestFirst(visit func(line []byte) bool) error {
	d.mu.Lock()
	files := slices.Clone(d.files)
	d.mu.Unlock()
	for i := len(files) - 1; i >= 0; i-- {
		data, err := os.ReadFile(d.path(files[i].number))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has been trimmed meanwhile, and with it all older ones
		}
		if err != nil {
			return err
		}
		for len(data) > 0 {
			data = bytes.TrimSuffix(data, []byte("\n"))
			start := bytes.LastIndexByte(data, '\n') + 1
			if line := data[start:]; len(line) > 0 && !visit(line) {
				return nil
			}
			data = data[:start]
		}
	}
	return nil
}
