package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/failpoint"
)

const (
	logFile      = "raft.db"
	newLogFile   = "raft.db.new"
	bucketLog    = "log"
	bucketStable = "stable"

	lockTimeout = time.Second
	// setRetry is how long a vote or a term that found no room waits before it tries again.
	setRetry = 100 * time.Millisecond
	// deletePiece is how many entries one commit deletes.
	deletePiece = 1024
)

var (
	// ErrLocked says that another process has the directory open.
	ErrLocked = errors.New("another process has it open")
	// ErrFull says that the disk had no room.
	ErrFull = errors.New("the disk is full")
	// errNoValue is what raft takes for the absence of a stable value: it compares the text.
	errNoValue = errors.New("not found")
	errClosed  = errors.New("the raft log is closed")
)

// Options say how a directory is opened.
type Options struct {
	// Expect says that the directory must hold a log: that it is missing is damage.
	Expect bool
	// Inspect says that the directory is only looked at: what every start tidies up stays as it is. (The log of a version
	// before checksums is brought into today's form all the same.)
	Inspect bool
	// Keep is how many snapshots are kept; at least 1.
	Keep int
	// Reserve is the size in bytes of the file that is given up when the disk is full; Low is the free space in bytes, beside the
	// size of the newest snapshot, below which the disk counts as full. 0 means none.
	Reserve, Low int64
	// Stall is how long one operation may take before the disk counts as stalled.
	Stall time.Duration
	// Changed is called when what Health answers may have changed; it must not block. Failed is called, at most once, when
	// the disk has failed for good: nothing more can be stored or read, and the owner is to stop. SnapshotLost is called when
	// a snapshot turned out to be damaged while running: a new one should be taken.
	Changed      func()
	Failed       func(error)
	SnapshotLost func()
	Log          *slog.Logger
}

// Store is raft's log and stable store in one file. Its methods are safe for concurrent use.
type Store struct {
	options   Options
	dir       string
	snapshots *snapshots
	*health

	// mu is held for writing while the file is closed and opened again.
	mu      sync.RWMutex
	db      *bbolt.DB
	closed  chan struct{}
	once    sync.Once
	failed  sync.Once
	guarded atomic.Bool

	write sync.Mutex // one writer
	// What the log holds, and from where on its end is to be replaced (0: it is not). Changed only with write and mu held.
	held    bounds
	pending uint64
}

var (
	_ raft.LogStore    = (*Store)(nil)
	_ raft.StableStore = (*Store)(nil)
)

// Snapshots answers the snapshots beside the log.
func (s *Store) Snapshots() raft.SnapshotStore { return s.snapshots }

// FirstIndex implements raft.LogStore.
func (s *Store) FirstIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.held.first, nil
}

// LastIndex implements raft.LogStore.
func (s *Store) LastIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.pending != 0 {
		return s.pending - 1, nil
	}
	return s.held.last, nil
}

// GetLog implements raft.LogStore. Damage does not return (see Guard): raft would panic.
func (s *Store) GetLog(index uint64, l *raft.Log) error {
	s.mu.RLock()
	if index < s.held.first || index > s.held.last || (s.pending != 0 && index >= s.pending) || s.held.last == 0 {
		s.mu.RUnlock()
		return raft.ErrLogNotFound
	}
	defer s.begin()()
	err := s.read(func(tx *bbolt.Tx) error {
		value := tx.Bucket([]byte(bucketLog)).Get(indexKey(index))
		if value == nil {
			return s.missing(tx, index)
		}
		if err := decodeEntry(index, value, l); err != nil {
			return &Damage{File: s.path(), Offset: -1, Index: index, Reason: err}
		}
		return nil
	})
	s.mu.RUnlock()
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		s.fail(err)
		return s.hang(err)
	}
	return err
}

// missing says whether an entry is not there because it was deleted: a commit may come between looking at what the log holds
// and beginning to read, so it is what the reader's own transaction says that counts.
func (s *Store) missing(tx *bbolt.Tx, index uint64) error {
	body, err := open(boundsKey, tx.Bucket([]byte(bucketStable)).Get(boundsKey))
	var held bounds
	if err == nil {
		held, _, err = decodeBounds(body)
	}
	if err == nil && (held.last == 0 || index < held.first || index > held.last) {
		return raft.ErrLogNotFound
	}
	return &Damage{File: s.path(), Offset: -1, Index: index, Reason: errors.Join(errors.New("the entry is missing"), err)}
}

// StoreLog implements raft.LogStore.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. The entries are durable when it returns nil; after an error the log is as it was before,
// with the end that DeleteRange was to cut. Entries that do not follow the log replace all of it. Errors: ErrFull.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	defer s.begin()()
	s.write.Lock()
	defer s.write.Unlock()
	first, last := logs[0].Index, logs[len(logs)-1].Index
	if last-first != uint64(len(logs)-1) {
		return fmt.Errorf("store raft entries: %d entries from index %d to %d", len(logs), first, last)
	}
	var next bounds
	err := s.commit(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(bucketLog))
		bucket.FillPercent = 0.95 // entries only ever come at the end
		next = s.held
		cut := next.last + 1 // what lies from here on is replaced
		if s.pending != 0 {
			cut = s.pending
		}
		switch {
		case next.last == 0:
			next.first = first
		case first > cut || first < next.first:
			cut, next.first = next.first, first
		case first < cut:
			cut = first
		}
		if err := deleteRange(bucket, cut, s.held.last); err != nil {
			return err
		}
		for _, l := range logs {
			if err := bucket.Put(indexKey(l.Index), encodeEntry(l)); err != nil {
				return err
			}
		}
		next.last, next.term = last, logs[len(logs)-1].Term
		return putBounds(tx, next)
	})
	s.mu.Lock()
	s.pending = 0
	if err == nil {
		s.held = next
	}
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("store raft entries: %w", err)
	}
	return nil
}

// DeleteRange implements raft.LogStore. Raft cuts the log's end only to store something else there: that waits for it. The
// beginning goes in pieces, so that entries that come meanwhile wait for one piece only.
func (s *Store) DeleteRange(from, to uint64) error {
	s.write.Lock()
	s.mu.Lock()
	held := s.held
	end := from > held.first && to >= held.last && from <= held.last
	if end {
		s.pending = from
	}
	s.mu.Unlock()
	s.write.Unlock()
	switch {
	case held.last == 0, to < held.first, from > held.last, from > to, end:
		return nil
	case from > held.first:
		return fmt.Errorf("delete raft entries %d to %d: the log holds %d to %d and cannot have a gap", from, to, held.first, held.last)
	}
	to = min(to, held.last)
	for first := held.first; first <= to; first += deletePiece {
		if err := s.deleteUpTo(min(first+deletePiece-1, to)); err != nil {
			return fmt.Errorf("delete raft entries: %w", err)
		}
	}
	return nil
}

// deleteUpTo deletes the log's beginning up to and with an index.
func (s *Store) deleteUpTo(to uint64) error {
	defer s.begin()()
	s.write.Lock()
	defer s.write.Unlock()
	var next bounds
	err := s.commit(func(tx *bbolt.Tx) error {
		next = s.held
		if err := deleteRange(tx.Bucket([]byte(bucketLog)), next.first, min(to, next.last)); err != nil {
			return err
		}
		if to >= next.last {
			next = bounds{}
		} else {
			next.first = to + 1
		}
		return putBounds(tx, next)
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.held = next
	s.mu.Unlock()
	return nil
}

func deleteRange(bucket *bbolt.Bucket, from, to uint64) error {
	for index := from; index <= to; index++ {
		if err := bucket.Delete(indexKey(index)); err != nil {
			return err
		}
	}
	return nil
}

// Close releases the file. What raft still asks afterwards is not answered.
func (s *Store) Close() error {
	s.Release()
	s.health.close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	db := s.db
	s.db = nil
	if err := db.Close(); err != nil {
		return fmt.Errorf("close the raft log: %w", err)
	}
	return nil
}

func (s *Store) path() string { return filepath.Join(s.dir, logFile) }

// Guard is called once raft runs: from then on what has failed for good does not return to it, because it would panic or go on
// without its disk. Release ends those of raft's goroutines that wait for such an answer, for raft to be shut down.
func (s *Store) Guard() { s.guarded.Store(true) }

// Release: see Guard.
func (s *Store) Release() { s.once.Do(func() { close(s.closed) }) }

// hang answers an error to who opens the store, and lets raft wait.
func (s *Store) hang(err error) error {
	if !s.guarded.Load() {
		return err
	}
	<-s.closed
	runtime.Goexit()
	return nil
}

// fail tells the owner that the disk has failed for good.
func (s *Store) fail(err error) {
	select {
	case <-s.closed:
		return
	default:
	}
	s.failed.Do(func() {
		s.options.Log.Error("the disk has failed", "error", err)
		s.options.Failed(err)
	})
}

// faultless runs something on the mapped file. A page that cannot be read is a fault of memory, and bbolt panics on a page that
// makes no sense: both are errors here.
func faultless(f func() error) (err error) {
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	return f()
}

// read runs a read transaction. The caller holds mu.
func (s *Store) read(f func(*bbolt.Tx) error) error {
	if s.db == nil {
		return errClosed
	}
	return faultless(func() error { return s.db.View(f) })
}

// commit runs a write transaction and syncs it. The caller holds write. A full disk is ErrFull, tried again once with the
// room of the reserve; every other error of the disk is final.
func (s *Store) commit(f func(*bbolt.Tx) error) error {
	err := s.commitOnce(f)
	if isFull(err) && s.giveUpReserve() {
		err = s.commitOnce(f)
	}
	switch {
	case err == nil, errors.Is(err, errClosed):
		return err
	case isFull(err):
		s.setFull()
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	s.fail(err)
	return err
}

func (s *Store) commitOnce(f func(*bbolt.Tx) error) error {
	s.mu.RLock()
	if s.db == nil {
		s.mu.RUnlock()
		return errClosed
	}
	failpoint.Hit("storage.commit.before")
	err := faultless(func() error { return s.db.Update(f) })
	failpoint.Hit("storage.commit.after")
	s.mu.RUnlock()
	if !isFull(err) {
		return err
	}
	// bbolt may now take pages for free that the file still uses.
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return errClosed
	}
	old := s.db
	s.db = nil
	if closing := old.Close(); closing != nil {
		return errors.Join(fmt.Errorf("open the raft log again: %v", err), closing)
	}
	db, held, opening := openLog(s.dir, false)
	if opening != nil {
		if isFull(opening) {
			opening = fmt.Errorf("%v", opening) // it cannot go on without its log
		}
		return errors.Join(fmt.Errorf("open the raft log again: %v", err), opening)
	}
	s.db, s.held = db, held
	return err
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// create makes an empty log, durably, and never under its name before it is whole.
func create(dir string) error {
	path := filepath.Join(dir, newLogFile)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make the raft log: %w", err)
	}
	db, err := bbolt.Open(path, 0o600, boltOptions(nil))
	if err != nil {
		return fmt.Errorf("make the raft log: %w", err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		if err := makeBuckets(tx); err != nil {
			return err
		}
		return putBounds(tx, bounds{})
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("make the raft log: %w", err)
	}
	failpoint.Hit("storage.create.written")
	if err := os.Rename(path, filepath.Join(dir, logFile)); err != nil {
		return fmt.Errorf("make the raft log: %w", err)
	}
	return durable.SyncDir(dir)
}

func makeBuckets(tx *bbolt.Tx) error {
	for _, name := range []string{bucketLog, bucketStable} {
		if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
			return err
		}
	}
	return nil
}

// boltOptions opens a file that is open and locked already, where one is given.
func boltOptions(file *os.File) *bbolt.Options {
	o := &bbolt.Options{Timeout: lockTimeout, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType}
	if file != nil {
		o.OpenFile = func(string, int, os.FileMode) (*os.File, error) { return file, nil }
	}
	return o
}
