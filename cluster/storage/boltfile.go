package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// boltFile reads the pages of a bbolt file without bbolt, and checks every length and pointer before it follows it. The format is
// bbolt's version 2, in the machine's byte order.
//
// The file is walked before bbolt opens it, for two reasons. bbolt treats an invalid page as a bug and panics, or trusts its
// lengths and pointers. And since the list of free pages is not in the file (NoFreelistSync saves writing it with every commit),
// bbolt looks for free pages when it opens the file: DB.freepages visits all pages (recursivelyCheckBucket) in its own goroutine,
// where such a panic cannot be recovered and ends the process.
type boltFile struct {
	file     *os.File
	size     int64
	pageSize int64
	root     uint64
	pages    uint64 // the high-water mark
	metaPage uint64 // the page of the newest meta
	commit   uint64 // the commit's number
	seen     map[uint64]bool
}

const (
	boltMagic      = 0xED0CDAED
	boltVersion    = 2
	boltMetaSize   = 64
	boltPageHead   = 16
	boltElement    = 16
	boltBranch     = 0x01
	boltLeaf       = 0x02
	boltMeta       = 0x04
	boltBucketLeaf = 0x01
	boltMaxDepth   = 32
)

var byteOrder = binary.NativeEndian

func (f *boltFile) damage(offset int64, format string, args ...any) error {
	return &Damage{File: f.file.Name(), Offset: offset, Reason: fmt.Errorf(format, args...)}
}

// openBoltFile checks the two meta pages and uses the newer one.
func openBoltFile(file *os.File) (*boltFile, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("look at the raft log: %w", err)
	}
	f := &boltFile{file: file, size: info.Size(), seen: map[uint64]bool{}}
	if f.size == 0 {
		return nil, f.damage(-1, "it is empty")
	}
	var txids [2]uint64
	for page := range int64(2) {
		at := page * f.pageSize
		head := make([]byte, boltPageHead+boltMetaSize)
		if _, err := file.ReadAt(head, at); err != nil {
			return nil, f.damage(at, "meta page %d cannot be read: %w", page, short(err))
		}
		m := head[boltPageHead:]
		sum := fnv.New64a()
		sum.Write(m[:boltMetaSize-8])
		// A meta page is smaller than a sector and each is always written whole, so it cannot be torn.
		if byteOrder.Uint32(m) != boltMagic || byteOrder.Uint64(m[56:]) != sum.Sum64() || byteOrder.Uint16(head[8:]) != boltMeta ||
			byteOrder.Uint64(head) != uint64(page) || byteOrder.Uint64(m[48:])%2 != uint64(page) {
			return nil, f.damage(at, "meta page %d is not valid", page)
		}
		if version := byteOrder.Uint32(m[4:]); version != boltVersion {
			return nil, fmt.Errorf("%s has version %d of bbolt's format, this program supports version %d", file.Name(), version, boltVersion)
		}
		if f.pageSize = int64(byteOrder.Uint32(m[8:])); f.pageSize < 512 || f.pageSize > 1<<20 {
			return nil, f.damage(at, "it has pages of %d bytes", f.pageSize)
		}
		if txids[page] = byteOrder.Uint64(m[48:]); page == 0 || txids[1] > txids[0] {
			f.metaPage, f.commit = uint64(page), txids[page]
			f.root, f.pages = byteOrder.Uint64(m[16:]), byteOrder.Uint64(m[40:])
		}
	}
	if txids[0]+1 != txids[1] && txids[1]+1 != txids[0] {
		return nil, f.damage(0, "the meta pages are of commits %d and %d, which do not follow each other", txids[0], txids[1])
	}
	if int64(f.pages) > f.size/f.pageSize {
		return nil, f.damage(f.size, "it is cut short: %d pages of %d bytes belong to it", f.pages, f.pageSize)
	}
	return f, nil
}

// rewriteMeta writes the newest meta page again, unchanged, and syncs it: after a failed sync, the kernel may return a page that
// the disk never got, and later writes must not depend on it.
func (f *boltFile) rewriteMeta() error {
	page := make([]byte, f.pageSize)
	at := int64(f.metaPage) * f.pageSize
	if _, err := f.file.ReadAt(page, at); err != nil {
		return f.damage(at, "meta page cannot be read: %w", short(err))
	}
	if _, err := f.file.WriteAt(page, at); err != nil {
		return fmt.Errorf("write the raft log: %w", err)
	}
	if err := f.file.Sync(); err != nil {
		return fmt.Errorf("sync the raft log: %w", err)
	}
	return nil
}

func short(err error) error {
	if errors.Is(err, io.EOF) {
		return errors.New("the file ends before that page")
	}
	return err
}

// visitor is called for every key of every top-level bucket, in order, with its value and the key's offset in the file. Slices are
// valid until it returns. An error that it returns is reported as damage at that offset.
type visitor func(bucket string, key, value []byte, at int64) error

// walk visits everything that the newest meta page refers to.
func (f *boltFile) walk(visit visitor) error {
	clear(f.seen)
	return f.page(f.root, 0, nil, func(flags uint32, key, value []byte, at int64) error {
		if flags&boltBucketLeaf == 0 {
			return f.damage(at, "a value where only buckets belong")
		}
		if len(value) < 16 {
			return f.damage(at, "bucket %q is cut short", key)
		}
		name := string(key)
		inBucket := func(flags uint32, key, value []byte, at int64) error {
			if flags&boltBucketLeaf != 0 {
				return f.damage(at, "a bucket within bucket %q", name)
			}
			if err := visit(name, key, value, at); err != nil {
				d := &Damage{File: f.file.Name(), Offset: at, Reason: err}
				if len(key) == 8 && name == bucketLogs {
					d.Index = binary.BigEndian.Uint64(key)
				}
				return d
			}
			return nil
		}
		if root := byteOrder.Uint64(value); root != 0 {
			return f.page(root, 0, nil, inBucket)
		}
		// A small bucket is stored inside its parent's value.
		inline := value[16:]
		if len(inline) < boltPageHead || byteOrder.Uint16(inline[8:]) != boltLeaf {
			return f.damage(at, "bucket %q is not valid", key)
		}
		return f.elements(inline, at, 0, nil, inBucket)
	})
}

type element func(flags uint32, key, value []byte, at int64) error

// page reads one page with its overflow pages, and the pages below it. The page's keys are at least low.
func (f *boltFile) page(id uint64, depth int, low []byte, visit element) error {
	at := int64(id) * f.pageSize
	if id < 2 || id >= f.pages {
		return f.damage(-1, "a pointer leads to page %d of %d", id, f.pages)
	}
	if depth > boltMaxDepth {
		return f.damage(at, "the tree is too deep")
	}
	head := make([]byte, boltPageHead)
	if _, err := f.file.ReadAt(head, at); err != nil {
		return f.damage(at, "page %d cannot be read: %w", id, short(err))
	}
	flags, overflow := byteOrder.Uint16(head[8:]), uint64(byteOrder.Uint32(head[12:]))
	if byteOrder.Uint64(head) != id || (flags != boltBranch && flags != boltLeaf) || id+overflow >= f.pages {
		return f.damage(at, "the head of page %d is not valid", id)
	}
	for i := id; i <= id+overflow; i++ {
		if f.seen[i] {
			return f.damage(at, "page %d is reached twice", i)
		}
		f.seen[i] = true
	}
	buf := make([]byte, int64(1+overflow)*f.pageSize)
	if _, err := f.file.ReadAt(buf, at); err != nil {
		return f.damage(at, "page %d cannot be read: %w", id, short(err))
	}
	return f.elements(buf, at, depth, low, visit)
}

// elements reads the elements of the page at an offset.
func (f *boltFile) elements(page []byte, at int64, depth int, low []byte, visit element) error {
	flags, count := byteOrder.Uint16(page[8:]), int(byteOrder.Uint16(page[10:]))
	if boltPageHead+count*boltElement > len(page) || (count == 0 && flags == boltBranch) {
		return f.damage(at, "a page says that it has %d elements", count)
	}
	last := low
	for i := range count {
		from := boltPageHead + i*boltElement
		e := page[from : from+boltElement]
		var kind uint32
		var pos, keySize, valueSize, child uint64
		if flags == boltBranch {
			pos, keySize, child = uint64(byteOrder.Uint32(e)), uint64(byteOrder.Uint32(e[4:])), byteOrder.Uint64(e[8:])
		} else {
			kind = byteOrder.Uint32(e)
			pos, keySize, valueSize = uint64(byteOrder.Uint32(e[4:])), uint64(byteOrder.Uint32(e[8:])), uint64(byteOrder.Uint32(e[12:]))
		}
		start := uint64(from) + pos
		if start+keySize+valueSize > uint64(len(page)) {
			return f.damage(at+int64(from), "an element reaches beyond its page")
		}
		key := page[start : start+keySize]
		if order := bytes.Compare(key, last); order < 0 || (order == 0 && i > 0) {
			return f.damage(at+int64(from), "a key is out of order")
		}
		last = key
		var err error
		if flags == boltBranch {
			err = f.page(child, depth+1, key, visit)
		} else {
			err = visit(kind, key, page[start+keySize:start+keySize+valueSize], at+int64(start))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
