package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Rotation says when a log file is rotated, and how long rotated files are kept. Zero means never and forever, respectively.
type Rotation struct {
	// MaxSize is in bytes.
	MaxSize    int64
	MaxAge     time.Duration
	MaxBackups int
}

// backupTime is the time of rotation in a file's name: audit.log becomes audit-2006-01-02T15-04-05.000.log (in UTC), as upstream
// names its files.
const backupTime = "2006-01-02T15-04-05.000"

// file is a log file that is appended to, and rotated when it has grown. What a failed write left is truncated, so that the file
// has only whole lines. Only one goroutine may use it at a time.
type file struct {
	path string
	Rotation
	now func() time.Time
	// report is called with errors that lost no event.
	report func(error)
	open   *os.File
	size   int64
}

// openFile opens a log file for appending; it creates it with mode 0600 if it does not exist.
func openFile(path string, rotation Rotation, now func() time.Time, report func(error)) (*file, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f := &file{path: path, Rotation: rotation, now: now, report: report}
	if err := f.reopen(); err != nil {
		return nil, err
	}
	if err := f.prune(); err != nil {
		report(err) // as after a rotation: too many old files lose no event, and must not prevent a master's start
	}
	return f, nil
}

func (f *file) reopen() error {
	opened, err := os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := opened.Stat()
	if err != nil {
		return errors.Join(err, opened.Close())
	}
	f.open, f.size = opened, info.Size()
	return nil
}

// Write appends all of b, or nothing.
func (f *file) Write(b []byte) (int, error) {
	if f.open == nil {
		if err := f.reopen(); err != nil {
			return 0, err
		}
	}
	if f.MaxSize > 0 && f.size > 0 && f.size+int64(len(b)) > f.MaxSize {
		// If the file cannot be rotated, it is appended to: a log that is too large is better than none.
		if err := f.rotate(); f.open == nil {
			return 0, err
		} else if err != nil {
			f.report(err)
		}
	}
	n, err := f.open.Write(b)
	if err != nil {
		return 0, errors.Join(err, f.takeBack(n))
	}
	f.size += int64(n)
	return n, nil
}

// takeBack truncates the part of an incomplete write.
func (f *file) takeBack(n int) error {
	var err error
	if info, statErr := f.open.Stat(); statErr != nil {
		err = statErr
	} else if n > 0 {
		err = f.open.Truncate(info.Size() - int64(n)) // what was appended is at the end, even if others have truncated the file
	}
	if err != nil {
		// Continue with the file that is at the path then.
		err = errors.Join(err, f.open.Close())
		f.open = nil
	}
	return err
}

func (f *file) parts() (dir, prefix, extension string) {
	dir, base := filepath.Split(f.path)
	extension = filepath.Ext(base)
	return dir, strings.TrimSuffix(base, extension) + "-", extension
}

func (f *file) rotate() error {
	dir, prefix, extension := f.parts()
	at, backup := f.now().UTC(), ""
	for {
		backup = filepath.Join(dir, prefix+at.Format(backupTime)+extension)
		if _, err := os.Lstat(backup); errors.Is(err, fs.ErrNotExist) {
			break
		}
		at = at.Add(time.Millisecond)
	}
	if err := os.Rename(f.path, backup); err != nil {
		return fmt.Errorf("rotate the log: %w", err)
	}
	old := f.open
	f.open = nil
	return errors.Join(old.Close(), f.reopen(), f.prune())
}

// prune removes rotated files that are too old or too many.
func (f *file) prune() error {
	dir, prefix, extension := f.parts()
	entries, err := os.ReadDir(cmp.Or(dir, "."))
	if err != nil {
		return err
	}
	type backup struct {
		name string
		at   time.Time
	}
	var backups []backup
	for _, entry := range entries {
		name, isBackup := strings.CutPrefix(entry.Name(), prefix)
		if !isBackup {
			continue
		}
		name, isBackup = strings.CutSuffix(name, extension)
		if !isBackup {
			continue
		}
		if at, err := time.Parse(backupTime, name); err == nil {
			backups = append(backups, backup{entry.Name(), at})
		}
	}
	slices.SortFunc(backups, func(a, b backup) int { return b.at.Compare(a.at) })
	var failed []error
	for i, b := range backups {
		if (f.MaxBackups > 0 && i >= f.MaxBackups) || (f.MaxAge > 0 && f.now().Sub(b.at) > f.MaxAge) {
			failed = append(failed, os.Remove(filepath.Join(dir, b.name)))
		}
	}
	return errors.Join(failed...)
}

// Close implements io.Closer.
func (f *file) Close() error {
	if f.open == nil {
		return nil
	}
	open := f.open
	f.open = nil
	return open.Close()
}
