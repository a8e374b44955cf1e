package consensus

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/storage"
	"github.com/kontiki/kontiki/internal/turn"
)

// simPlatter is the content of a simulated disk. Its parts are never changed in place, so that a copy of it is another disk.
type simPlatter struct {
	first     uint64      // index of the first entry
	entries   []*raft.Log // without a gap
	stable    [][2]string
	snapshots []*simSnapshot // newest first
}

type simSnapshot struct {
	meta raft.SnapshotMeta
	data []byte
}

// simDisk is a disk while one process has it open: a raftDisk. Written data is in the cache at once, and on the platter after a
// sync, which takes time; an operation returns after its sync. Killing the process keeps the cache, a loss of power only the
// platter. From then on the process that had the disk open cannot change it.
type simDisk struct {
	stallAfter time.Duration
	changed    func()
	lies       bool // a sync does nothing: for tests of the tests

	writer turn.Turn // a channel: virtual time passes while it is held

	mu       sync.Mutex
	rand     *rand.Rand
	cache    simPlatter
	platter  simPlatter
	unsynced int  // operations under way
	dead     bool // the process is no more
	gone     chan struct{}
	writing  chan struct{} // closed when an operation begins
	kept     chan struct{} // closed when a snapshot is durable
	stall    chan struct{} // not nil while the disk does not move; closed when it does again
	stalled  int           // operations that have waited for too long
	stalls   uint64
}

var (
	_ Disk               = (*simDisk)(nil)
	_ raft.SnapshotStore = simSnapshots{}
)

func newSimDisk(holds simPlatter, seed int64, stallAfter time.Duration, changed func()) *simDisk {
	return &simDisk{
		stallAfter: stallAfter, changed: changed, rand: rand.New(rand.NewSource(seed)), cache: holds, platter: holds,
		writer: make(turn.Turn, 1), gone: make(chan struct{}), writing: make(chan struct{}), kept: make(chan struct{}),
	}
}

var errSimDead = errors.New("the process that had this disk is no more")

// crash ends the process that has the disk open, and returns the disk's content, and whether anything unsynced is lost.
func (d *simDisk) crash(power bool) (holds simPlatter, lost bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = true
	close(d.gone)
	holds = d.cache
	if power || d.unsynced > 0 && d.rand.Intn(2) == 0 { // an operation under way happens or does not
		holds = d.platter
	}
	holds.entries = slices.Clip(holds.entries) // what the process goes on to write is not to be seen
	return holds, power && d.unsynced > 0
}

// hold blocks the disk; the returned function unblocks it.
func (d *simDisk) hold() (release func()) {
	stall := make(chan struct{})
	d.mu.Lock()
	d.stall = stall
	d.mu.Unlock()
	return func() {
		d.mu.Lock()
		d.stall = nil
		d.mu.Unlock()
		close(stall)
	}
}

// nextWrite is closed when an operation begins.
func (d *simDisk) nextWrite() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writing
}

// nextSnapshot is closed when a snapshot is durable.
func (d *simDisk) nextSnapshot() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kept
}

// commit writes and syncs. Log and stable values are in one file: the first error is that the process has ended.
func (d *simDisk) commit(write, sync func(*simPlatter)) error {
	d.mu.Lock()
	if d.dead {
		d.mu.Unlock()
		return errSimDead
	}
	write(&d.cache)
	d.unsynced++
	close(d.writing)
	d.writing = make(chan struct{})
	takes := time.Duration(100+d.rand.Intn(900)) * time.Microsecond
	stall := d.stall
	d.mu.Unlock()
	time.Sleep(takes)
	if stall != nil {
		d.wait(stall)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.unsynced--
	if d.dead {
		return errSimDead
	}
	sync(&d.platter)
	return nil
}

// wait waits while the disk is blocked.
func (d *simDisk) wait(stall <-chan struct{}) {
	timer := time.NewTimer(d.stallAfter)
	defer timer.Stop()
	select {
	case <-stall:
		return
	case <-d.gone:
		return
	case <-timer.C:
	}
	count := func(n int) {
		d.mu.Lock()
		d.stalled += n
		d.stalls += uint64(max(n, 0))
		d.mu.Unlock()
		d.changed()
	}
	count(1)
	select {
	case <-stall:
	case <-d.gone:
	}
	count(-1)
}

// logged writes to the file of the log.
func (d *simDisk) logged(write func(*simPlatter)) error {
	d.writer <- struct{}{}
	defer d.writer.Leave()
	return d.commit(write, func(p *simPlatter) {
		if !d.lies {
			p.first, p.entries, p.stable = d.cache.first, d.cache.entries, d.cache.stable
		}
	})
}

func (p *simPlatter) last() uint64 {
	if len(p.entries) == 0 {
		return 0
	}
	return p.first + uint64(len(p.entries)) - 1
}

func (d *simDisk) FirstIndex() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.cache.entries) == 0 {
		return 0, nil
	}
	return d.cache.first, nil
}

func (d *simDisk) LastIndex() (uint64, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cache.last(), nil
}

func (d *simDisk) GetLog(index uint64, into *raft.Log) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.cache.entries) == 0 || index < d.cache.first || index > d.cache.last() {
		return raft.ErrLogNotFound
	}
	*into = *d.cache.entries[index-d.cache.first]
	return nil
}

func (d *simDisk) StoreLog(l *raft.Log) error { return d.StoreLogs([]*raft.Log{l}) }

func (d *simDisk) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	return d.logged(func(p *simPlatter) {
		first := logs[0].Index
		switch {
		case len(p.entries) == 0, first > p.last()+1, first < p.first:
			p.first, p.entries = first, nil
		case first <= p.last():
			p.entries = slices.Clip(p.entries[:first-p.first])
		}
		for _, l := range logs {
			c := *l
			p.entries = append(p.entries, &c)
		}
	})
}

// DeleteRange truncates the log in the cache only: raft is about to store other entries there.
func (d *simDisk) DeleteRange(from, to uint64) error {
	d.writer <- struct{}{}
	d.mu.Lock()
	p := &d.cache
	last := p.last()
	end := !d.dead && len(p.entries) > 0 && from > p.first && to >= last
	if end && from <= last {
		p.entries = slices.Clip(p.entries[:from-p.first])
	}
	none := len(p.entries) == 0 || to < p.first || from > last
	d.mu.Unlock()
	d.writer.Leave()
	if end || none {
		return nil
	}
	return d.logged(func(p *simPlatter) {
		if to >= p.last() {
			p.first, p.entries = 0, nil
			return
		}
		p.entries = p.entries[to-p.first+1:]
		p.first = to + 1
	})
}

func (d *simDisk) Set(key, value []byte) error {
	err := d.logged(func(p *simPlatter) {
		stable := slices.DeleteFunc(slices.Clone(p.stable), func(kv [2]string) bool { return kv[0] == string(key) })
		p.stable = append(stable, [2]string{string(key), string(value)})
	})
	if errors.Is(err, errSimDead) {
		return nil // raft panics on an error; what it does from here on reaches nobody
	}
	return err
}

func (d *simDisk) Get(key []byte) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, kv := range d.cache.stable {
		if kv[0] == string(key) {
			return []byte(kv[1]), nil
		}
	}
	return nil, errors.New("not found") // the text that raft looks for
}

func (d *simDisk) SetUint64(key []byte, value uint64) error {
	return d.Set(key, fmt.Appendf(nil, "%d", value))
}

func (d *simDisk) GetUint64(key []byte) (uint64, error) {
	text, err := d.Get(key)
	if err != nil {
		return 0, err
	}
	var value uint64
	_, err = fmt.Sscan(string(text), &value)
	return value, err
}

func (d *simDisk) Snapshots() raft.SnapshotStore { return simSnapshots{d} }

func (d *simDisk) Health() storage.Health {
	d.mu.Lock()
	defer d.mu.Unlock()
	return storage.Health{Dir: "simulated", Stalled: d.stalled > 0, Stalls: d.stalls}
}

func (d *simDisk) Guard()       {}
func (d *simDisk) Release()     {}
func (d *simDisk) Close() error { return nil }

// simSnapshots are the snapshots on a disk.
type simSnapshots struct{ d *simDisk }

func (s simSnapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &simSink{d: s.d, meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d-%d", term, index, time.Now().UnixNano()), Index: index, Term: term,
		Configuration: configuration, ConfigurationIndex: configurationIndex,
	}}, nil
}

func (s simSnapshots) List() ([]*raft.SnapshotMeta, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	list := make([]*raft.SnapshotMeta, len(s.d.cache.snapshots))
	for i, snapshot := range s.d.cache.snapshots {
		meta := snapshot.meta
		list[i] = &meta
	}
	return list, nil
}

func (s simSnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.d.mu.Lock()
	defer s.d.mu.Unlock()
	for _, snapshot := range s.d.cache.snapshots {
		if snapshot.meta.ID == id {
			meta := snapshot.meta
			return &meta, io.NopCloser(bytes.NewReader(snapshot.data)), nil
		}
	}
	return nil, nil, fmt.Errorf("no snapshot %s", id)
}

type simSink struct {
	bytes.Buffer
	d    *simDisk
	meta raft.SnapshotMeta
}

func (s *simSink) ID() string    { return s.meta.ID }
func (s *simSink) Cancel() error { return nil }

// Close makes the snapshot durable: it does not exist before it is complete.
func (s *simSink) Close() error {
	s.meta.Size = int64(s.Len())
	snapshot := &simSnapshot{s.meta, s.Bytes()}
	return s.d.commit(func(*simPlatter) {}, func(p *simPlatter) {
		snapshots := append([]*simSnapshot{snapshot}, p.snapshots...)
		slices.SortStableFunc(snapshots, func(a, b *simSnapshot) int {
			if a.meta.Term != b.meta.Term {
				return int(b.meta.Term) - int(a.meta.Term)
			}
			return int(b.meta.Index) - int(a.meta.Index)
		})
		p.snapshots = snapshots[:min(len(snapshots), SnapshotsKept)]
		s.d.cache.snapshots = p.snapshots
		close(s.d.kept)
		s.d.kept = make(chan struct{})
	})
}
