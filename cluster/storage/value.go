package storage

import (
	"encoding/binary"
	"fmt"

	"github.com/kontiki/kontiki/internal/crc32c"
)

// A stable value is stored after a header: a format byte, a checksum, and the number of stable values written so far. The checksum
// also covers the key, so a value under another's key is detected. The number reveals a value that is old because a later write was
// lost (see watermark).
const (
	valueFormat = 1
	valueHead   = 1 + crc32c.Size + 8
)

func sealValue(key, value []byte, writes uint64) []byte {
	b := make([]byte, 0, valueHead+len(value))
	b = append(b, valueFormat, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, writes)
	b = append(b, value...)
	binary.LittleEndian.PutUint32(b[1:], valueChecksum(key, b))
	return b
}

// openValue checks a stored value. The result aliases stored.
func openValue(key, stored []byte) (value []byte, writes uint64, err error) {
	switch {
	case len(stored) < valueHead:
		return nil, 0, errShort
	case binary.LittleEndian.Uint32(stored[1:]) != valueChecksum(key, stored):
		return nil, 0, errChecksum
	case stored[0] != valueFormat:
		return nil, 0, fmt.Errorf("the value has the unknown format %d", stored[0])
	}
	return stored[valueHead:], binary.LittleEndian.Uint64(stored[1+crc32c.Size:]), nil
}

func valueChecksum(key, b []byte) uint32 {
	sum := crc32c.Update(crc32c.Sum(key), b[:1])
	return crc32c.Update(sum, b[1+crc32c.Size:])
}
