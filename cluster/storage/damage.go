package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/kontiki/kontiki/internal/durable"
)

// ErrDamaged is the class of all damage that Open finds on the disk. The error is a *Damage.
var ErrDamaged = errors.New("damaged")

// Damage says what is damaged, and where.
type Damage struct {
	// File is the path of the damaged file.
	File string
	// Offset is the offset in bytes at which the damage was found, or -1 if there is none.
	Offset int64
	// Index is the raft index of the damaged entry or snapshot, or 0 if it is unknown.
	Index  uint64
	Reason error
}

func (d *Damage) Error() string {
	at := ""
	if d.Offset >= 0 {
		at = fmt.Sprintf(" at byte %d", d.Offset)
	}
	if d.Index != 0 {
		at += fmt.Sprintf(" (raft index %d)", d.Index)
	}
	return fmt.Sprintf("%s is damaged%s: %v", d.File, at, d.Reason)
}

// Unwrap returns the class and the reason.
func (d *Damage) Unwrap() []error { return []error{ErrDamaged, d.Reason} }

// SetAside renames a master's raft directory to NAME.damaged-TIME beside it, and returns the new name. Nothing is deleted. If the
// directory does not exist, it returns "" without an error.
func SetAside(dir string, now time.Time) (string, error) {
	to := dir + ".damaged-" + now.UTC().Format("20060102T150405.000Z")
	err := durable.Rename(dir, to)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("set the damaged files aside: %w", err)
	}
	return to, nil
}

// setSnapshotAside moves one damaged snapshot to a directory that raft does not read.
func setSnapshotAside(dir, id string) (string, error) {
	to := filepath.Join(dir, damagedSnapshots, id)
	if err := durable.MakeDir(filepath.Dir(to), 0o700); err != nil {
		return "", fmt.Errorf("set a damaged snapshot aside: %w", err)
	}
	for base, n := to, 2; ; n++ { // a snapshot of that name may have been set aside before
		if _, err := os.Lstat(to); errors.Is(err, os.ErrNotExist) {
			break
		}
		to = fmt.Sprintf("%s-%d", base, n)
	}
	if err := durable.Rename(filepath.Join(dir, snapshotsDir, id), to); err != nil {
		return "", fmt.Errorf("set a damaged snapshot aside: %w", err)
	}
	return to, nil
}
