package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/internal/crc32c"
)

// Every entry is stored with a seal after its extensions (raft.Log.Extensions is meant for that): a format byte, the checksum in
// the seal of the entry before it, and the checksum of the entry itself. The checksum covers every field, so an entry at the wrong
// index is detected as well as a changed one. It also covers the previous checksum, so that entries form a chain: the last checksum
// authenticates all of the log, and an entry that was replaced does not match the one that follows it.
const (
	sealFormat = 1
	sealSize   = 1 + 2*crc32c.Size
)

var (
	errChecksum = errors.New("the checksum does not match")
	errShort    = errors.New("the record is truncated")
)

// seal returns copies of entries with their seals, and the checksum of the last one. The entries are not changed. previous is the
// checksum of the entry before the first one, 0 if the log begins with it.
func seal(entries []*raft.Log, previous uint32) (sealed []*raft.Log, last uint32) {
	sealed = make([]*raft.Log, len(entries))
	copies := make([]raft.Log, len(entries))
	size := 0
	for _, l := range entries {
		size += len(l.Extensions) + sealSize
	}
	extensions := make([]byte, 0, size)
	for i, l := range entries {
		begin := len(extensions)
		sum := entryChecksum(l, previous)
		extensions = append(append(extensions, l.Extensions...), sealFormat)
		extensions = binary.LittleEndian.AppendUint32(extensions, previous)
		extensions = binary.LittleEndian.AppendUint32(extensions, sum)
		copies[i] = *l
		copies[i].Extensions = extensions[begin:len(extensions):len(extensions)]
		sealed[i], previous = &copies[i], sum
	}
	return sealed, previous
}

// unseal checks an entry that was read, and removes its seal. It returns the checksums in the seal: of the previous entry, and of
// this one.
func unseal(index uint64, l *raft.Log) (previous, sum uint32, err error) {
	n := len(l.Extensions) - sealSize
	if n < 0 {
		return 0, 0, errShort
	}
	mark := l.Extensions[n:]
	if l.Extensions = l.Extensions[:n:n]; n == 0 {
		l.Extensions = nil
	}
	previous, sum = binary.LittleEndian.Uint32(mark[1:]), binary.LittleEndian.Uint32(mark[1+crc32c.Size:])
	switch {
	case mark[0] != sealFormat:
		return 0, 0, fmt.Errorf("its seal has the unknown format %d", mark[0])
	case l.Index != index:
		return 0, 0, fmt.Errorf("entry %d says that it is entry %d", index, l.Index)
	case entryChecksum(l, previous) != sum:
		return 0, 0, errChecksum
	}
	return previous, sum, nil
}

// entryChecksum covers all fields of an entry, and the previous entry's checksum.
func entryChecksum(l *raft.Log, previous uint32) uint32 {
	var head [38]byte
	head[0] = sealFormat
	binary.LittleEndian.PutUint64(head[1:], l.Index)
	binary.LittleEndian.PutUint64(head[9:], l.Term)
	head[17] = byte(l.Type)
	if !l.AppendedAt.IsZero() {
		binary.LittleEndian.PutUint64(head[18:], uint64(l.AppendedAt.UnixNano()))
	}
	binary.LittleEndian.PutUint64(head[26:], uint64(len(l.Extensions))) // the length of the extensions separates them from the data
	binary.LittleEndian.PutUint32(head[34:], previous)
	return crc32c.Update(crc32c.Update(crc32c.Sum(head[:]), l.Extensions), l.Data)
}
