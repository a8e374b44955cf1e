package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
)

// Set implements raft.StableStore. Raft panics on an error, so there is none while the store is open: a full disk is waited
// for, and after a failure it does not return.
func (s *Store) Set(key, value []byte) error {
	defer s.begin()()
	s.write.Lock()
	defer s.write.Unlock()
	for {
		err := s.commit(func(tx *bbolt.Tx) error {
			if err := tx.Bucket([]byte(bucketStable)).Put(key, encodeStable(key, value)); err != nil {
				return err
			}
			return putBounds(tx, s.held)
		})
		if err == nil {
			return nil
		}
		if !errors.Is(err, ErrFull) {
			return s.hang(err)
		}
		timer := time.NewTimer(setRetry)
		select {
		case <-timer.C:
		case <-s.closed:
			timer.Stop()
			return s.hang(err)
		}
	}
}

// Get implements raft.StableStore. Damage does not return (see Guard).
func (s *Store) Get(key []byte) ([]byte, error) {
	defer s.begin()()
	var answer []byte
	found := false
	s.mu.RLock()
	err := s.read(func(tx *bbolt.Tx) error {
		value := tx.Bucket([]byte(bucketStable)).Get(key)
		if found = value != nil; !found {
			return nil
		}
		body, err := open(key, value)
		if err != nil {
			return &Damage{File: s.path(), Offset: -1, Reason: fmt.Errorf("stable value %q: %w", key, err)}
		}
		answer = append([]byte{}, body...)
		return nil
	})
	s.mu.RUnlock()
	if err != nil {
		s.fail(err)
		return nil, s.hang(err)
	}
	if !found {
		return nil, errNoValue
	}
	return answer, nil
}

// SetUint64 and GetUint64 implement raft.StableStore.
func (s *Store) SetUint64(key []byte, value uint64) error { return s.Set(key, indexKey(value)) }

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
