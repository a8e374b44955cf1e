package storage

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/kontiki/kontiki/internal/crc32c"
	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/failpoint"
)

// sink is a snapshot that is being written, by one goroutine.
type sink struct {
	store  *snapshots
	name   string
	meta   snapshotMeta
	file   *os.File
	buffer *bufio.Writer
	sum    hash.Hash64
	done   bool
}

func (k *sink) ID() string                  { return k.meta.ID }
func (k *sink) Write(p []byte) (int, error) { return k.buffer.Write(p) }

// Cancel implements raft.SnapshotSink.
func (k *sink) Cancel() error {
	if k.done {
		return nil
	}
	return errors.Join(k.file.Close(), k.discard())
}

func (k *sink) discard() error {
	k.done = true
	err := os.RemoveAll(k.store.path(k.name))
	k.store.mu.Lock()
	delete(k.store.active, k.name)
	k.store.mu.Unlock()
	return err
}

// Close makes the snapshot durable under its name: raft deletes log entries once it has returned.
func (k *sink) Close() error {
	if k.done {
		return nil
	}
	if err := k.finish(); err != nil {
		return errors.Join(fmt.Errorf("finish a snapshot: %w", err), k.discard())
	}
	k.done = true
	k.store.mu.Lock()
	delete(k.store.active, k.name)
	k.store.mu.Unlock()
	if err := k.store.reap(); err != nil {
		k.store.log.Warn("old snapshots stay", "error", err)
	}
	return nil
}

func (k *sink) finish() error {
	err := k.buffer.Flush()
	if err == nil {
		err = k.file.Sync()
	}
	if err == nil {
		k.meta.Size, err = k.file.Seek(0, io.SeekCurrent)
	}
	if err := errors.Join(err, k.file.Close()); err != nil {
		return err
	}
	k.meta.CRC = k.sum.Sum(nil)
	text, err := json.Marshal(&k.meta)
	if err != nil {
		return err
	}
	text = fmt.Appendf(text, "\n%s%08x", metaSum, crc32c.Sum(text))
	dir := k.store.path(k.name)
	if err := durable.WriteFile(filepath.Join(dir, metaFile), text, 0o600); err != nil { // syncs the names of both files
		return err
	}
	failpoint.Hit("storage.snapshot.written")
	if err := durable.Rename(dir, k.store.path(k.meta.ID)); err != nil {
		return err
	}
	k.store.size.Store(k.meta.Size)
	failpoint.Hit("storage.snapshot.finished")
	return nil
}
