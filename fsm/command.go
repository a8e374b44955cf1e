package fsm

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/kontiki/kontiki/internal/kv"
	storev1 "github.com/kontiki/kontiki/proto/kontiki/store/v1"
)

var (
	// ErrBadCommand means that bytes are not a valid command. Every replica refuses the same bytes.
	ErrBadCommand = errors.New("fsm: bad command")
	// ErrNewerCommand means that a command has a version that this program does not know. Other replicas may know it, so the store
	// stops applying entries (Store.Halted).
	ErrNewerCommand = errors.New("fsm: the command is of a newer version than this program knows")
	// ErrForgotten means that a command may have been applied before: the results of commands that were proposed since its Since
	// are no longer remembered. The command was not applied now. A proposer that knows that the command was never proposed before
	// may propose it again with a newer kv.Command.Since.
	ErrForgotten = errors.New("fsm: results of commands as old as this one are no longer remembered")
)

const (
	// CommandVersion is the newest version of the apply rules that this program knows. Every change of what a command means,
	// including a new field, needs a new version. EncodeCommand writes the lowest version that can express the command: 1; 2 for a
	// command with a Restore; 3 for one with a Since; 4 for one with an addition to a counter; 5 for one that rewrites a value.
	CommandVersion = 5
	// MaxKeyBytes limits the length of a key.
	MaxKeyBytes = 4096
)

// Field numbers of kontiki.store.v1.Command and Operation.
const (
	fieldVersion, fieldID, fieldOperations, fieldRestore, fieldSince = 1, 2, 3, 4, 5
	fieldFrom, fieldKeep, fieldRestoreRevision                       = 1, 2, 3
	fieldKind, fieldKey, fieldValue, fieldCondition, fieldOpRevision = 1, 2, 3, 4, 5
	fieldAdd, fieldMost                                              = 6, 7
)

// EncodeCommand returns the log entry for a command (the wire form of kontiki.store.v1.Command), in a new buffer. It returns the
// errors that DecodeCommand would: kv.ErrTooLarge, ErrBadCommand.
func EncodeCommand(c *kv.Command) ([]byte, error) {
	if err := checkCommand(c); err != nil {
		return nil, err
	}
	size := 48
	for i := range c.Ops {
		size += opSize(&c.Ops[i]) + 8
	}
	if size > kv.MaxCommandBytes+8*len(c.Ops)+32 {
		return nil, fmt.Errorf("%w: over %d bytes", kv.ErrTooLarge, kv.MaxCommandBytes)
	}
	b := make([]byte, 0, size)
	b = appendUint(b, fieldVersion, versionOf(c))
	b = protowire.AppendTag(b, fieldID, protowire.BytesType)
	b = protowire.AppendBytes(b, c.ID[:])
	for i := range c.Ops {
		op := &c.Ops[i]
		b = protowire.AppendTag(b, fieldOperations, protowire.BytesType)
		b = protowire.AppendVarint(b, uint64(opSize(op)))
		b = appendUint(b, fieldKind, uint64(opKind(op)))
		b = protowire.AppendTag(b, fieldKey, protowire.BytesType)
		b = protowire.AppendString(b, op.Key)
		if len(op.Value) > 0 {
			b = protowire.AppendTag(b, fieldValue, protowire.BytesType)
			b = protowire.AppendBytes(b, op.Value)
		}
		b = appendUint(b, fieldCondition, uint64(op.Cond))
		b = appendUint(b, fieldOpRevision, op.Revision)
		b = appendUint(b, fieldAdd, protowire.EncodeZigZag(op.Add))
		b = appendUint(b, fieldMost, protowire.EncodeZigZag(op.Most))
	}
	if r := c.Restore; r != nil {
		b = appendRestore(b, r)
	}
	b = appendUint(b, fieldSince, c.Since)
	if len(b) > kv.MaxCommandBytes {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", kv.ErrTooLarge, len(b), kv.MaxCommandBytes)
	}
	return b, nil
}

// versionOf returns the lowest version that can express the command.
func versionOf(c *kv.Command) uint64 {
	adds := false
	for i := range c.Ops {
		if c.Ops[i].Rewrite {
			return 5
		}
		adds = adds || c.Ops[i].Add != 0
	}
	switch {
	case adds:
		return 4
	case c.Since != 0:
		return 3
	case c.Restore != nil:
		return 2
	}
	return 1
}

func appendRestore(b []byte, r *kv.Restore) []byte {
	var body []byte
	if r.From != "" {
		body = protowire.AppendString(protowire.AppendTag(body, fieldFrom, protowire.BytesType), r.From)
	}
	if r.Keep != "" {
		body = protowire.AppendString(protowire.AppendTag(body, fieldKeep, protowire.BytesType), r.Keep)
	}
	body = appendUint(body, fieldRestoreRevision, r.Revision)
	return protowire.AppendBytes(protowire.AppendTag(b, fieldRestore, protowire.BytesType), body)
}

func opSize(op *kv.Op) int {
	n := sizeUint(uint64(opKind(op))) + 1 + protowire.SizeBytes(len(op.Key)) + sizeUint(uint64(op.Cond)) + sizeUint(op.Revision) +
		sizeUint(protowire.EncodeZigZag(op.Add)) + sizeUint(protowire.EncodeZigZag(op.Most))
	if len(op.Value) > 0 {
		n += 1 + protowire.SizeBytes(len(op.Value))
	}
	return n
}

func opKind(op *kv.Op) storev1.Operation_Kind {
	switch {
	case op.Check:
		return storev1.Operation_KIND_CHECK
	case op.Delete:
		return storev1.Operation_KIND_DELETE
	case op.Add != 0:
		return storev1.Operation_KIND_ADD
	case op.Rewrite:
		return storev1.Operation_KIND_REWRITE
	}
	return storev1.Operation_KIND_PUT
}

// appendUint appends a varint field with a number under 16, unless it is zero.
func appendUint(b []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func sizeUint(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

// DecodeCommand decodes a log entry and validates it. Errors: kv.ErrTooLarge, ErrBadCommand, ErrNewerCommand.
//
// A value that makes up most of the entry is not copied: it shares data's memory, which must not be changed afterwards. (Raft never
// changes it: a log entry is immutable from the moment it is proposed or received, and raft's log cache keeps the entry anyway, so
// sharing avoids a second copy.) Other values are copied, so that a small value with a long life does not pin the memory of a large
// entry. Keys are always copied.
func DecodeCommand(data []byte) (*kv.Command, error) {
	c := new(kv.Command)
	if err := decodeCommand(c, data, CommandVersion); err != nil {
		return nil, err
	}
	for i := range c.Ops {
		c.Ops[i].Value = keep(c.Ops[i].Value, len(data))
	}
	return c, nil
}

// keep returns a value that may be held for long: value itself if it is most of its entry, otherwise a copy.
func keep(value []byte, entry int) []byte {
	if len(value) == 0 {
		return nil
	}
	if len(value) >= entry/2 {
		return value[:len(value):len(value)]
	}
	return append(make([]byte, 0, len(value)), value...)
}

// decodeCommand is DecodeCommand for versions up to newest, with values that all share data's memory. It reuses c.Ops.
func decodeCommand(c *kv.Command, data []byte, newest uint64) error {
	if version := VersionOf(data); version > newest {
		return fmt.Errorf("%w: version %d, the newest known is %d", ErrNewerCommand, version, newest)
	}
	if len(data) > kv.MaxCommandBytes {
		return fmt.Errorf("%w: %d bytes, the limit is %d", kv.ErrTooLarge, len(data), kv.MaxCommandBytes)
	}
	c.Ops, c.Restore, c.Since = c.Ops[:0], nil, 0
	var version uint64
	var id []byte
	err := fields(data, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case fieldVersion:
			version = v
		case fieldID:
			id = b
		case fieldOperations:
			if b == nil {
				return errWireType
			}
			c.Ops = append(c.Ops, kv.Op{})
			return decodeOp(&c.Ops[len(c.Ops)-1], b)
		case fieldRestore:
			c.Restore = new(kv.Restore)
			return decodeRestore(c.Restore, b)
		case fieldSince:
			c.Since = v
		default:
			return errUnknownField
		}
		return nil
	}, 1<<fieldVersion|1<<fieldSince)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBadCommand, err)
	}
	if version != versionOf(c) {
		return fmt.Errorf("%w: version %d does not fit the content", ErrBadCommand, version)
	}
	if len(id) != len(c.ID) {
		return fmt.Errorf("%w: id of %d bytes", ErrBadCommand, len(id))
	}
	copy(c.ID[:], id)
	return checkCommand(c)
}

// VersionOf returns the version of an encoded command of any version, which is its first field. It returns 0 for bytes that are not
// a command.
func VersionOf(data []byte) uint64 {
	num, typ, n := protowire.ConsumeTag(data)
	if n < 0 || num != fieldVersion || typ != protowire.VarintType {
		return 0
	}
	version, n := protowire.ConsumeVarint(data[n:])
	if n < 0 {
		return 0
	}
	return version
}

func decodeRestore(r *kv.Restore, data []byte) error {
	return fields(data, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case fieldFrom:
			r.From = string(b)
		case fieldKeep:
			r.Keep = string(b)
		case fieldRestoreRevision:
			r.Revision = v
		default:
			return errUnknownField
		}
		return nil
	}, 1<<fieldRestoreRevision)
}

func decodeOp(op *kv.Op, data []byte) error {
	var kind, cond uint64
	err := fields(data, func(num protowire.Number, v uint64, b []byte) error {
		switch num {
		case fieldKind:
			kind = v
		case fieldKey:
			op.Key = string(b)
		case fieldValue:
			op.Value = b
		case fieldCondition:
			cond = v
		case fieldOpRevision:
			op.Revision = v
		case fieldAdd:
			op.Add = protowire.DecodeZigZag(v)
		case fieldMost:
			op.Most = protowire.DecodeZigZag(v)
		default:
			return errUnknownField
		}
		return nil
	}, 1<<fieldKind|1<<fieldCondition|1<<fieldOpRevision|1<<fieldAdd|1<<fieldMost)
	if err != nil {
		return err
	}
	switch kind {
	case uint64(storev1.Operation_KIND_PUT):
	case uint64(storev1.Operation_KIND_DELETE):
		op.Delete = true
	case uint64(storev1.Operation_KIND_CHECK):
		op.Check = true
	case uint64(storev1.Operation_KIND_ADD):
	case uint64(storev1.Operation_KIND_REWRITE):
		op.Rewrite = true
	default:
		return fmt.Errorf("unknown kind %d", kind)
	}
	if adds := kind == uint64(storev1.Operation_KIND_ADD); adds != (op.Add != 0) {
		return fmt.Errorf("kind %d with the addition %d", kind, op.Add)
	}
	if cond > uint64(kv.AtMost) {
		return fmt.Errorf("unknown condition %d", cond)
	}
	op.Cond = kv.Condition(cond)
	return nil
}

// checkCommand validates a decoded command.
func checkCommand(c *kv.Command) error {
	if c.ID == (kv.CommandID{}) {
		return fmt.Errorf("%w: it has no id", ErrBadCommand)
	}
	if err := checkRestore(c); err != nil {
		return fmt.Errorf("%w: restore: %w", ErrBadCommand, err)
	}
	var seen map[string]struct{}
	if len(c.Ops) > 8 {
		seen = make(map[string]struct{}, len(c.Ops))
	}
	for i := range c.Ops {
		op := &c.Ops[i]
		if err := checkKey(op.Key); err != nil {
			return fmt.Errorf("%w: operation %d: %w", ErrBadCommand, i, err)
		}
		switch {
		case op.Cond > kv.AtMost:
			return fmt.Errorf("%w: operation %d: unknown condition %d", ErrBadCommand, i, op.Cond)
		case op.Revision != 0 && op.Cond != kv.AtRevision:
			return fmt.Errorf("%w: operation %d: a revision without the condition that uses it", ErrBadCommand, i)
		case op.Most != 0 && op.Cond != kv.AtMost:
			return fmt.Errorf("%w: operation %d: a limit without the condition that uses it", ErrBadCommand, i)
		case op.Cond == kv.AtMost && op.Add == 0:
			return fmt.Errorf("%w: operation %d: a limit without an addition", ErrBadCommand, i)
		case op.Add != 0 && (op.Delete || op.Check || len(op.Value) > 0):
			return fmt.Errorf("%w: operation %d: an addition that is also something else", ErrBadCommand, i)
		case op.Rewrite && (op.Delete || op.Check || op.Add != 0 || op.Cond != kv.AtRevision):
			return fmt.Errorf("%w: operation %d: a rewrite without the revision of its key, or that is also something else", ErrBadCommand, i)
		case op.Delete && op.Check:
			return fmt.Errorf("%w: operation %d: both delete and check", ErrBadCommand, i)
		case (op.Delete || op.Check) && len(op.Value) > 0:
			return fmt.Errorf("%w: operation %d: a value without a put", ErrBadCommand, i)
		}
		if seen != nil {
			if _, dup := seen[op.Key]; dup {
				return fmt.Errorf("%w: operation %d: key %q appears twice", ErrBadCommand, i, op.Key)
			}
			seen[op.Key] = struct{}{}
			continue
		}
		for j := range i {
			if c.Ops[j].Key == op.Key {
				return fmt.Errorf("%w: operation %d: key %q appears twice", ErrBadCommand, i, op.Key)
			}
		}
	}
	return nil
}

// checkRestore validates a command's Restore. The command's operations may change only keys under the prefix that the restore
// keeps.
func checkRestore(c *kv.Command) error {
	r := c.Restore
	if r == nil {
		return nil
	}
	if r.From == "" {
		if r.Keep != "" {
			return errors.New("a prefix to keep, but nothing to restore")
		}
		return nil
	}
	for _, prefix := range []string{r.From, r.Keep} {
		if err := checkKey(prefix); err != nil {
			return err
		}
		if prefix[len(prefix)-1] != '/' {
			return fmt.Errorf("prefix %q does not end with a slash", clip(prefix))
		}
	}
	if !strings.HasPrefix(r.From, r.Keep) {
		return fmt.Errorf("the backup under %q is not among the keys to keep, %q", clip(r.From), clip(r.Keep))
	}
	for i := range c.Ops {
		if key := c.Ops[i].Key; !strings.HasPrefix(key, r.Keep) || strings.HasPrefix(key, r.From) {
			return fmt.Errorf("operation %d: key %q is not among the keys to keep, %q", i, clip(key), clip(r.Keep))
		}
	}
	return nil
}

func checkKey(key string) error {
	switch {
	case key == "" || key[0] != '/':
		return fmt.Errorf("key %q does not begin with a slash", clip(key))
	case len(key) > MaxKeyBytes:
		return fmt.Errorf("a key of %d bytes, the limit is %d", len(key), MaxKeyBytes)
	case !utf8.ValidString(key):
		return fmt.Errorf("key %q is not UTF-8", clip(key))
	}
	return nil
}

func clip(s string) string { return s[:min(len(s), 64)] }
