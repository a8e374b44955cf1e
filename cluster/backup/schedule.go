package backup

import (
	"context"
	"errors"
	"fmt"
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
}

const (
	namePrefix = "kontiki-"
	nameSuffix = ".backup"
	// retryAfter is the pause after a backup that failed.
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

// files returns the names of a schedule's backups, oldest first. Those with a time in the future, written before the clock was set
// back, count as older than all others.
func files(dir string, now time.Time) []string {
	var names, future []string
	entries, _ := os.ReadDir(dir) // if it cannot be read there are none yet; writing will report the error
	for _, e := range entries {
		switch at, ok := timeOf(e.Name()); {
		case !ok:
		case at.After(now):
			future = append(future, e.Name())
		default:
			names = append(names, e.Name())
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
