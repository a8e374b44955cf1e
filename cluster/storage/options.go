package storage

import (
	"errors"
	"log/slog"
	"time"
)

var (
	// ErrLocked means that another process has the directory open.
	ErrLocked = errors.New("another process has it open")
	// ErrFull means that the disk had no space.
	ErrFull = errors.New("the disk is full")
)

// Options for opening a directory.
type Options struct {
	// Expect means that the directory must contain a log: if it is missing, that is damage.
	Expect bool
	// Inspect opens the directory read-only: nothing in it changes, and nothing can be stored.
	Inspect bool
	// Keep is the number of snapshots to keep; at least 1.
	Keep int
	// Reserve is the size in bytes of the file that is deleted when the disk is full. Low is the free space in bytes, in addition
	// to the size of the newest snapshot, below which the disk counts as full. 0 means none.
	Reserve, Low int64
	// Stall is the duration of one operation after which the disk counts as stalled.
	Stall time.Duration
	// Changed is called when the result of Health may have changed; it must not block. Failed is called at most once, when the disk
	// has failed permanently: nothing more can be stored or read, and the owner should stop. SnapshotLost is called when a snapshot
	// was found to be damaged while running: a new one should be taken.
	Changed      func()
	Failed       func(error)
	SnapshotLost func()
	Log          *slog.Logger
}

// complete fills in the defaults.
func (o *Options) complete() {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	for _, f := range []*func(){&o.Changed, &o.SnapshotLost} {
		if *f == nil {
			*f = func() {}
		}
	}
	if o.Failed == nil {
		o.Failed = func(error) {}
	}
	o.Keep = max(o.Keep, 1)
}
