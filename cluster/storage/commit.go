package storage

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"

	berrors "go.etcd.io/bbolt/errors"

	"github.com/kontiki/kontiki/internal/eintr"
	"github.com/kontiki/kontiki/internal/failpoint"
)

var errClosed = errors.New("the raft log is closed")

// commit runs one write of raft-boltdb's, which is one commit of bbolt's. The caller holds write. A full disk is ErrFull, tried
// again once with the room of the reserve. A commit that a signal interrupted (bbolt calls fdatasync directly) is tried again. Every
// other error of the disk is final.
func (s *Store) commit(write func() error) error {
	if err := s.refuses(); err != nil {
		return err
	}
	once := func() error { return s.commitOnce(write) }
	err := eintr.Retry(once)
	if isFull(err) && s.giveUpReserve() {
		err = eintr.Retry(once)
	}
	return s.classify(err)
}

func (s *Store) commitOnce(write func() error) error {
	failpoint.Hit("storage.commit.before")
	err := faultless(write)
	failpoint.Hit("storage.commit.after")
	if err == nil {
		s.commits++
		return nil
	}
	if !isFull(err) && !errors.Is(err, syscall.EINTR) {
		return err
	}
	happened, settling := s.settle()
	switch {
	case settling != nil:
		return fmt.Errorf("after %v: %w", err, settling) // a full disk is no excuse: nobody knows what is on it
	case happened:
		return nil
	}
	return err
}

// settle finds out whether a commit happened that failed for lack of room or was interrupted. bbolt writes and syncs the pages of a commit before its
// meta page, so it mostly did not. Where it was the sync of the meta page that failed, bbolt and the kernel show one that the
// disk may not have, and what is written next must not build on that: it is written again.
func (s *Store) settle() (happened bool, err error) {
	raw, err := openBoltFile(s.file)
	if err == nil {
		err = raw.rewriteMeta()
	}
	if err != nil {
		return false, fmt.Errorf("settle a failed commit: %v", err)
	}
	switch raw.commit {
	case s.commits:
		return false, nil
	case s.commits + 1:
		s.commits++
		return true, nil
	}
	return false, fmt.Errorf("settle a failed commit: %w: the newest is number %d, number %d was expected", ErrDamaged, raw.commit, s.commits)
}

// lower lowers the watermark. The caller holds write.
func (s *Store) lower(mark watermark) error {
	if err := s.refuses(); err != nil {
		return err
	}
	return s.classify(s.mark.lower(mark))
}

// raise lets the watermark follow what is stored, but for while what is left of a replaced end waits for being deleted. The caller
// holds write.
func (s *Store) raise() {
	if s.refuses() == nil && s.stored <= s.held.last {
		s.mark.raise(watermark{last: s.held.last, term: s.held.term, sum: s.held.sum, writes: s.writes})
	}
}

// classify tells the owner of errors that are final.
func (s *Store) classify(err error) error {
	switch {
	case err == nil:
		return nil
	case isClosed(err):
		return errClosed
	case isFull(err):
		s.setFull()
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	s.fail(err)
	return err
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func isClosed(err error) bool { return errors.Is(err, berrors.ErrDatabaseNotOpen) }

// refuses is why nothing more is written: the store is closed, or its disk has failed.
func (s *Store) refuses() error {
	if s.shut {
		return errClosed
	}
	if err := s.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// fail tells the owner that the disk has failed for good.
func (s *Store) fail(err error) {
	s.broken.CompareAndSwap(nil, &err)
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

// Guard is called once raft runs: from then on what has failed for good does not return to it, because it would panic or go on
// without its disk. Release ends those of raft's goroutines that wait for such an answer, for raft to be shut down.
func (s *Store) Guard() { s.guarded.Store(true) }

// Release: see Guard.
func (s *Store) Release() { s.release.Do(func() { close(s.closed) }) }

// hang returns an error to whoever opens the store, and lets raft wait.
func (s *Store) hang(err error) error {
	if !s.guarded.Load() {
		return err
	}
	<-s.closed
	runtime.Goexit()
	return nil
}
