package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// Set implements raft.StableStore. Raft panics on an error, so none is returned while the store is open: Set waits while the disk
// is full, and does not return after a failure.
func (s *Store) Set(key, value []byte) error {
	defer s.begin()()
	for {
		err := s.setOnce(key, value)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrFull) {
			return s.hang(err)
		}
		timer := time.NewTimer(roomPoll)
		select {
		case <-timer.C:
		case <-s.closed:
			timer.Stop()
			return s.hang(err)
		}
	}
}

func (s *Store) setOnce(key, value []byte) error {
	s.write.Lock()
	defer s.write.Unlock()
	sealed := sealValue(key, value, s.writes+1)
	err := s.valueRoom.try(func() error {
		return s.commit(func() error { return s.bolt.Set(key, sealed) })
	})
	if err == nil {
		s.writes++
		s.raise()
	}
	return err
}

// Get implements raft.StableStore. It does not return if it finds damage (see Guard).
func (s *Store) Get(key []byte) ([]byte, error) {
	defer s.begin()()
	var stored []byte
	err := faultless(func() (err error) {
		stored, err = s.bolt.Get(key)
		return err
	})
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return nil, err // raft compares the error's text
	}
	var value []byte
	if err == nil {
		if value, _, err = openValue(key, stored); err != nil {
			err = &Damage{File: s.path(), Offset: -1, Reason: fmt.Errorf("stable value %q: %w", key, err)}
		}
	}
	if err != nil {
		s.fail(err)
		return nil, s.hang(err)
	}
	return value, nil
}

// SetUint64 implements raft.StableStore.
func (s *Store) SetUint64(key []byte, value uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 implements raft.StableStore.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("stable value %q has %d bytes instead of 8", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}
