package storage

import (
	"errors"
	"sync"
	"time"
)

const (
	// roomPoll is how often whoever waits for room looks for it.
	roomPoll = 100 * time.Millisecond
	// Without a sign of room a commit is tried again after a pause that doubles from roomPause to maxRoomPause.
	roomPause    = time.Second
	maxRoomPause = 30 * time.Second
)

// room keeps commits off a disk that is full. A commit that finds no room is expensive, since bbolt looks through its whole file for
// pages that are free then, and both raft and a waiting vote would try again ten times a second. So after one that failed the
// next is tried when there is more space than there was, when pages in the file became free, or after a while: quotas do not show.
type room struct {
	free func() (bytes int64, ok bool) // on the disk
	now  func() time.Time

	mu    sync.Mutex
	none  bool // the last commit found no room
	had   int64
	next  time.Time
	pause time.Duration
}

func newRoom(free func() (int64, bool)) *room { return &room{free: free, now: time.Now} }

// try runs what commits, unless it would find no room. Errors: ErrFull.
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

// made says that pages in the file became free.
func (r *room) made() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.none = false
}
