package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/kontiki/kontiki/internal/crc32c"
	"github.com/kontiki/kontiki/internal/kv"
	storev1 "github.com/kontiki/kontiki/proto/kontiki/store/v1"
)

// FuzzCommand: whatever the log contains, decoding never panics; it accepts only what protobuf accepts, and the decoded command is
// the same after it is encoded again; and a store that applies it agrees with DecodeCommand.
func FuzzCommand(f *testing.F) {
	for _, c := range seedCommands() {
		f.Add(mustEncode(f, c))
	}
	f.Add([]byte{8, 1, 18, 16})
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := DecodeCommand(data)
		s := New(Options{})
		r, applyErr := s.Apply(1, data)
		if err != nil {
			if !errors.Is(err, ErrBadCommand) && !errors.Is(err, kv.ErrTooLarge) && !errors.Is(err, ErrNewerCommand) {
				t.Fatalf("an error of no class: %v", err)
			}
			if applyErr == nil || applyErr.Error() != err.Error() || s.View().Revision() != 0 {
				t.Fatalf("decoded with %v, applied with %+v, %v", err, r, applyErr)
			}
			return
		}
		if c.Restore != nil && c.Restore.From != "" {
			if r.Failed == nil && !errors.Is(applyErr, ErrBadCommand) {
				t.Fatalf("restored nothing with %+v, %v", r, applyErr)
			}
		} else if applyErr != nil || r.Failed == nil && len(r.Revisions) != len(c.Ops) {
			t.Fatalf("applied with %+v, %v", r, applyErr)
		}
		var m storev1.Command
		if err := proto.Unmarshal(data, &m); err != nil || !proto.Equal(&m, message(c)) {
			t.Fatalf("%v; protobuf reads %v, %v", c, &m, err)
		}
		again, err := DecodeCommand(mustEncode(t, c))
		if err != nil || !equalCommands(again, c) {
			t.Fatalf("%v came back as %v, %v", c, again, err)
		}
	})
}

// FuzzSnapshot: whatever a snapshot contains, restoring never panics; it restores all of it or changes nothing; and a snapshot of
// the restored state restores to the same state.
func FuzzSnapshot(f *testing.F) {
	small, _ := filled(f, 1, 6)
	f.Add(snapshotBytes(f, small))
	f.Add(snapshotBytes(f, New(Options{})))
	f.Add(craftSnapshot(&storev1.SnapshotHeader{Format: 1, Revision: 9, AppliedIndex: 3, Objects: 1},
		craft(recordObject, &storev1.SnapshotObject{Key: "/a", CreateRevision: 3, ModRevision: 5, Value: []byte("x")})))
	f.Add(craftSnapshot(&storev1.SnapshotHeader{Format: 1, Revision: 9, Commands: 1},
		craft(recordCommand, &storev1.SnapshotCommand{Id: make([]byte, 16), Revision: 9, Failure: &storev1.SnapshotFailure{Operation: 1}})))
	f.Add(craftSnapshot(&storev1.SnapshotHeader{Format: 1, Revision: 9, Commands: 1},
		craft(recordCommand, &storev1.SnapshotCommand{Id: make([]byte, 16), Revision: 9, Failure: &storev1.SnapshotFailure{Operation: 1, Condition: 4, Count: 3}})))
	f.Fuzz(func(t *testing.T, data []byte) {
		tryRestore(t, data)
		tryRestore(t, mend(data)) // get past the checksums
	})
}

func tryRestore(t *testing.T, data []byte) {
	s := New(Options{})
	if err := s.Restore(bytes.NewReader(data)); err != nil {
		var where *SnapshotError
		if !errors.As(err, &where) || where.Offset > int64(len(data)) || s.View().Revision() != 0 || s.View().Count("", "") != 0 {
			t.Fatalf("refused with %v, at revision %d", err, s.View().Revision())
		}
		return
	}
	once := snapshotBytes(t, s)
	if err := s.Restore(bytes.NewReader(once)); err != nil {
		t.Fatalf("written again: %v", err)
	}
	if !bytes.Equal(snapshotBytes(t, s), once) {
		t.Fatal("written a third time it differs")
	}
	checkTree(t, s.current.Load().root)
}

// mend corrects the checksums as far as records can be recognized.
func mend(data []byte) []byte {
	b := bytes.Clone(data)
	copy(b, snapshotMagic)
	for i := len(snapshotMagic); i+9 <= len(b); {
		n := int(le32(b[i:]))
		if n == 0 || n > len(b)-i-8 {
			break
		}
		if b[i+4] == recordFooter {
			return append(b[:i], craft(recordFooter, &storev1.SnapshotFooter{Checksum: uint64(checksum(b[:i]))})...)
		}
		putLE32(b[i+4+n:], checksum(b[i:i+4+n]))
		i += 8 + n
	}
	return b
}

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }

func putLE32(b []byte, v uint32) { binary.LittleEndian.PutUint32(b, v) }

func checksum(b []byte) uint32 { return crc32c.Sum(b) }
