package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// deleteEntries is the number of entries that one commit deletes.
const deleteEntries = 1024

// Store is raft's log and stable store. Its methods are safe for concurrent use.
type Store struct {
	options   Options
	dir       string
	snapshots *snapshots
	newest    uint64 // the end of the newest snapshot when the store was opened
	*health

	bolt *raftboltdb.BoltStore
	file *os.File // the same file, opened a second time
	mark *watermarkFile

	closed  chan struct{}
	release sync.Once
	failed  sync.Once
	guarded atomic.Bool
	broken  atomic.Pointer[error] // the error by which the disk has failed

	// write serializes commits. It guards the fields below.
	write   sync.Mutex
	shut    bool
	commits uint64 // the number of bbolt's last commit
	// stored is the last entry in the file: after held.last while the rest of a replaced log end still has to be deleted.
	stored               uint64
	writes               uint64 // number of stable values written
	entryRoom, valueRoom *room

	// mu is held only briefly. To change held or pending (the index from which the log's end is to be replaced, or 0), also hold
	// write.
	mu      sync.RWMutex
	held    bounds
	pending uint64
}

var (
	_ raft.LogStore    = (*Store)(nil)
	_ raft.StableStore = (*Store)(nil)
)

// Snapshots returns the snapshot store of the same directory.
func (s *Store) Snapshots() raft.SnapshotStore { return s.snapshots }

// visible returns the entries that raft sees.
func (s *Store) visible() bounds {
	s.mu.RLock()
	defer s.mu.RUnlock()
	b := s.held
	if s.pending != 0 {
		b.last = s.pending - 1
	}
	return b
}

// hold changes the entries that raft sees.
func (s *Store) hold(held bounds, pending uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held, s.pending = held, pending
}

// FirstIndex implements raft.LogStore.
func (s *Store) FirstIndex() (uint64, error) { return s.visible().first, nil }

// LastIndex implements raft.LogStore.
func (s *Store) LastIndex() (uint64, error) { return s.visible().last, nil }

// GetLog implements raft.LogStore. It does not return if it finds damage (see Guard), because raft would panic.
func (s *Store) GetLog(index uint64, l *raft.Log) error {
	if !s.visible().holds(index) {
		return raft.ErrLogNotFound
	}
	read, _, err := s.read(index)
	if errors.Is(err, raft.ErrLogNotFound) {
		if !s.visible().holds(index) {
			return err // the entry was deleted meanwhile
		}
		err = &Damage{File: s.path(), Offset: -1, Index: index, Reason: errors.New("the entry is missing")}
	}
	if err != nil {
		s.fail(err)
		return s.hang(err)
	}
	*l = read
	return nil
}

// read reads and checks an entry, and also returns its checksum.
func (s *Store) read(index uint64) (l raft.Log, sum uint32, err error) {
	defer s.begin()()
	if err := faultless(func() error { return s.bolt.GetLog(index, &l) }); errors.Is(err, raft.ErrLogNotFound) || isClosed(err) {
		return l, 0, err
	} else if err != nil {
		return l, 0, &Damage{File: s.path(), Offset: -1, Index: index, Reason: err}
	}
	if _, sum, err = unseal(index, &l); err != nil {
		return l, 0, &Damage{File: s.path(), Offset: -1, Index: index, Reason: err}
	}
	return l, sum, nil
}

// StoreLog implements raft.LogStore.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. The entries are durable when it returns nil; after an error the log is unchanged, including
// the end that DeleteRange was to truncate. Entries that do not follow the log replace all of it: the old entries are deleted
// first, since a snapshot must contain them. Errors: ErrFull.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	if first, last := logs[0].Index, logs[len(logs)-1].Index; last-first != uint64(len(logs)-1) {
		return fmt.Errorf("store raft entries: %d entries from index %d to %d", len(logs), first, last)
	}
	defer s.begin()()
	s.write.Lock()
	defer s.write.Unlock()
	err := s.entryRoom.try(func() error { return s.append(logs) })
	s.hold(s.held, 0)
	if err == nil || errors.Is(err, ErrFull) {
		s.raise()
	}
	if err != nil {
		return fmt.Errorf("store raft entries: %w", err)
	}
	return nil
}

// append stores entries after those that are there, or in their place. The caller holds write.
func (s *Store) append(logs []*raft.Log) error {
	if err := s.deleteReplaced(); err != nil {
		return err
	}
	first := logs[0].Index
	cut := s.held.last + 1 // entries from this index on are replaced
	if s.pending != 0 {
		cut = s.pending
	}
	if s.held.last != 0 && (first > cut || first < s.held.first) {
		if err := s.deleteUpTo(s.held.last); err != nil {
			return err
		}
	}
	if s.held.last == 0 {
		return s.put(logs, bounds{first: first})
	}
	if cut = min(cut, first); cut > s.held.last {
		return s.put(logs, s.held)
	}
	return s.replace(logs, cut)
}

// put stores entries after others. The caller holds write.
func (s *Store) put(logs []*raft.Log, behind bounds) error {
	sealed, sum := seal(logs, behind.sum)
	if err := s.commit(func() error { return s.bolt.StoreLogs(sealed) }); err != nil {
		return err
	}
	last := logs[len(logs)-1]
	s.stored = max(s.stored, last.Index)
	s.hold(bounds{first: behind.first, last: last.Index, term: last.Term, sum: sum}, 0)
	return nil
}

// replace stores entries in place of the log's end. One commit overwrites the old entries, and if there were more of them, another
// one deletes the rest. After a crash in between, the rest would follow entries that it does not belong to: so the watermark first
// records where the log will end. The caller holds write.
func (s *Store) replace(logs []*raft.Log, from uint64) error {
	s.hold(s.held, from) // so that concurrent readers do not miss what is deleted
	behind := bounds{first: s.held.first}
	if from > s.held.first {
		l, sum, err := s.read(from - 1)
		if err != nil {
			s.fail(err)
			return err
		}
		behind.last, behind.term, behind.sum = l.Index, l.Term, sum
	}
	mark := watermark{last: behind.last, term: behind.term, sum: behind.sum, writes: s.writes}
	if last := logs[len(logs)-1].Index; last < s.stored {
		_, sum := seal(logs, behind.sum)
		mark.cut, mark.cutSum = last, sum
	}
	if err := s.lower(mark); err != nil {
		return err
	}
	if err := s.put(logs, behind); err != nil {
		return err
	}
	if err := s.deleteReplaced(); err != nil && !errors.Is(err, ErrFull) {
		return err // if there is no space, the next entries will do it: these are stored
	}
	return nil
}

// deleteReplaced deletes the rest of a log end that was replaced. The caller holds write.
func (s *Store) deleteReplaced() error {
	if s.stored <= s.held.last {
		return nil
	}
	if err := s.commit(func() error { return s.bolt.DeleteRange(s.held.last+1, s.stored) }); err != nil {
		return err
	}
	s.stored = s.held.last
	return nil
}

// DeleteRange implements raft.LogStore. Raft truncates the log's end only to store other entries there, so the truncation is
// delayed until then. The beginning is deleted in pieces, so that StoreLogs waits for one piece only.
func (s *Store) DeleteRange(from, to uint64) error {
	s.write.Lock()
	held := s.held
	end := from > held.first && to >= held.last && from <= held.last
	if end {
		s.hold(held, from)
	}
	s.write.Unlock()
	switch {
	case held.last == 0, to < held.first, from > held.last, from > to, end:
		return nil
	case from > held.first:
		return fmt.Errorf("delete raft entries %d to %d: the log holds %d to %d and cannot have a gap", from, to, held.first, held.last)
	}
	to = min(to, held.last)
	for first := held.first; first <= to; first += deleteEntries {
		if err := s.deletePiece(min(first+deleteEntries-1, to)); err != nil {
			return fmt.Errorf("delete raft entries: %w", err)
		}
	}
	return nil
}

func (s *Store) deletePiece(to uint64) error {
	defer s.begin()()
	s.write.Lock()
	defer s.write.Unlock()
	if err := s.deleteUpTo(to); err != nil {
		return err
	}
	// Pages in the file became free.
	s.entryRoom.made()
	s.valueRoom.made()
	return nil
}

// deleteUpTo deletes the log's beginning up to and including an index. The caller holds write.
func (s *Store) deleteUpTo(to uint64) error {
	before, pending := s.held, s.pending
	if before.last == 0 || to < before.first {
		return nil
	}
	next, left := before, pending
	if next.first = to + 1; to >= before.last {
		if err := s.deleteReplaced(); err != nil {
			return err
		}
		if err := s.lower(watermark{writes: s.writes}); err != nil {
			return err
		}
		next, left, s.stored = bounds{}, 0, 0
	}
	s.hold(next, left) // before the commit, so that concurrent readers do not miss what is deleted
	if err := s.commit(func() error { return s.bolt.DeleteRange(before.first, min(to, before.last)) }); err != nil {
		s.hold(before, pending)
		s.stored = max(s.stored, before.last)
		return err
	}
	return nil
}

// Close closes the files. Later calls of raft do not return.
func (s *Store) Close() error {
	s.Release()
	s.health.close()
	s.write.Lock()
	defer s.write.Unlock()
	if s.shut {
		return nil
	}
	s.shut = true
	if !s.options.Inspect {
		s.mark.stop()
	}
	return s.closeFiles()
}

// closeFiles closes the files that are open.
func (s *Store) closeFiles() error {
	var errs []error
	if s.mark != nil {
		errs = append(errs, s.mark.file.Close())
	}
	if s.bolt != nil {
		errs = append(errs, s.bolt.Close())
	}
	if s.file != nil {
		errs = append(errs, s.file.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the raft log: %w", err)
	}
	return nil
}

func (s *Store) path() string { return filepath.Join(s.dir, logFile) }
