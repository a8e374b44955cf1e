package fsm

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kontiki/kontiki/internal/crc32c"
	"github.com/kontiki/kontiki/internal/kv"
)

// The format of snapshots is described in proto/kontiki/store/v1/store.proto.
const (
	snapshotMagic  = "KONTIKI\n"
	snapshotFormat = 1

	recordHeader  = 1
	recordObject  = 2
	recordCommand = 3
	recordFooter  = 4

	// maxRecord limits what a reader allocates for a record, since the length that it reads may be damaged.
	maxRecord = kv.MaxCommandBytes + MaxKeyBytes + 64
)

// SnapshotInfo is the content of a snapshot's header.
type SnapshotInfo struct {
	Revision     uint64
	AppliedIndex uint64
	Objects      uint64
	Commands     uint64 // number of remembered commands, for idempotency
	Forgotten    uint64 // the raft index of the newest command that is no longer remembered; see kv.Command.Since
}

// Snapshot is the state at one moment. It is immutable, and pins the memory of the state while it is referenced.
type Snapshot struct {
	state  *state
	memory *memory
}

// Snapshot takes O(1) time. The snapshot may be written while the store continues to change.
func (s *Store) Snapshot() *Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Snapshot{state: s.current.Load(), memory: s.memory.freeze()}
}

// Info returns the content of the snapshot's header.
func (s *Snapshot) Info() SnapshotInfo {
	return SnapshotInfo{
		Revision: s.state.revision, AppliedIndex: s.state.applied,
		Objects: uint64(s.state.root.len()), Commands: uint64(s.memory.len()), Forgotten: s.memory.forgotten,
	}
}

// View returns the state that the snapshot contains.
func (s *Snapshot) View() kv.View { return s.state }

// WriteTo writes the snapshot to w. Equal logs give equal bytes, whatever the batches in which they were applied. Safe for
// concurrent use, and it may be called more than once.
func (s *Snapshot) WriteTo(w io.Writer) (int64, error) {
	e := newSnapshotWriter(w, s.Info())
	s.state.root.visit("", "", func(v *kv.Version) bool { return e.object(v) == nil })
	_ = s.memory.each(e.command)
	if err := e.finish(); err != nil {
		return e.offset, fmt.Errorf("write snapshot: %w", err)
	}
	return e.offset, nil
}

// snapshotWriter writes records. After the first error it writes nothing more.
type snapshotWriter struct {
	w      *bufio.Writer
	offset int64
	crc    uint32
	buf    []byte
	err    error
}

func newSnapshotWriter(w io.Writer, i SnapshotInfo) *snapshotWriter {
	e := &snapshotWriter{w: bufio.NewWriterSize(w, 256<<10)}
	e.write([]byte(snapshotMagic))
	b := e.begin(recordHeader)
	b = appendUint(b, 1, snapshotFormat)
	b = appendUint(b, 2, i.Revision)
	b = appendUint(b, 3, i.AppliedIndex)
	b = appendUint(b, 4, i.Objects)
	b = appendUint(b, 5, i.Commands)
	b = appendUint(b, 6, i.Forgotten)
	e.end(b, nil)
	return e
}

func (e *snapshotWriter) object(v *kv.Version) error {
	b := e.begin(recordObject)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, v.Key)
	b = appendUint(b, 2, v.CreateRevision)
	b = appendUint(b, 3, v.ModRevision)
	if len(v.Value) > 0 {
		b = protowire.AppendTag(b, 4, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(len(v.Value)))
	}
	return e.end(b, v.Value)
}

func (e *snapshotWriter) command(o *rememberedResult) error {
	b := e.begin(recordCommand)
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendBytes(b, o.id[:])
	b = appendUint(b, 2, o.revision)
	if o.failed {
		var f []byte
		f = appendUint(f, 1, o.bits)
		f = appendUint(f, 2, uint64(o.cond))
		if len(o.more) > 0 {
			f = appendUint(f, 3, o.more[0])
		}
		if len(o.more) > 1 {
			f = appendUint(f, 4, protowire.EncodeZigZag(int64(o.more[1])))
		}
		b = protowire.AppendTag(b, 6, protowire.BytesType)
		b = protowire.AppendBytes(b, f)
		return e.end(appendUint(b, 7, o.index), nil)
	}
	b = appendUint(b, 3, uint64(o.ops))
	b = appendUint(b, 4, o.bits)
	if len(o.more) > 0 {
		b = protowire.AppendTag(b, 5, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(8*len(o.more)))
		for _, m := range o.more {
			b = binary.LittleEndian.AppendUint64(b, m)
		}
	}
	return e.end(appendUint(b, 7, o.index), nil)
}

func (e *snapshotWriter) finish() error {
	crc := e.crc
	b := e.begin(recordFooter)
	if err := e.end(appendUint(b, 1, uint64(crc)), nil); err != nil {
		return err
	}
	return e.w.Flush()
}

// begin returns a buffer with space for the length, and the type.
func (e *snapshotWriter) begin(typ byte) []byte { return append(e.buf[:0], 0, 0, 0, 0, typ) }

// end writes the record whose body is b followed by tail.
func (e *snapshotWriter) end(b, tail []byte) error {
	binary.LittleEndian.PutUint32(b, uint32(len(b)-4+len(tail)))
	crc := crc32c.Update(crc32c.Sum(b), tail)
	e.write(b)
	e.write(tail)
	e.buf = binary.LittleEndian.AppendUint32(b[:0], crc)
	return e.write(e.buf)
}

func (e *snapshotWriter) write(b []byte) error {
	if e.err != nil {
		return e.err
	}
	n, err := e.w.Write(b)
	e.offset += int64(n)
	e.crc = crc32c.Update(e.crc, b)
	e.err = err
	return err
}
