package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// The buckets of raft-boltdb.
const (
	bucketLogs   = "logs"
	bucketStable = "conf"
)

// bounds are the first and last entry of the log. Zero means an empty log.
type bounds struct {
	first, last, term uint64
	sum               uint32 // of the last entry
}

func (b bounds) holds(index uint64) bool { return b.last != 0 && index >= b.first && index <= b.last }

// contents are what was found in the log and the stable store by walking the file and reading all entries.
type contents struct {
	log    bounds
	writes uint64 // the highest count in a stable value
	// stored is the last entry in the file. Entries after log.last are the rest of a log end that was replaced, and are to be
	// deleted.
	stored uint64
}

// readContents reads and checks all of the log and the stable store. The file is locked, and bbolt must not have it open. It
// changes nothing. Errors are a *Damage.
func readContents(raw *boltFile, mark watermark) (*contents, error) {
	c := &contents{}
	var keys bounds
	err := raw.walk(func(bucket string, key, value []byte, _ int64) error {
		switch bucket {
		case bucketLogs:
			return keys.follow(key)
		case bucketStable:
			_, writes, err := openValue(key, value)
			if err != nil {
				return fmt.Errorf("stable value %q: %w", key, err)
			}
			c.writes = max(c.writes, writes)
			return nil
		}
		return fmt.Errorf("unknown bucket %q: another version of Kontiki wrote it", bucket)
	})
	if err != nil {
		return nil, err
	}
	if err := c.readEntries(raw, keys, mark); err != nil {
		return nil, err
	}
	if c.writes < mark.writes {
		return nil, &Damage{File: raw.file.Name(), Offset: -1,
			Reason: fmt.Errorf("the newest stable value is number %d, but number %d was stored", c.writes, mark.writes)}
	}
	return c, nil
}

// follow notes the key of an entry.
func (b *bounds) follow(key []byte) error {
	if len(key) != 8 {
		return fmt.Errorf("an entry has the key %x", key)
	}
	index := binary.BigEndian.Uint64(key)
	if index == 0 || (b.last != 0 && index != b.last+1) {
		return fmt.Errorf("entry %d follows entry %d", index, b.last)
	}
	if b.first == 0 {
		b.first = index
	}
	b.last = index
	return nil
}

// readEntries reads the entries as raft will, and checks them, their order, and that they agree with the watermark.
func (c *contents) readEntries(raw *boltFile, keys bounds, mark watermark) error {
	c.stored = keys.last
	if keys.last == 0 {
		return nil
	}
	bolt, err := openBolt(raw.file, true)
	if err != nil {
		return err
	}
	err = faultless(func() error {
		for index := keys.first; index <= keys.last; index++ {
			if err := c.readEntry(bolt, index, mark); errors.Is(err, errReplaced) {
				return nil
			} else if err != nil {
				return &Damage{File: raw.file.Name(), Offset: raw.place(index), Index: index, Reason: err}
			}
		}
		return nil
	})
	return errors.Join(err, bolt.Close())
}

// errReplaced means that an entry was replaced and is to be deleted, with all that follow.
var errReplaced = errors.New("the entry was replaced")

func (c *contents) readEntry(bolt *raftboltdb.BoltStore, index uint64, mark watermark) error {
	var l raft.Log
	if err := bolt.GetLog(index, &l); err != nil {
		return err
	}
	previous, sum, err := unseal(index, &l)
	switch {
	case err != nil:
		return err
	case c.log.last != 0 && previous != c.log.sum:
		if mark.cut == c.log.last && mark.cutSum == c.log.sum {
			return errReplaced
		}
		return fmt.Errorf("entry %d was not stored after the present entry %d", index, c.log.last)
	case l.Term < c.log.term:
		return fmt.Errorf("an entry of term %d follows one of term %d", l.Term, c.log.term)
	case index == mark.last && (l.Term != mark.term || sum != mark.sum):
		return fmt.Errorf("it is an older entry of that index, of term %d; one of term %d was stored", l.Term, mark.term)
	}
	if c.log.first == 0 {
		c.log.first = index
	}
	c.log.last, c.log.term, c.log.sum = index, l.Term, sum
	return nil
}

// reaches checks that log and snapshot contain everything that the watermark says. newest is nil if there is no snapshot.
func (c *contents) reaches(mark watermark, dir string, newest *snapshotMeta) error {
	if c.log.last >= mark.last || newest != nil && newest.Index >= mark.last {
		return nil
	}
	return &Damage{File: filepath.Join(dir, logFile), Offset: -1, Index: mark.last,
		Reason: fmt.Errorf("the log ends at index %d, but index %d was stored", c.log.last, mark.last)}
}

// place returns the offset of an entry in the file, or -1 if it is not found.
func (f *boltFile) place(index uint64) int64 {
	found := int64(-1)
	stop := errors.New("found")
	_ = f.walk(func(bucket string, key, _ []byte, at int64) error {
		if bucket == bucketLogs && len(key) == 8 && binary.BigEndian.Uint64(key) == index {
			found = at
			return stop
		}
		return nil
	})
	return found
}
