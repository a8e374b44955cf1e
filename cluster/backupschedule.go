package cluster

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

// BackupSchedule says where a master keeps the backups that it takes by itself, each a whole one of the cluster's state.
type BackupSchedule struct {
	// Dir is made with mode 0700. Interval is from one backup to the next; 0 is never. Keep is how many stay; at least 1.
	Dir      string
	Interval time.Duration
	Keep     int
}

const (
	backupPrefix = "kontiki-"
	backupSuffix = ".backup"
	// backupRetry is the pause after a backup that failed.
	backupRetry = time.Minute
)

// scheduleBackups takes backups as long as this master runs. The time of the next one follows from the newest file, so that
// restarts neither skip nor repeat one.
func (c *Cluster) scheduleBackups(ctx context.Context) error {
	schedule := c.cfg.Backups
	if schedule.Interval <= 0 {
		return nil
	}
	select {
	case <-c.ready:
	case <-ctx.Done():
		return nil
	}
	for {
		var wait time.Duration
		if newest, ok := newestBackup(schedule.Dir, time.Now()); ok {
			wait = time.Until(newest.Add(schedule.Interval))
		}
		if !pause.For(ctx, wait) {
			return nil
		}
		path, err := c.backUp(ctx, schedule, time.Now())
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			c.log.Info("took a backup", "file", path)
			continue
		}
		c.log.Error("a scheduled backup failed", "error", err)
		if !pause.For(ctx, min(backupRetry, schedule.Interval)) {
			return nil
		}
	}
}

// backUp writes one backup, checks it by reading it again, and removes those that are too many.
func (c *Cluster) backUp(ctx context.Context, schedule BackupSchedule, now time.Time) (string, error) {
	if err := os.MkdirAll(schedule.Dir, 0o700); err != nil {
		return "", err
	}
	path := filepath.Join(schedule.Dir, backupPrefix+now.UTC().Format("20060102T150405Z")+backupSuffix)
	if err := c.BackUpTo(ctx, path); err != nil {
		return "", err
	}
	files := backupFiles(schedule.Dir, now)
	for _, old := range files[:max(0, len(files)-max(schedule.Keep, 1))] {
		if err := os.Remove(filepath.Join(schedule.Dir, old)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	return path, nil
}

// BackUpTo writes a backup to a file that is there whole, checked and synced, or not at all.
func (c *Cluster) BackUpTo(ctx context.Context, path string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".backup-*.tmp")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("back up to %s: %w", path, err), file.Close(), os.Remove(file.Name()))
		}
	}()
	if _, err := c.SaveBackup(ctx, file); err != nil {
		return err
	}
	if _, err := file.Seek(0, 0); err != nil {
		return err
	}
	if _, err := ReadBackup(file, nil); err != nil {
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

// backupFiles are the names of the backups that a schedule made, oldest first. Those from the future, made before the clock was set back,
// are older than all others.
func backupFiles(dir string, now time.Time) []string {
	var names, future []string
	entries, _ := os.ReadDir(dir) // none is there yet if it cannot be read; writing will say why
	for _, e := range entries {
		switch at, ok := backupTime(e.Name()); {
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

func backupTime(name string) (time.Time, bool) {
	stamp, ok := strings.CutPrefix(name, backupPrefix)
	if !ok {
		return time.Time{}, false
	}
	if stamp, ok = strings.CutSuffix(stamp, backupSuffix); !ok {
		return time.Time{}, false
	}
	at, err := time.Parse("20060102T150405Z", stamp)
	return at, err == nil
}

// newestBackup is when the newest backup was made that is not from the future.
func newestBackup(dir string, now time.Time) (time.Time, bool) {
	files := backupFiles(dir, now)
	if len(files) == 0 {
		return time.Time{}, false
	}
	at, ok := backupTime(files[len(files)-1])
	return at, ok && !at.After(now)
}
