package storage

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/eintr"
)

const (
	reserveFile = "reserve"
	spacePoll   = time.Second
)

// Health is the present state of a disk.
type Health struct {
	// Full means that nothing more can be stored: Free is too low, or the reserve had to be given up.
	Full bool
	// Stalled means that an operation has been running for longer than Options.Stall.
	Stalled bool
	// Dir is the directory on the disk. Free and Total are the disk's free and total bytes; Needed is the number of free bytes
	// below which the disk counts as full, or, while it is full, from which it no longer does.
	Dir                 string
	Free, Total, Needed int64
	// Slowest is the duration of the slowest operation of the last one to two minutes.
	Slowest time.Duration
	// Stalls counts operations that took longer than Options.Stall, Fulls how often the disk became full, both since Open.
	Stalls, Fulls uint64
}

// health monitors free space and stalls.
type health struct {
	dir      string
	reserve  int64
	low      int64
	stall    time.Duration
	changed  func()
	snapshot func() int64

	room     sync.Mutex // held while the reserve changes; locked before mu
	mu       sync.Mutex
	state    Health
	given    bool // the reserve has been given up
	stalled  int  // number of operations that have been running for too long
	stalls   atomic.Uint64
	slowest  recentMax
	done     chan struct{}
	finished chan struct{}
	once     sync.Once
}

func newHealth(dir string, o Options, newestSnapshot func() int64) *health {
	return &health{
		dir: dir, reserve: o.Reserve, low: o.Low, stall: o.Stall, changed: o.Changed, snapshot: newestSnapshot,
		done: make(chan struct{}), finished: make(chan struct{}),
	}
}

// start allocates the reserve and starts monitoring.
func (h *health) start() {
	info, err := os.Stat(filepath.Join(h.dir, reserveFile))
	h.given = h.reserve > 0 && (err != nil || info.Size() < h.reserve)
	h.look()
	go func() {
		defer close(h.finished)
		ticker := time.NewTicker(spacePoll)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				h.look()
			case <-h.done:
				return
			}
		}
	}()
}

// close stops monitoring. It does not wait for a check that a stalled disk blocks.
func (h *health) close() {
	h.once.Do(func() { close(h.done) })
	timer := time.NewTimer(spacePoll)
	defer timer.Stop()
	select {
	case <-h.finished:
	case <-timer.C:
	}
}

// Health returns the present state of the disk.
func (h *health) Health() Health {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.state
	s.Stalled, s.Stalls, s.Slowest = h.stalled > 0, h.stalls.Load(), h.slowest.get(time.Now())
	return s
}

// recentMax is the largest duration of the present minute and the one before. Its user must hold a lock.
type recentMax struct {
	minute        int64
	now, previous time.Duration
}

func (r *recentMax) turn(at time.Time) {
	minute := at.Unix() / 60
	switch minute - r.minute {
	case 0:
		return
	case 1:
		r.previous = r.now
	default:
		r.previous = 0
	}
	r.minute, r.now = minute, 0
}

func (r *recentMax) note(at time.Time, d time.Duration) {
	r.turn(at)
	r.now = max(r.now, d)
}

func (r *recentMax) get(at time.Time) time.Duration {
	r.turn(at)
	return max(r.now, r.previous)
}

// begin notes that an operation begins, and returns the function to call at its end.
func (h *health) begin() func() {
	started := time.Now()
	end := h.beginStall()
	return func() {
		end()
		now := time.Now()
		h.mu.Lock()
		h.slowest.note(now, now.Sub(started))
		h.mu.Unlock()
	}
}

// beginStall checks whether an operation takes too long; it returns the function to call at the end.
func (h *health) beginStall() func() {
	if h.stall <= 0 {
		return func() {}
	}
	late := false
	ended := false
	timer := time.AfterFunc(h.stall, func() {
		h.mu.Lock()
		if ended {
			h.mu.Unlock()
			return
		}
		late = true
		h.stalled++
		h.stalls.Add(1)
		h.mu.Unlock()
		h.changed()
	})
	return func() {
		if timer.Stop() {
			return
		}
		h.mu.Lock()
		ended = true
		if late {
			h.stalled--
		}
		h.mu.Unlock()
		h.changed()
	}
}

// space returns the disk's free and total bytes; ok is false if the disk does not respond, which operations will report.
func (h *health) space() (free, total int64, ok bool) {
	var fs unix.Statfs_t
	if err := eintr.Retry(func() error { return unix.Statfs(h.dir, &fs) }); err != nil {
		return 0, 0, false
	}
	return int64(fs.Bavail) * fs.Bsize, int64(fs.Blocks) * fs.Bsize, true
}

func (h *health) free() (int64, bool) {
	free, _, ok := h.space()
	return free, ok
}

// look checks the free space, and allocates the reserve again if there is space for it.
func (h *health) look() {
	free, total, ok := h.space()
	if !ok {
		return
	}
	h.room.Lock()
	defer h.room.Unlock()
	needed := int64(0)
	if h.low > 0 {
		needed = h.low + h.snapshot() // the next snapshot is about as large, and the log can be truncated only after it
	}
	h.mu.Lock()
	given, was := h.given, h.state.Full
	h.mu.Unlock()
	bound := needed
	if was {
		bound += needed / 4 // so that the disk is not full again at once
	}
	if given && free >= bound+h.reserve && h.takeReserve() == nil {
		given = false
		free -= h.reserve
	}
	full := free < bound || given || free <= 0
	if full { // the number of free bytes that ends the condition
		if needed += needed / 4; given {
			needed += h.reserve
		}
	}
	h.mu.Lock()
	h.given = given
	h.set(full, free, total, needed)
	h.mu.Unlock()
	if full != was {
		h.changed()
	}
}

// set records the result of a check. The caller holds mu.
func (h *health) set(full bool, free, total, needed int64) {
	if full && !h.state.Full {
		h.state.Fulls++
	}
	h.state.Full, h.state.Free, h.state.Total, h.state.Needed, h.state.Dir = full, free, total, needed, h.dir
}

func (h *health) takeReserve() error {
	path := filepath.Join(h.dir, reserveFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = eintr.Retry(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, h.reserve) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		err = fill(f, h.reserve)
	}
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func fill(f *os.File, size int64) error {
	block := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(block)) {
		if _, err := f.WriteAt(block[:min(int64(len(block)), size-at)], at); err != nil {
			return err
		}
	}
	return nil
}

// giveUpReserve deletes the reserve, and returns whether that freed any space.
func (h *health) giveUpReserve() bool {
	h.room.Lock()
	defer h.room.Unlock()
	h.mu.Lock()
	had := h.reserve > 0 && !h.given
	h.given = h.reserve > 0
	h.mu.Unlock()
	if !had {
		return false
	}
	err := os.Remove(filepath.Join(h.dir, reserveFile))
	h.setFull()
	return err == nil
}

// setFull notes that an operation found no space.
func (h *health) setFull() {
	h.mu.Lock()
	was := h.state.Full
	h.set(true, h.state.Free, h.state.Total, h.state.Needed)
	h.mu.Unlock()
	if !was {
		h.changed()
	}
}
