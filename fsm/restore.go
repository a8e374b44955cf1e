package fsm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kontiki/kontiki/internal/crc32c"
	"github.com/kontiki/kontiki/internal/kv"
)

// ErrBadSnapshot means that bytes are not a complete, undamaged snapshot. The error is a *SnapshotError.
var ErrBadSnapshot = errors.New("fsm: bad snapshot")

// SnapshotError says where a snapshot is damaged: the offset in bytes of the damaged record.
type SnapshotError struct {
	Offset int64
	Reason error
}

func (e *SnapshotError) Error() string {
	return fmt.Sprintf("%v: at byte %d: %v", ErrBadSnapshot, e.Offset, e.Reason)
}

// Unwrap returns the class and the reason (which may be an error of the reader).
func (e *SnapshotError) Unwrap() []error { return []error{ErrBadSnapshot, e.Reason} }

// Restore replaces the state by that of a snapshot. It reads the whole snapshot before it changes anything: after an error the
// store is unchanged. The new state, its revision and its applied index become visible at once, and all waiters are woken. The
// history is then empty at the restored revision, so watchers that were exactly there continue, and the others get kv.ErrCompacted.
func (s *Store) Restore(r io.Reader) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.edit++
	tree := loader{edit: s.edit}
	memory := newMemory(s.options.Remembered)
	info, err := readSnapshot(r, snapshotVisitor{
		forms:   s.forms,
		object:  func(v *kv.Version) error { tree.add(v); return nil },
		command: memory.restore,
	})
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	memory.forgotten = max(memory.forgotten, info.Forgotten)
	next := &state{root: tree.finish(), revision: info.Revision, applied: info.AppliedIndex}
	s.memory = memory
	s.remembered.Store(int64(memory.len()))
	s.history.reset(next.revision, func() { s.current.Store(next) })
	s.forms.Clear()
	s.indexes.replace(next.applied)
	return nil
}

func (m *memory) restore(o rememberedResult) error {
	if _, dup := m.byID[o.id]; dup {
		return fmt.Errorf("command %x appears twice", o.id)
	}
	m.remember(o)
	return nil
}

// ReadSnapshot reads a snapshot to its end, checks all of it, and returns the information in its header. If object is not nil, it
// is called for every object in order of key; an error from it ends the reading.
func ReadSnapshot(r io.Reader, object func(*kv.Version) error) (SnapshotInfo, error) {
	return readSnapshot(r, snapshotVisitor{object: object})
}

// snapshotVisitor has callbacks for a snapshot's records, which are called before the rest of the snapshot has been checked.
type snapshotVisitor struct {
	forms   *kv.FormCache
	header  func(SnapshotInfo) error
	object  func(*kv.Version) error
	command func(rememberedResult) error
}

type snapshotReader struct {
	r      *bufio.Reader
	offset int64  // of the record being read
	next   int64  // of the next record
	crc    uint32 // of all records before this one
	all    uint32 // of all records up to and including this one
	buf    []byte
}

func readSnapshot(r io.Reader, visit snapshotVisitor) (SnapshotInfo, error) {
	d := &snapshotReader{r: bufio.NewReaderSize(r, 256<<10)}
	info, err := d.readAll(visit)
	if err != nil {
		return info, &SnapshotError{Offset: d.offset, Reason: err}
	}
	return info, nil
}

func (d *snapshotReader) readAll(visit snapshotVisitor) (SnapshotInfo, error) {
	var info SnapshotInfo
	magic := make([]byte, len(snapshotMagic))
	if err := d.read(magic); err != nil {
		return info, err
	}
	if string(magic) != snapshotMagic {
		return info, errors.New("this is not a snapshot of Kontiki's state")
	}
	d.offset = d.next
	body, err := d.record(recordHeader)
	if err != nil {
		return info, err
	}
	if err := decodeHeader(&info, body); err != nil {
		return info, err
	}
	if visit.header != nil {
		if err := visit.header(info); err != nil {
			return info, err
		}
	}
	last := ""
	for range info.Objects {
		v, err := d.object(visit.forms, &info, last)
		if err != nil {
			return info, err
		}
		last = v.Key
		if visit.object != nil {
			if err := visit.object(v); err != nil {
				return info, err
			}
		}
	}
	if info.Forgotten > info.AppliedIndex {
		return info, fmt.Errorf("a forgotten command at index %d in a store at %d", info.Forgotten, info.AppliedIndex)
	}
	index := info.Forgotten
	for range info.Commands {
		body, err := d.record(recordCommand)
		if err != nil {
			return info, err
		}
		var o rememberedResult
		if err := decodeOutcome(&o, body, info.Revision); err != nil {
			return info, err
		}
		if o.index > info.AppliedIndex || o.index != 0 && o.index <= index {
			return info, fmt.Errorf("remembered command at index %d after %d in a store at %d", o.index, index, info.AppliedIndex)
		}
		index = max(index, o.index)
		if visit.command != nil {
			if err := visit.command(o); err != nil {
				return info, err
			}
		}
	}
	return info, d.footer()
}

func (d *snapshotReader) object(forms *kv.FormCache, info *SnapshotInfo, last string) (*kv.Version, error) {
	body, err := d.record(recordObject)
	if err != nil {
		return nil, err
	}
	v, err := decodeObject(forms, body)
	if err != nil {
		return nil, err
	}
	if v.Key <= last {
		return nil, fmt.Errorf("key %q comes after %q", clip(v.Key), clip(last))
	}
	if v.CreateRevision == 0 || v.CreateRevision > v.ModRevision || v.ModRevision > info.Revision {
		return nil, fmt.Errorf("key %q has revisions %d and %d in a store at %d", clip(v.Key), v.CreateRevision, v.ModRevision, info.Revision)
	}
	return v, nil
}

func (d *snapshotReader) footer() error {
	body, err := d.record(recordFooter)
	if err != nil {
		return err
	}
	var sum uint64
	err = fields(body, func(num protowire.Number, v uint64, _ []byte) error {
		if num != 1 {
			return errUnknownField
		}
		sum = v
		return nil
	}, 1<<1)
	if err != nil {
		return err
	}
	if sum != uint64(d.crc) {
		return errors.New("the snapshot's checksum does not match")
	}
	d.offset = d.next
	if _, err := d.r.ReadByte(); err == nil {
		return errors.New("there is data after the end")
	} else if err != io.EOF {
		return err
	}
	return nil
}

// record reads the next record and returns its message, in a buffer that the next call reuses.
func (d *snapshotReader) record(typ byte) ([]byte, error) {
	d.offset, d.crc = d.next, d.all
	var head [4]byte
	if err := d.read(head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > maxRecord {
		return nil, fmt.Errorf("record of %d bytes", n)
	}
	if size := int(n) + 4; cap(d.buf) < size {
		d.buf = make([]byte, max(size, 4096))
	}
	b := d.buf[:n+4]
	if err := d.read(b); err != nil {
		return nil, err
	}
	sum := crc32c.Update(crc32c.Sum(head[:]), b[:n])
	if sum != binary.LittleEndian.Uint32(b[n:]) {
		return nil, errors.New("checksum does not match")
	}
	if b[0] != typ {
		return nil, fmt.Errorf("record of type %d instead of type %d", b[0], typ)
	}
	return b[1:n], nil
}

func (d *snapshotReader) read(b []byte) error {
	n, err := io.ReadFull(d.r, b)
	d.next += int64(n)
	d.all = crc32c.Update(d.all, b[:n])
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func decodeHeader(info *SnapshotInfo, data []byte) error {
	var format uint64
	err := fields(data, func(num protowire.Number, v uint64, _ []byte) error {
		switch num {
		case 1:
			format = v
		case 2:
			info.Revision = v
		case 3:
			info.AppliedIndex = v
		case 4:
			info.Objects = v
		case 5:
			info.Commands = v
		case 6:
			info.Forgotten = v
		default:
			return errUnknownField
		}
		return nil
	}, 1<<1|1<<2|1<<3|1<<4|1<<5|1<<6)
	if err == nil && format != snapshotFormat {
		return fmt.Errorf("unknown format %d", format)
	}
	return err
}

func decodeObject(forms *kv.FormCache, data []byte) (*kv.Version, error) {
	var key string
	var value []byte
	var create, mod uint64
	err := fields(data, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case 1:
			key = string(b)
		case 2:
			create = v
		case 3:
			mod = v
		case 4:
			value = b
		default:
			return errUnknownField
		}
		return nil
	}, 1<<2|1<<3)
	if err != nil {
		return nil, err
	}
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if len(value) > 0 {
		value = append(make([]byte, 0, len(value)), value...)
	} else {
		value = nil
	}
	return forms.NewVersion(key, value, create, mod), nil
}

func decodeOutcome(o *rememberedResult, data []byte, revision uint64) error {
	var id, more, failure []byte
	var ops uint64
	err := fields(data, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case 1:
			id = b
		case 2:
			o.revision = v
		case 3:
			ops = v
		case 4:
			o.bits = v
		case 5:
			more = b
		case 6:
			failure = b
		case 7:
			o.index = v
		default:
			return errUnknownField
		}
		return nil
	}, 1<<2|1<<3|1<<4|1<<7)
	if err != nil {
		return err
	}
	if len(id) != len(o.id) || o.revision > revision || ops > math.MaxUint32 {
		return errors.New("remembered command is not valid")
	}
	copy(o.id[:], id)
	if failure != nil {
		if ops != 0 || o.bits != 0 || more != nil {
			return errors.New("remembered command both failed and applied")
		}
		o.failed = true
		return decodeFailure(o, failure)
	}
	words := 0
	if ops > 64 {
		words = int(ops-1) / 64
	}
	if len(more) != 8*words {
		return errors.New("remembered command is not valid")
	}
	o.ops = uint32(ops)
	changed := uint64(bits.OnesCount64(o.bits))
	if words > 0 {
		o.more = make([]uint64, words)
		for i := range o.more {
			o.more[i] = binary.LittleEndian.Uint64(more[8*i:])
			changed += uint64(bits.OnesCount64(o.more[i]))
		}
	}
	top := o.bits
	if words > 0 {
		top = o.more[words-1]
	}
	if used := int(ops) - 64*words; bits.Len64(top) > used || changed > o.revision {
		return errors.New("remembered command has more changes than operations")
	}
	return nil
}

func decodeFailure(o *rememberedResult, data []byte) error {
	var current, count uint64
	err := fields(data, func(num protowire.Number, v uint64, _ []byte) error {
		switch num {
		case 1:
			if v > math.MaxUint32 {
				return errMalformed
			}
			o.bits = v
		case 2:
			if v > uint64(kv.AtMost) {
				return errMalformed
			}
			o.cond = kv.Condition(v)
		case 3:
			current = v
		case 4:
			count = uint64(protowire.DecodeZigZag(v))
		default:
			return errUnknownField
		}
		return nil
	}, 1<<1|1<<2|1<<3|1<<4)
	switch {
	case count != 0:
		o.more = []uint64{current, count}
	case current != 0:
		o.more = []uint64{current}
	}
	return err
}
