package storage

import (
	"errors"
	"log/slog"
	"time"
)

var (
	// ErrLocked says that another process has the directory open.
	ErrLocked = errors.New("another process has it open")
	// ErrFull says that the disk had no room.
	ErrFull = errors.New("the disk is full")
)

// Options say how a directory is opened.
type Options struct {
	// Expect says that the directory must hold a log: that it is missing is damage.
	Expect bool
	// Inspect says that the directory is only looked at: nothing in it changes, and nothing can be stored.
	Inspect bool
	// Keep is how many snapshots are kept; at least 1.
	Keep int
	// Reserve is the size in bytes of the file that is given up when the disk is full; Low is the free space in bytes, beside the
	// size of the newest snapshot, below which the disk counts as full. 0 means none.
	Reserve, Low int64
	// Stall is how long one operation may take before the disk counts as stalled.
	Stall time.Duration
	// Changed is called when what Health returns may have changed; it must not block. Failed is called, at most once, when
	// the disk has failed for good: nothing more can be stored or read, and the owner is to stop. SnapshotLost is called when
	// a snapshot turned out to be damaged while running: a new one should be taken.
	Changed      func()
	Failed       func(error)
	SnapshotLost func()
	Log          *slog.Logger
}

// complete fills in what is missing.
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
