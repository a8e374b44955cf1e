package tree

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"
)

// Usage is what a tree occupies on disk.
type Usage struct{ Bytes, Inodes int64 }

// Limits bound the measuring of a tree.
type Limits struct {
	// Entries is the number of entries to look at, and Linked that of files with several hard links, which are remembered so that
	// each counts once. Above either of them the measure fails with ErrTooMany.
	Entries, Linked int
	// Enough ends the measure at the first sum of bytes above it, without an error; 0 means never.
	Enough int64
}

// errEnough ends a walk whose sum has exceeded Enough.
var errEnough = errors.New("enough")

// Measure returns what the tree of a directory occupies on disk, without what is mounted in it.
func Measure(ctx context.Context, dir string, l Limits) (Usage, error) {
	var u Usage
	linked := map[uint64]struct{}{}
	err := Walk(ctx, dir, l.Entries, func(st *unix.Stat_t) error {
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if _, ok := linked[st.Ino]; ok {
				return nil
			}
			if len(linked) >= l.Linked {
				return ErrTooMany
			}
			linked[st.Ino] = struct{}{}
		}
		u.Inodes++
		u.Bytes += st.Blocks * 512
		if l.Enough > 0 && u.Bytes > l.Enough {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return u, err
}
