package storage

import (
	"bufio"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/internal/durable"
)

// Layout: snapshots/TERM-INDEX-MS/{meta.json,state.bin}, like raft's own file store. After the JSON there is a line with its
// checksum, which raft's store would ignore.
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

// snapshots is a raft.SnapshotStore that checks snapshots before it returns them, and never overwrites a good one.
type snapshots struct {
	dir  string // the parent of the snapshots' directory
	keep int
	log  *slog.Logger
	// lost is called when a snapshot was set aside while running: a new one is needed.
	lost func()

	mu      sync.Mutex
	trusted map[string]bool // checked at Open, and not opened since
	active  map[string]bool // being written

	size atomic.Int64 // of the newest good snapshot, in bytes
}

var _ raft.SnapshotStore = (*snapshots)(nil)

func newSnapshots(dir string, o Options) *snapshots {
	return &snapshots{dir: dir, keep: o.Keep, log: o.Log, lost: o.SnapshotLost, trusted: map[string]bool{}, active: map[string]bool{}}
}

func (s *snapshots) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir, snapshotsDir}, parts...)...)
}

// clean deletes unfinished snapshots of a crash or a failure.
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

// names returns the finished snapshots, in no particular order.
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

// Open implements raft.SnapshotStore: the whole file is checked before any of it is used. A damaged snapshot is set aside.
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

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	if version != 1 {
		return nil, fmt.Errorf("unknown snapshot version %d", version)
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

// reap deletes the finished snapshots beyond those to keep.
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
