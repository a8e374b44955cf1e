package storage

import (
	"errors"
	"sync"
	"time"
)

const (
	// roomPoll is the interval at which operations that wait for space check for it.
	roomPoll = 100 * time.Millisecond
	// Without a sign of free space a commit is tried again after a pause that doubles from roomPause to maxRoomPause.
	roomPause    = time.Second
	maxRoomPause = 30 * time.Second
)

// room prevents useless commits on a full disk. A commit that finds no space is expensive, since bbolt then searches its whole file
// for free pages, and both raft and a waiting vote would retry it ten times a second. So after a failed commit the next one is
// tried when there is more free space than before, when pages in the file became free, or after a while, because the space under a
// quota is not visible.
type room struct {
	free func() (bytes int64, ok bool) // free bytes of the disk
	now  func() time.Time

	mu    sync.Mutex
	none  bool // the last commit found no space
	had   int64
	next  time.Time
	pause time.Duration
}

func newRoom(free func() (int64, bool)) *room { return &room{free: free, now: time.Now} }

// try runs a function that commits, unless it would find no space. Errors: ErrFull.
func (r *room) try(commit func() error) error {
	if !r.likely() {
		return ErrFull
	}
	err := commit()
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil:
		r.none, r.pause = false, 0
	case errors.Is(err, ErrFull):
		r.none = true
		r.had, _ = r.free()
		r.pause = min(max(2*r.pause, roomPause), maxRoomPause)
		r.next = r.now().Add(r.pause)
	}
	return err
}

func (r *room) likely() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.none || !r.now().Before(r.next) {
		return true
	}
	free, ok := r.free()
	return !ok || free > r.had
}

// made notes that pages in the file became free.
func (r *room) made() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.none = false
}
