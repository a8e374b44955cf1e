package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/kontiki/kontiki/internal/durable"
)

// Open opens a master's store in dir, which is created if it is missing, and reads and checks all of it first. Unfinished snapshots
// are deleted; a damaged one that is not needed is set aside. Errors: ErrDamaged (a *Damage), after which nothing was changed;
// ErrLocked.
func Open(dir string, o Options) (_ *Store, err error) {
	o.complete()
	if err := present(dir, o.Expect || o.Inspect); err != nil {
		return nil, err
	}
	shots := newSnapshots(dir, o)
	for _, d := range []string{dir, shots.path()} {
		if err := durable.MakeDir(d, 0o700); err != nil {
			return nil, fmt.Errorf("make the raft directory: %w", err)
		}
	}
	if !o.Inspect {
		if err := shots.clean(); err != nil {
			return nil, err
		}
	}
	if _, err := os.Stat(filepath.Join(dir, logFile)); errors.Is(err, fs.ErrNotExist) {
		if err := createLog(dir); err != nil {
			return nil, err
		}
	}
	s := &Store{options: o, dir: dir, snapshots: shots, closed: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeFiles())
		}
	}()
	if err := s.openFiles(); err != nil {
		return nil, err
	}
	s.health = newHealth(dir, o, shots.size.Load)
	s.entryRoom, s.valueRoom = newRoom(s.health.free), newRoom(s.health.free)
	if !o.Inspect {
		s.mark.start(s.fail)
		defer func() {
			if err != nil {
				s.mark.stop()
			}
		}()
		if err := s.tidy(); err != nil {
			return nil, err
		}
	}
	s.health.start()
	return s, nil
}

// present checks that a directory contains the files that it must.
func present(dir string, expect bool) error {
	path := filepath.Join(dir, logFile)
	_, err := os.Stat(path)
	switch {
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return &Damage{File: path, Offset: -1, Reason: err}
	case expect:
		return &Damage{File: path, Offset: -1, Reason: errMissing}
	}
	// A crash during the creation of the log leaves files without content.
	mark, err := openWatermark(dir, true)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		if err := mark.file.Close(); err != nil {
			return err
		}
		if mark.says != (watermark{}) {
			return &Damage{File: path, Offset: -1, Index: mark.says.last, Reason: errMissing}
		}
	}
	names, err := newSnapshots(dir, Options{}).names()
	if len(names) > 0 {
		return &Damage{File: path, Offset: -1, Reason: errors.New("it is missing, but there are snapshots")}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

var errMissing = errors.New("it is missing")

// openFiles opens log, stable store and watermark, and checks them and the snapshots.
func (s *Store) openFiles() (err error) {
	if s.file, err = lockLog(s.dir); err != nil {
		return err
	}
	s.mark, err = openWatermark(s.dir, s.options.Inspect)
	if errors.Is(err, fs.ErrNotExist) {
		return &Damage{File: filepath.Join(s.dir, watermarkName), Offset: -1, Reason: errMissing}
	}
	if err != nil {
		return err
	}
	raw, err := openBoltFile(s.file)
	if err != nil {
		return err
	}
	c, err := readContents(raw, s.mark.says)
	if err != nil {
		return err
	}
	newest, damaged, err := s.snapshots.choose(c.log.first)
	if err != nil {
		return err
	}
	if err := c.reaches(s.mark.says, s.dir, newest); err != nil {
		return err
	}
	s.held, s.stored, s.writes = c.log, c.stored, c.writes
	if newest != nil {
		s.newest = newest.Index
		s.snapshots.size.Store(newest.Size)
	}
	if s.options.Inspect {
		s.bolt, err = openBolt(s.file, true)
		return err
	}
	if err := s.snapshots.setAside(damaged); err != nil {
		return err
	}
	if err := raw.rewriteMeta(); err != nil {
		return err
	}
	if s.bolt, err = openBolt(s.file, false); err != nil {
		return err
	}
	again, err := openBoltFile(s.file)
	if err != nil {
		return err
	}
	if s.commits = again.commit; s.commits != raw.commit+1 {
		return fmt.Errorf("open the raft log %s: it changed while it was checked: %w", s.file.Name(), ErrLocked)
	}
	return nil
}

// tidy finishes what a crash interrupted. What was read may not be durable (see boltFile.rewriteMeta), so the watermark is written
// again, too. What finds no space is done later: a master must be able to start on a full disk.
func (s *Store) tidy() error {
	if err := s.mark.lower(s.mark.says); err != nil {
		return err
	}
	if err := s.deleteReplaced(); err != nil && !errors.Is(err, ErrFull) {
		return err
	}
	if s.held.last != 0 && s.held.last < s.newest {
		// A crash happened after a snapshot was installed and before the log was emptied.
		if err := s.DeleteRange(s.held.first, s.held.last); err != nil {
			return err
		}
	}
	s.raise()
	return nil
}
