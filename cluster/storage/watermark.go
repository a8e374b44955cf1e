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

	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/internal/crc32c"
	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/eintr"
	"github.com/kontiki/kontiki/internal/failpoint"
)

// watermark records what the log and the stable values contained after some commit. They must still contain at least that, so it
// reveals that a disk lost the log's end or a vote; what is on such a disk is valid in itself, as of some commits ago.
type watermark struct {
	last, term uint64 // the log's last entry; 0 for an empty log
	sum        uint32 // its checksum, which covers the chain of all entries before it
	writes     uint64 // how many stable values had been written
	// cut is set while a commit replaces the log's end by fewer entries, until another commit has deleted the rest: it is the last
	// entry that replaces the end, with its checksum. 0 means none.
	cut    uint64
	cutSum uint32
}

// watermarkFile keeps a watermark in a file of its own, because we cannot add to raft-boltdb's commits in bbolt.
//
// It has two slots that are written alternately, in place and each within a sector, so that a crash leaves one of them valid and a
// full disk does not matter. A watermark is raised after its commit, by a goroutine: when no more entries follow, and every
// watermarkPause while they do. No write waits for it; a sync for each commit would slow down the commits of every master on the
// same disk, by a quarter of a lone write's time. Before a commit removes something, the watermark is lowered, durably.
type watermarkFile struct {
	failed func(error) // reports that the disk has failed

	wake    chan struct{} // has capacity one
	stopped chan struct{}
	ended   chan struct{}

	mu   sync.Mutex // guards next
	next watermark

	writing  sync.Mutex // guards the file and the fields below
	file     *os.File
	sequence uint64
	says     watermark
	durable  bool // everything that was written is durable
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
		// An invalid slot was being written at a power loss: the other slot is the commit before.
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

// start starts the goroutine that writes the watermarks given to raise.
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

// raise lets the goroutine write a watermark soon. It does not block.
func (w *watermarkFile) raise(m watermark) {
	w.mu.Lock()
	w.next = m
	w.mu.Unlock()
	broadcast.Poke(w.wake)
}

// lower replaces the watermark before something that it covers is removed. It is durable when lower returns nil. The other slot is
// overwritten too, durably with the next sync: if one slot is damaged later, the higher watermark must not come back.
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

// flush writes the newest watermark, if it is not written yet. If there is no space it is written the next time, as nothing waits
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

// stop ends the goroutine, and writes the newest watermark.
func (w *watermarkFile) stop() {
	close(w.stopped)
	<-w.ended
	w.flush()
}
