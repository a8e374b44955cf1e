package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/pause"
)

// Schedule says where and how often a master takes backups by itself, each of the cluster's whole state.
type Schedule struct {
	// Dir is created with mode 0700. Interval is the time between two backups; 0 means never. Keep is how many are kept; at least
	// 1.
	Dir      string
	Interval time.Duration
	Keep     int
	// Remote is where the leader stores its backups too; nil for nowhere. As many are kept there.
	Remote Remote
}

// Remote is a place for copies of backups, such as a bucket (package s3).
type Remote interface {
	// Put stores size bytes under a name: all of them, or it returns an error and the name has what it had.
	Put(ctx context.Context, name string, from io.Reader, size int64) error
	// List returns all names, and Remove removes one.
	List(ctx context.Context) ([]string, error)
	Remove(ctx context.Context, name string) error
	String() string
}

const (
	namePrefix = "kontiki-"
	nameSuffix = ".backup"
	// retryAfter is the pause after a backup or a copy that failed.
	retryAfter = time.Minute
)

// RunSchedule takes backups as long as this master runs. The time of the next one is computed from the newest file, so that
// restarts neither skip nor repeat one.
func (b *Backups) RunSchedule(ctx context.Context, ready <-chan struct{}) error {
	schedule := b.o.Schedule
	if schedule.Interval <= 0 {
		return nil
	}
	select {
	case <-ready:
	case <-ctx.Done():
		return nil
	}
	for {
		var wait time.Duration
		if at, ok := newest(schedule.Dir, time.Now()); ok {
			wait = time.Until(at.Add(schedule.Interval))
		}
		if !pause.For(ctx, wait) {
			return nil
		}
		path, err := b.backUp(ctx, schedule, time.Now())
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			b.log.Info("took a backup", "file", path)
			if schedule.Remote != nil && b.o.Leading() {
				b.copyOut(ctx, schedule, path, time.Now().Add(schedule.Interval))
			}
			continue
		}
		b.log.Error("a scheduled backup failed", "error", err)
		if !pause.For(ctx, min(retryAfter, schedule.Interval)) {
			return nil
		}
	}
}

// backUp writes one backup, verifies it by reading it again, and removes surplus ones.
func (b *Backups) backUp(ctx context.Context, schedule Schedule, now time.Time) (string, error) {
	if err := os.MkdirAll(schedule.Dir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(schedule.Dir, namePrefix+now.UTC().Format("20060102T150405Z")+nameSuffix)
	if err := b.SaveTo(ctx, path); err != nil {
		return "", err
	}
	kept := files(schedule.Dir, now)
	for _, old := range kept[:max(0, len(kept)-max(schedule.Keep, 1))] {
		if err := os.Remove(filepath.Join(schedule.Dir, old)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return path, nil
}

// copyOut copies a backup to the remote place. It tries again until the next backup is due.
func (b *Backups) copyOut(ctx context.Context, schedule Schedule, path string, until time.Time) {
	for {
		err := b.copyTo(ctx, schedule, path, until)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			b.log.Info("copied a backup", "file", path, "to", schedule.Remote.String())
			return
		}
		b.log.Error("a backup could not be copied", "file", path, "to", schedule.Remote.String(), "error", err)
		if wait := min(retryAfter, schedule.Interval); time.Now().Add(wait).After(until) || !pause.For(ctx, wait) {
			return
		}
	}
}

// copyTo copies a backup to the remote place, and removes surplus ones there. A place that is slow does not hold up the next backup, which is due then.
func (b *Backups) copyTo(ctx context.Context, schedule Schedule, path string, until time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, until)
	defer cancel()
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if err := schedule.Remote.Put(ctx, filepath.Base(path), file, info.Size()); err != nil {
		return err
	}
	names, err := schedule.Remote.List(ctx)
	if err != nil {
		return err
	}
	kept := inOrder(names, time.Now())
	for _, old := range kept[:max(0, len(kept)-max(schedule.Keep, 1))] {
		if err := schedule.Remote.Remove(ctx, old); err != nil {
			return err
		}
	}
	return nil
}

// SaveTo writes a backup to a file, which afterwards is complete, checked and synced, or does not exist.
func (b *Backups) SaveTo(ctx context.Context, path string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".backup-*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("back up to %s: %w", path, err), file.Close(), os.Remove(file.Name()))
		}
	}()
	if _, err := b.Save(ctx, file); err != nil {
		return err
	}
	if _, err := file.Seek(0, 0); err != nil {
		return err
	}
	if _, err := Read(file, nil); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return errors.Join(file.Close(), durable.SyncDir(filepath.Dir(path)))
}

// files returns the names of the backups in a directory, as inOrder.
func files(dir string, now time.Time) []string {
	entries, _ := os.ReadDir(dir) // if it cannot be read there are none yet; writing will report the error
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return inOrder(names, now)
}

// inOrder returns those names that are of a schedule's backups, oldest first. Those with a time in the future, written before the clock was set
// back, count as older than all others.
func inOrder(all []string, now time.Time) []string {
	var names, future []string
	for _, name := range all {
		switch at, ok := timeOf(name); {
		case !ok:
		case at.After(now):
			future = append(future, name)
		default:
			names = append(names, name)
		}
	}
	slices.Sort(future)
	slices.Sort(names)
	return append(future, names...)
}

func timeOf(name string) (time.Time, bool) {
	stamp, ok := strings.CutPrefix(name, namePrefix)
	if !ok {
		return time.Time{}, false
	}
	if stamp, ok = strings.CutSuffix(stamp, nameSuffix); !ok {
		return time.Time{}, false
	}
	at, err := time.Parse("20060102T150405Z", stamp)
	return at, err == nil
}

// newest returns the time of the newest backup that is not in the future.
func newest(dir string, now time.Time) (time.Time, bool) {
	all := files(dir, now)
	if len(all) == 0 {
		return time.Time{}, false
	}
	at, ok := timeOf(all[len(all)-1])
	return at, ok && !at.After(now)
}
