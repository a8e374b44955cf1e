package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/crc32c"
	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/eintr"
	"github.com/kontiki/kontiki/internal/failpoint"
)

// watermark is what the log and the stable values held at some commit. They have held at least that ever since, so that a disk
// that lost the log's end, or a vote, is found out: what is on it is valid in itself, as it was some commits ago.
type watermark struct {
	last, term uint64 // the log's last entry; 0 for an empty log
	sum        uint32 // its checksum, and so that of the chain of entries that it ends
	writes     uint64 // how many stable values had been written
	// While a commit replaces the log's end by fewer entries, and until another one has deleted what is left of it: the last entry that
	// replaces it, and its checksum. 0 for none.
	cut    uint64
	cutSum uint32
}

// watermarkFile keeps a watermark in a file of its own: bbolt has none of our making in a commit of raft-boltdb's.
//
// It has two slots that are written in turn, in place and each within a sector, so that a crash leaves one of them valid and a
// full disk does not matter. A watermark is raised after the commit that it is of, by a goroutine: once the log is at rest, and every
// watermarkPause while it is not. No write waits for it; but a sync for each commit would hold up the commits of every master on the
// same disk, by a quarter of a lone write's time. What a commit takes away is taken from the watermark first, durably.
type watermarkFile struct {
	failed func(error) // is told that the disk has failed

	wake    chan struct{} // has room for one
	stopped chan struct{}
	ended   chan struct{}

	mu   sync.Mutex // of next
	next watermark

	writing  sync.Mutex // of the file, and of what it says
	file     *os.File
	sequence uint64
	says     watermark
	durable  bool // all that was written is
}

const (
	watermarkName   = "raft.watermark"
	watermarkFormat = 1
	watermarkSize   = 1 + 8 + 3*8 + 4 + 8 + 4 + crc32c.Size
	watermarkSlot   = 4096

	watermarkPause = 10 * time.Millisecond
)

func createWatermark(dir string) error {
	file := make([]byte, 2*watermarkSlot)
	copy(file[watermarkSlot:], watermark{}.encode(1))
	return durable.WriteFile(filepath.Join(dir, watermarkName), file, 0o600)
}

// openWatermark reads the file. Errors: fs.ErrNotExist, ErrDamaged.
func openWatermark(dir string, inspect bool) (_ *watermarkFile, err error) {
	flag := os.O_RDWR
	if inspect {
		flag = os.O_RDONLY
	}
	file, err := os.OpenFile(filepath.Join(dir, watermarkName), flag, 0)
	if err != nil {
		return nil, fmt.Errorf("open the raft log's watermark: %w", err)
	}
	w := &watermarkFile{file: file, wake: make(chan struct{}, 1), stopped: make(chan struct{}), ended: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	for slot := range int64(2) {
		b := make([]byte, watermarkSize)
		if _, err := file.ReadAt(b, slot*watermarkSlot); err != nil && !errors.Is(err, io.EOF) {
			return nil, &Damage{File: file.Name(), Offset: slot * watermarkSlot, Reason: err}
		}
		// One that is not valid was being written when the power went: the other one is the commit before.
		if says, sequence, ok := decodeWatermark(b); ok && sequence%2 == uint64(slot) && sequence > w.sequence {
			w.says, w.sequence = says, sequence
		}
	}
	if w.sequence == 0 {
		return nil, &Damage{File: file.Name(), Offset: 0, Reason: errors.New("neither of its records is valid")}
	}
	w.next = w.says
	return w, nil
}

func (m watermark) encode(sequence uint64) []byte {
	b := make([]byte, 0, watermarkSize)
	b = append(b, watermarkFormat)
	for _, n := range []uint64{sequence, m.last, m.term, m.writes, m.cut} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	b = binary.LittleEndian.AppendUint32(b, m.sum)
	b = binary.LittleEndian.AppendUint32(b, m.cutSum)
	return binary.LittleEndian.AppendUint32(b, crc32c.Sum(b))
}

func decodeWatermark(b []byte) (m watermark, sequence uint64, ok bool) {
	body := b[:watermarkSize-crc32c.Size]
	if b[0] != watermarkFormat || binary.LittleEndian.Uint32(b[len(body):]) != crc32c.Sum(body) {
		return watermark{}, 0, false
	}
	for i, n := range []*uint64{&sequence, &m.last, &m.term, &m.writes, &m.cut} {
		*n = binary.LittleEndian.Uint64(b[1+8*i:])
	}
	m.sum, m.cutSum = binary.LittleEndian.Uint32(b[41:]), binary.LittleEndian.Uint32(b[45:])
	return m, sequence, true
}

// start begins to write what raise is given.
func (w *watermarkFile) start(failed func(error)) {
	w.failed = failed
	go func() {
		defer close(w.ended)
		pause := time.NewTimer(0)
		defer pause.Stop()
		for {
			select {
			case <-w.wake:
			case <-w.stopped:
				return
			}
			pause.Reset(watermarkPause)
			select {
			case <-pause.C:
				w.flush()
			case <-w.stopped:
				return
			}
		}
	}()
}

// raise has a watermark written soon. It does not wait.
func (w *watermarkFile) raise(m watermark) {
	w.mu.Lock()
	w.next = m
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// lower replaces the watermark before something of what it is of goes. It is durable when lower returns nil. The other slot is written,
// too, which becomes durable with the next sync: the higher watermark must not come back with a slot that rots.
func (w *watermarkFile) lower(m watermark) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	w.next = m
	w.mu.Unlock()
	if err := w.write(m); err != nil {
		return err
	}
	return w.put(m)
}

// flush writes the newest watermark, if it is not written yet. One that finds no room is left for the next time: nothing waits
// for it.
func (w *watermarkFile) flush() {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.mu.Lock()
	next := w.next
	w.mu.Unlock()
	if next == w.says && w.durable {
		return
	}
	if err := w.write(next); err != nil && !isFull(err) {
		w.failed(err)
	}
}

// write writes a watermark durably. The caller holds writing.
func (w *watermarkFile) write(m watermark) error {
	failpoint.Hit("storage.watermark.before")
	if err := w.put(m); err != nil {
		return err
	}
	if err := eintr.Retry(func() error { return unix.Fdatasync(int(w.file.Fd())) }); err != nil {
		return fmt.Errorf("sync the raft log's watermark: %w", err)
	}
	w.durable = true
	failpoint.Hit("storage.watermark.after")
	return nil
}

// put writes into the older slot. The caller holds writing.
func (w *watermarkFile) put(m watermark) error {
	slot := int64((w.sequence + 1) % 2)
	if _, err := w.file.WriteAt(m.encode(w.sequence+1), slot*watermarkSlot); err != nil {
		return fmt.Errorf("write the raft log's watermark: %w", err)
	}
	w.sequence++
	w.says, w.durable = m, false
	return nil
}

// stop ends the goroutine, and lets the file say what it should.
func (w *watermarkFile) stop() {
	close(w.stopped)
	<-w.ended
	w.flush()
}
