package fsm

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// The records of the log and of snapshots are protobuf messages (proto/kontiki/store/v1). They are encoded and decoded by hand,
// because the bytes must be the same on every replica whatever its protobuf library does, and values must not be copied.

var (
	errMalformed    = errors.New("malformed field")
	errUnknownField = errors.New("unknown field")
	errWireType     = errors.New("field of the wrong type")
)

// fields calls f for every field of a message: with v for the field numbers in the bit set varints, and with b (not nil, and
// sharing data's memory) for all others.
func fields(data []byte, f func(num protowire.Number, v uint64, b []byte) error, varints uint32) error {
	for len(data) > 0 {
		num, typ, n := protowire.ConsumeTag(data)
		if n < 0 {
			return errMalformed
		}
		data = data[n:]
		if num >= 32 {
			return errUnknownField
		}
		var v uint64
		var b []byte
		if varints&(1<<num) != 0 {
			if typ != protowire.VarintType {
				return errWireType
			}
			v, n = protowire.ConsumeVarint(data)
		} else {
			if typ != protowire.BytesType {
				return errWireType
			}
			b, n = protowire.ConsumeBytes(data)
			if b == nil {
				b = []byte{}
			}
		}
		if n < 0 {
			return errMalformed
		}
		data = data[n:]
		if err := f(num, v, b); err != nil {
			return err
		}
	}
	return nil
}
