package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/hashicorp/go-msgpack/v2/codec"
	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/kontiki/kontiki/internal/durable"
)

// The buckets of raft-boltdb, which earlier versions used: entries in msgpack, without checksums.
const (
	legacyLogs = "logs"
	legacyConf = "conf"
)

// Open opens what a master keeps in dir, which is created where it is missing, and reads and checks all of it first. Unfinished
// snapshots are deleted; a damaged one that is not needed is set aside. Errors: ErrDamaged (a *Damage), after which nothing
// was changed; ErrLocked.
func Open(dir string, o Options) (_ *Store, err error) {
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
	shots := &snapshots{dir: dir, keep: max(o.Keep, 1), log: o.Log, lost: o.SnapshotLost, trusted: map[string]bool{}, active: map[string]bool{}}
	path := filepath.Join(dir, logFile)
	_, missing := os.Stat(path)
	if missing != nil && !errors.Is(missing, os.ErrNotExist) {
		return nil, &Damage{File: path, Offset: -1, Reason: missing}
	}
	if missing != nil && o.Expect {
		return nil, &Damage{File: path, Offset: -1, Reason: errors.New("it is missing")}
	}
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
	if missing != nil {
		if names, err := shots.names(); err != nil || len(names) > 0 {
			return nil, errors.Join(err, &Damage{File: path, Offset: -1, Reason: errors.New("it is missing, and snapshots are there")})
		}
		if err := create(dir); err != nil {
			return nil, err
		}
	}
	db, held, err := openLog(dir, o.Inspect)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, db.Close())
		}
	}()
	newest, err := shots.choose(held.first, o.Inspect)
	if err != nil {
		return nil, err
	}
	s := &Store{options: o, dir: dir, snapshots: shots, db: db, held: held, closed: make(chan struct{})}
	if newest != nil {
		shots.size.Store(newest.Size)
	}
	s.health = newHealth(dir, o, shots.size.Load)
	if newest != nil && held.last != 0 && held.last < newest.Index && !o.Inspect {
		// A snapshot was installed, and a crash came before the log was emptied.
		if err := s.DeleteRange(held.first, held.last); err != nil {
			return nil, err
		}
	}
	s.health.start()
	return s, nil
}

// choose verifies snapshots, newest first, until one is good, and finds out whether it reaches the log's first entry (0 for an
// empty log). It answers nil where none is needed and there is none. Damaged ones are set aside, unless one only inspects.
func (s *snapshots) choose(first uint64, inspect bool) (*snapshotMeta, error) {
	metas, damaged, err := s.all()
	if err != nil {
		return nil, err
	}
	var worst error
	for _, err := range damaged {
		worst = err
	}
	var good *snapshotMeta
	for _, meta := range metas {
		if _, err := s.verify(meta.ID); err != nil {
			damaged[meta.ID] = err
			if worst == nil {
				worst = err
			}
			continue
		}
		good = meta
		break
	}
	enough := first == 1 || (good != nil && (first == 0 || good.Index >= first-1))
	if first == 0 && good == nil && worst == nil {
		enough = true // nothing was ever there
	}
	switch {
	case enough:
	case worst != nil:
		return nil, worst
	case good == nil:
		return nil, &Damage{File: s.path(), Offset: -1, Index: first - 1, Reason: fmt.Errorf("the log begins at index %d, and there is no snapshot", first)}
	default:
		return nil, &Damage{File: s.path(), Offset: -1, Index: good.Index,
			Reason: fmt.Errorf("the log begins at index %d, and the newest snapshot ends at %d", first, good.Index)}
	}
	if inspect {
		return good, nil
	}
	for id, err := range damaged {
		to, aside := setSnapshotAside(s.dir, id)
		if aside != nil {
			return nil, aside
		}
		s.log.Error("a snapshot is damaged; it is set aside, and older data make up for it", "snapshot", id, "to", to, "error", err)
	}
	return good, nil
}

// openLog locks and checks the log and opens it.
func openLog(dir string, inspect bool) (_ *bbolt.DB, _ bounds, err error) {
	path := filepath.Join(dir, logFile)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, bounds{}, fmt.Errorf("open the raft log: %w", err)
	}
	defer func() {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	if err := lock(file); err != nil {
		return nil, bounds{}, err
	}
	raw, err := openBoltFile(file)
	if err != nil {
		return nil, bounds{}, err
	}
	c := &contents{}
	if err := raw.walk(c.visit); err != nil {
		return nil, bounds{}, err
	}
	if err := c.complete(raw.commit); err != nil {
		return nil, bounds{}, &Damage{File: path, Offset: -1, Index: c.log.last, Reason: err}
	}
	if !inspect {
		if err := raw.rewriteMeta(); err != nil {
			return nil, bounds{}, err
		}
	}
	db, err := bbolt.Open(path, 0o600, boltOptions(file))
	if err != nil {
		return nil, bounds{}, fmt.Errorf("open the raft log: %w", err)
	}
	file = nil // it is bbolt's
	if c.legacy {
		if c.log, err = upgrade(db, c.legacyFrom); err != nil {
			return nil, bounds{}, errors.Join(fmt.Errorf("upgrade the raft log: %w", err), db.Close())
		}
	}
	return db, c.log, nil
}

// lock takes the lock that bbolt takes too. It polls, as flock(2) has no time limit.
func lock(file *os.File) error {
	for deadline := time.Now().Add(lockTimeout); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK):
			return fmt.Errorf("lock the raft log: %w", err)
		case time.Now().After(deadline):
			return fmt.Errorf("open the raft log %s: %w", file.Name(), ErrLocked)
		}
	}
}

// contents is what a walk through the file finds.
type contents struct {
	log        bounds
	kept       *bounds
	commit     uint64 // the one that kept is of
	legacy     bool
	legacyFrom uint64 // the beginning of the last run of entries without a gap
	legacyLast uint64
}

// visit checks one key.
func (c *contents) visit(bucket string, key, value []byte) error {
	switch bucket {
	case bucketLog:
		if len(key) != 8 {
			return fmt.Errorf("an entry has the key %x", key)
		}
		index := binary.BigEndian.Uint64(key)
		if index == 0 || (c.log.last != 0 && index != c.log.last+1) {
			return fmt.Errorf("entry %d follows entry %d", index, c.log.last)
		}
		var l raft.Log
		if err := decodeEntry(index, value, &l); err != nil {
			return err
		}
		if l.Term < c.log.term {
			return fmt.Errorf("an entry of term %d follows one of term %d", l.Term, c.log.term)
		}
		if c.log.first == 0 {
			c.log.first = index
		}
		c.log.last, c.log.term = index, l.Term
	case bucketStable:
		body, err := open(key, value)
		if err != nil {
			return fmt.Errorf("stable value %q: %w", key, err)
		}
		if string(key) == string(boundsKey) {
			kept, commit, err := decodeBounds(body)
			if err != nil {
				return fmt.Errorf("stable value %q: %w", key, err)
			}
			c.kept, c.commit = &kept, commit
		}
	case legacyLogs:
		c.legacy = true
		if len(key) != 8 {
			return fmt.Errorf("an entry has the key %x", key)
		}
		index := binary.BigEndian.Uint64(key)
		if _, err := decodeLegacy(index, value); err != nil {
			return err
		}
		if c.legacyLast == 0 || index != c.legacyLast+1 {
			c.legacyFrom = index
		}
		c.legacyLast = index
	case legacyConf:
		c.legacy = true
	default:
		return fmt.Errorf("a bucket %q is not known here", bucket)
	}
	return nil
}

// complete compares what was found with what was there at the last commit.
func (c *contents) complete(commit uint64) error {
	switch {
	case c.legacy:
		return nil
	case c.kept == nil:
		return errors.New("it does not say what it held")
	case c.commit != commit:
		return fmt.Errorf("its content is of commit %d, and commit %d was the last", c.commit, commit)
	case *c.kept != c.log:
		return fmt.Errorf("it held entries %d to %d and has %d to %d", c.kept.first, c.kept.last, c.log.first, c.log.last)
	}
	return nil
}

func decodeLegacy(index uint64, value []byte) (*raft.Log, error) {
	l := new(raft.Log)
	if err := codec.NewDecoderBytes(value, &codec.MsgpackHandle{}).Decode(l); err != nil {
		return nil, fmt.Errorf("read an entry: %w", err)
	}
	if l.Index != index {
		return nil, fmt.Errorf("entry %d says that it is %d", index, l.Index)
	}
	return l, nil
}

// upgrade rewrites a file of raft-boltdb, in one transaction. Entries before a gap are dropped: a snapshot holds them.
func upgrade(db *bbolt.DB, from uint64) (held bounds, err error) {
	err = db.Update(func(tx *bbolt.Tx) error {
		if err := makeBuckets(tx); err != nil {
			return err
		}
		to := tx.Bucket([]byte(bucketLog))
		to.FillPercent = 0.95
		if logs := tx.Bucket([]byte(legacyLogs)); logs != nil {
			cursor := logs.Cursor()
			for k, v := cursor.Seek(indexKey(from)); k != nil; k, v = cursor.Next() {
				l, err := decodeLegacy(binary.BigEndian.Uint64(k), v)
				if err != nil {
					return err
				}
				if held.first == 0 {
					held.first = l.Index
				}
				held.last, held.term = l.Index, l.Term
				if err := to.Put(indexKey(l.Index), encodeEntry(l)); err != nil {
					return err
				}
			}
			if err := tx.DeleteBucket([]byte(legacyLogs)); err != nil {
				return err
			}
		}
		if conf := tx.Bucket([]byte(legacyConf)); conf != nil {
			stable := tx.Bucket([]byte(bucketStable))
			err := conf.ForEach(func(k, v []byte) error { return stable.Put(k, encodeStable(k, v)) })
			if err != nil {
				return err
			}
			if err := tx.DeleteBucket([]byte(legacyConf)); err != nil {
				return err
			}
		}
		return putBounds(tx, held)
	})
	return held, err
}
