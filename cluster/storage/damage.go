package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/kontiki/kontiki/internal/durable"
)

// ErrDamaged is the class of all that Open finds wrong with what is on disk. The error is a *Damage.
var ErrDamaged = errors.New("damaged")

// Damage names what is wrong, and where.
type Damage struct {
	// File is the path of the file at fault.
	File string
	// Offset is the byte at which the fault was met, -1 where there is no such place.
	Offset int64
	// Index is the raft index of the entry or snapshot at fault, 0 where it is not known.
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

// SetAside renames a master's raft directory to NAME.damaged-TIME beside it, and returns the new name. Nothing is deleted.
// A directory that is not there is no error: the name is empty then.
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

// setSnapshotAside moves one damaged snapshot out of raft's sight.
func setSnapshotAside(dir, id string) (string, error) {
	to := filepath.Join(dir, damagedSnapshots, id)
	if err := durable.MakeDir(filepath.Dir(to), 0o700); err != nil {
		return "", fmt.Errorf("set a damaged snapshot aside: %w", err)
	}
	for base, n := to, 2; ; n++ { // one of that name may have been set aside before
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
