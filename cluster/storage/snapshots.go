package storage

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/crc32c"
	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/failpoint"
)

// Layout: snapshots/TERM-INDEX-MS/{meta.json,state.bin}, as raft's own file store has it. Behind the JSON stands a line with
// its checksum, which raft's store would not read.
const (
	snapshotsDir     = "snapshots"
	damagedSnapshots = "snapshots.damaged"
	metaFile         = "meta.json"
	stateFile        = "state.bin"
	unfinished       = ".tmp"
	metaSum          = "crc32c:"
)

var crc64Table = crc64.MakeTable(crc64.ECMA)

// snapshotMeta is the JSON in meta.json.
type snapshotMeta struct {
	raft.SnapshotMeta
	CRC []byte // CRC-64/ECMA of state.bin
}

// snapshots is a raft.SnapshotStore that checks what it hands out, and never writes over what is good.
type snapshots struct {
	dir  string // that holds the directory of snapshots
	keep int
	log  *slog.Logger
	// lost is called when a snapshot was set aside while running: a new one is needed.
	lost func()

	mu      sync.Mutex
	trusted map[string]bool // checked at Open, and not opened since
	active  map[string]bool // being written

	size atomic.Int64 // of the newest good one, in bytes
}

var _ raft.SnapshotStore = (*snapshots)(nil)

func (s *snapshots) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir, snapshotsDir}, parts...)...)
}

// clean deletes what a crash or a failure left unfinished.
func (s *snapshots) clean() error {
	entries, err := os.ReadDir(s.path())
	if err != nil {
		return fmt.Errorf("look for unfinished snapshots: %w", err)
	}
	removed := false
	for _, e := range entries {
		s.mu.Lock()
		skip := !strings.HasSuffix(e.Name(), unfinished) || s.active[e.Name()]
		s.mu.Unlock()
		if skip {
			continue
		}
		if err := os.RemoveAll(s.path(e.Name())); err != nil {
			return fmt.Errorf("remove an unfinished snapshot: %w", err)
		}
		removed = true
		s.log.Info("removed an unfinished snapshot", "snapshot", e.Name())
	}
	if !removed {
		return nil
	}
	return durable.SyncDir(s.path())
}

// names are the finished snapshots, without order.
func (s *snapshots) names() ([]string, error) {
	entries, err := os.ReadDir(s.path())
	if err != nil {
		return nil, fmt.Errorf("list the snapshots: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasSuffix(e.Name(), unfinished) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// read reads and checks a snapshot's meta.json. Errors are a *Damage.
func (s *snapshots) read(id string) (*snapshotMeta, error) {
	file := s.path(id, metaFile)
	bad := func(err error) (*snapshotMeta, error) {
		return nil, &Damage{File: file, Offset: -1, Reason: err}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return bad(err)
	}
	text, sum, summed := bytes.Cut(data, []byte("\n"+metaSum))
	if summed && string(sum) != fmt.Sprintf("%08x", crc32c.Sum(text)) {
		return bad(errChecksum)
	}
	meta := new(snapshotMeta)
	if err := json.Unmarshal(text, meta); err != nil {
		return bad(err)
	}
	if meta.ID != id || !strings.HasPrefix(id, fmt.Sprintf("%d-%d-", meta.Term, meta.Index)) {
		return bad(fmt.Errorf("it is the snapshot %q at index %d in term %d", meta.ID, meta.Index, meta.Term))
	}
	if meta.Version < raft.SnapshotVersionMin || meta.Version > raft.SnapshotVersionMax {
		return bad(fmt.Errorf("version %d is not known here", meta.Version))
	}
	return meta, nil
}

// verify reads a whole snapshot and checks all of it. Errors are a *Damage.
func (s *snapshots) verify(id string) (*snapshotMeta, error) {
	meta, err := s.read(id)
	if err != nil {
		return nil, err
	}
	file := s.path(id, stateFile)
	bad := func(offset int64, err error) (*snapshotMeta, error) {
		return nil, &Damage{File: file, Offset: offset, Index: meta.Index, Reason: err}
	}
	f, err := os.Open(file)
	if err != nil {
		return bad(-1, err)
	}
	defer f.Close()
	sum := crc64.New(crc64Table)
	size := &counter{r: io.TeeReader(f, sum)}
	info, err := fsm.ReadSnapshot(size, nil)
	var place *fsm.SnapshotError
	switch {
	case errors.As(err, &place):
		return bad(place.Offset, place.Reason)
	case err != nil:
		return bad(-1, err)
	case size.n != meta.Size:
		return bad(size.n, fmt.Errorf("it has %d bytes instead of %d", size.n, meta.Size))
	case !bytes.Equal(sum.Sum(nil), meta.CRC):
		return bad(-1, errChecksum)
	case info.AppliedIndex > meta.Index:
		return bad(-1, fmt.Errorf("it holds the state at index %d", info.AppliedIndex))
	}
	s.mu.Lock()
	s.trusted[id] = true
	s.mu.Unlock()
	return meta, nil
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// all are the finished snapshots that say what they are, newest first, and what is wrong with the others.
func (s *snapshots) all() ([]*snapshotMeta, map[string]error, error) {
	names, err := s.names()
	if err != nil {
		return nil, nil, err
	}
	var metas []*snapshotMeta
	damaged := map[string]error{}
	for _, name := range names {
		if meta, err := s.read(name); err != nil {
			damaged[name] = err
		} else {
			metas = append(metas, meta)
		}
	}
	slices.SortFunc(metas, func(a, b *snapshotMeta) int {
		switch {
		case a.Term != b.Term:
			return -compare(a.Term, b.Term)
		case a.Index != b.Index:
			return -compare(a.Index, b.Index)
		}
		return -strings.Compare(a.ID, b.ID)
	})
	return metas, damaged, nil
}

func compare(a, b uint64) int {
	if a < b {
		return -1
	}
	return 1
}

// List implements raft.SnapshotStore.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	metas, damaged, err := s.all()
	if err != nil {
		return nil, err
	}
	for _, err := range damaged {
		s.log.Warn("a snapshot cannot be used", "error", err)
	}
	list := make([]*raft.SnapshotMeta, 0, s.keep)
	for _, meta := range metas[:min(len(metas), s.keep)] {
		list = append(list, &meta.SnapshotMeta)
	}
	return list, nil
}

// Open implements raft.SnapshotStore: the whole file is checked before anything of it is used. A damaged snapshot is set
// aside.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, err := s.read(id)
	if err == nil {
		s.mu.Lock()
		trusted := s.trusted[id]
		delete(s.trusted, id)
		s.mu.Unlock()
		if !trusted {
			err = s.compareSum(meta)
		}
	}
	if err != nil {
		if !errors.Is(err, ErrDamaged) {
			return nil, nil, err
		}
		to, aside := setSnapshotAside(s.dir, id)
		s.log.Error("a snapshot is damaged and was set aside", "snapshot", id, "to", to, "error", errors.Join(err, aside))
		s.lost()
		return nil, nil, err
	}
	f, err := os.Open(s.path(id, stateFile))
	if err != nil {
		return nil, nil, fmt.Errorf("open a snapshot: %w", err)
	}
	return &meta.SnapshotMeta, struct {
		io.Reader
		io.Closer
	}{bufio.NewReaderSize(f, 256<<10), f}, nil
}

func (s *snapshots) compareSum(meta *snapshotMeta) error {
	f, err := os.Open(s.path(meta.ID, stateFile))
	if err != nil {
		return &Damage{File: s.path(meta.ID, stateFile), Offset: -1, Index: meta.Index, Reason: err}
	}
	defer f.Close()
	sum := crc64.New(crc64Table)
	_, err = io.Copy(sum, f)
	if err == nil && !bytes.Equal(sum.Sum(nil), meta.CRC) {
		err = errChecksum
	}
	if err != nil {
		return &Damage{File: f.Name(), Offset: -1, Index: meta.Index, Reason: err}
	}
	return nil
}

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("snapshots of version %d are not known here", version)
	}
	if err := s.clean(); err != nil {
		return nil, err
	}
	id := fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixMilli())
	name := id + unfinished
	s.mu.Lock()
	s.active[name] = true
	s.mu.Unlock()
	k := &sink{store: s, name: name, sum: crc64.New(crc64Table), meta: snapshotMeta{SnapshotMeta: raft.SnapshotMeta{
		Version: version, ID: id, Index: index, Term: term, Configuration: configuration, ConfigurationIndex: configurationIndex,
	}}}
	err := os.Mkdir(s.path(name), 0o700)
	if err == nil {
		k.file, err = os.OpenFile(s.path(name, stateFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("begin a snapshot: %w", err), k.discard())
	}
	k.buffer = bufio.NewWriterSize(io.MultiWriter(k.file, k.sum), 256<<10)
	return k, nil
}

// reap deletes finished snapshots beyond those to keep.
func (s *snapshots) reap() error {
	metas, _, err := s.all()
	if err != nil {
		return err
	}
	for _, meta := range metas[min(len(metas), s.keep):] {
		if err := os.RemoveAll(s.path(meta.ID)); err != nil {
			return fmt.Errorf("remove an old snapshot: %w", err)
		}
	}
	return nil
}

// sink is a snapshot that is being written, for one goroutine.
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
