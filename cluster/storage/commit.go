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

// commit runs one write to raft-boltdb, which is one commit of bbolt. The caller holds write. If the disk is full, the reserve is
// given up and the write repeated once; then commit returns ErrFull. A commit that a signal interrupted (bbolt calls fdatasync
// directly) is repeated. Every other disk error is final.
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
		return fmt.Errorf("after %v: %w", err, settling) // not even ErrFull: it is unknown what is on the disk
	case happened:
		return nil
	}
	return err
}

// settle finds out whether a commit happened that failed because the disk was full or was interrupted. Usually it did not: bbolt
// writes and syncs the pages of a commit before its meta page. But if the sync of the meta page failed, bbolt and the kernel see a
// meta page that the disk may not have, and later writes must not depend on it: so it is written again.
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
	return false, fmt.Errorf("settle a failed commit: %w: the newest commit is number %d, number %d was expected", ErrDamaged, raw.commit, s.commits)
}

// lower lowers the watermark. The caller holds write.
func (s *Store) lower(mark watermark) error {
	if err := s.refuses(); err != nil {
		return err
	}
	return s.classify(s.mark.lower(mark))
}

// raise raises the watermark to what is stored, unless the rest of a replaced log end still has to be deleted. The caller holds
// write.
func (s *Store) raise() {
	if s.refuses() == nil && s.stored <= s.held.last {
		s.mark.raise(watermark{last: s.held.last, term: s.held.term, sum: s.held.sum, writes: s.writes})
	}
}

// classify returns a disk error's class, and reports final errors to the owner.
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

// refuses returns why nothing can be written any more: the store is closed, or its disk has failed.
func (s *Store) refuses() error {
	if s.shut {
		return errClosed
	}
	if err := s.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// fail reports to the owner that the disk has failed permanently.
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

// Guard is called once raft runs. From then on calls whose error is final do not return to raft, because raft would panic or
// continue without its disk. Release makes those calls return, so that raft can shut down.
func (s *Store) Guard() { s.guarded.Store(true) }

// Release makes the calls that Guard describes return.
func (s *Store) Release() { s.release.Do(func() { close(s.closed) }) }

// hang returns err before Guard was called; afterwards it blocks until Release.
func (s *Store) hang(err error) error {
	if !s.guarded.Load() {
		return err
	}
	<-s.closed
	runtime.Goexit()
	return nil
}
