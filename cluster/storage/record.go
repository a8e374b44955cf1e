package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"

	"github.com/kontiki/kontiki/internal/crc32c"
)

// A stored value is a format byte, a CRC32C, and the body. The checksum covers the key, the format and the body.
const (
	recordFormat = 1
	recordHead   = 1 + crc32c.Size
)

var (
	errChecksum = errors.New("the checksum does not match")
	errShort    = errors.New("the record is cut short")
)

func indexKey(index uint64) []byte { return binary.BigEndian.AppendUint64(nil, index) }

// begin leaves room for the head.
func begin(b []byte) []byte { return append(b, recordFormat, 0, 0, 0, 0) }

// seal fills in the head of a record that begins at b[0].
func seal(key, b []byte) []byte {
	binary.LittleEndian.PutUint32(b[1:], checksum(key, b))
	return b
}

func checksum(key, b []byte) uint32 {
	crc := crc32c.Update(0, key)
	crc = crc32c.Update(crc, b[:1])
	return crc32c.Update(crc, b[recordHead:])
}

// open checks a stored value and answers its body, which aliases the value.
func open(key, value []byte) ([]byte, error) {
	if len(value) < recordHead {
		return nil, errShort
	}
	if binary.LittleEndian.Uint32(value[1:]) != checksum(key, value) {
		return nil, errChecksum
	}
	if value[0] != recordFormat {
		return nil, fmt.Errorf("the record has format %d, which is not known here", value[0])
	}
	return value[recordHead:], nil
}

// encodeStable answers the stored form of a stable value.
func encodeStable(key, value []byte) []byte {
	return seal(key, append(begin(make([]byte, 0, recordHead+len(value))), value...))
}

// encodeEntry answers the stored form of a log entry.
func encodeEntry(l *raft.Log) []byte {
	b := make([]byte, 0, recordHead+3*binary.MaxVarintLen64+1+len(l.Extensions)+len(l.Data))
	b = begin(b)
	b = binary.AppendUvarint(b, l.Term)
	b = append(b, byte(l.Type))
	nanos := int64(0)
	if !l.AppendedAt.IsZero() {
		nanos = l.AppendedAt.UnixNano()
	}
	b = binary.AppendVarint(b, nanos)
	b = binary.AppendUvarint(b, uint64(len(l.Extensions)))
	b = append(b, l.Extensions...)
	b = append(b, l.Data...)
	return seal(indexKey(l.Index), b)
}

// decodeEntry checks and reads a stored entry. Nothing of it aliases the value.
func decodeEntry(index uint64, value []byte, l *raft.Log) error {
	b, err := open(indexKey(index), value)
	if err != nil {
		return err
	}
	term, n := binary.Uvarint(b)
	if n <= 0 || n >= len(b) {
		return errShort
	}
	kind := raft.LogType(b[n])
	b = b[n+1:]
	nanos, n := binary.Varint(b)
	if n <= 0 {
		return errShort
	}
	b = b[n:]
	extensions, n := binary.Uvarint(b)
	if n <= 0 || extensions > uint64(len(b)-n) {
		return errShort
	}
	b = append([]byte(nil), b[n:]...)
	*l = raft.Log{Index: index, Term: term, Type: kind, Data: b[extensions:]}
	if extensions > 0 {
		l.Extensions = b[:extensions:extensions]
	}
	if nanos != 0 {
		l.AppendedAt = time.Unix(0, nanos)
	}
	return nil
}

// bounds are what the log holds. Zero means an empty log.
type bounds struct{ first, last, term uint64 }

// boundsKey is the stable key that every commit writes the bounds under, with the commit's number: an end or a beginning of
// the log that is gone is noticed, and so is a page that a lost write left as an earlier commit had it.
var boundsKey = []byte("kontiki.bounds")

func putBounds(tx *bbolt.Tx, b bounds) error {
	body := binary.BigEndian.AppendUint64(nil, b.first)
	body = binary.BigEndian.AppendUint64(body, b.last)
	body = binary.BigEndian.AppendUint64(body, b.term)
	body = binary.BigEndian.AppendUint64(body, uint64(tx.ID()))
	return tx.Bucket([]byte(bucketStable)).Put(boundsKey, encodeStable(boundsKey, body))
}

func decodeBounds(body []byte) (b bounds, commit uint64, err error) {
	if len(body) != 32 {
		return bounds{}, 0, errShort
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(body[8*i:]) }
	return bounds{at(0), at(1), at(2)}, at(3), nil
}
