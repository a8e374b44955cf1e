package agent

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/kontiki/kontiki/internal/crc32c"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// journal stores on disk what the node was assigned: a file of checksummed records. An incomplete record at the end, as a crash
// leaves it, is truncated. When the file has grown to twice its live content it is written again to a new file, which replaces it.
// It contains Secrets, so its mode allows only the owner to read it.
//
// Records are written in the background: those that arrived while the previous ones were synced are written and synced together.
// After a failed write the whole file is written again as soon as possible; until then it contains an older state, which the node
// can start from as well. Echoes (see echo) cause no write: the last one of each object is written with the next change, or after
// echoDelay.
//
// A record is one byte of kind, four of length (big endian), four of CRC-32C over kind and body, and the body.
type journal struct {
	path string
	// state returns everything that should be on disk, and calls taken with its version while nothing can be added to it.
	state func(taken func(version uint64)) *nodev1.Assignment

	mu      sync.Mutex
	queue   []*nodev1.Assignment
	queued  int // bytes in queue
	echoes  map[key]*nodev1.Object
	echoed  uint64      // the version after the echoes
	late    *time.Timer // fires if no change writes them before
	due     bool        // late has fired
	greeted bool        // welcome is not on disk yet
	whole   bool        // the file should be written again
	running bool        // drain is running
	closed  bool
	retry   *time.Timer
	failed  int             // number of failures in a row
	history string          // the history of the last change
	tail    uint64          // the version after the records on disk and in queue
	welcome *nodev1.Welcome // kept here for rewrites

	writing sync.Mutex // guards the fields below
	f       *os.File
	size    int64 // bytes written
	base    int64 // size after the last rewrite
}

const (
	recordWelcome    = 1
	recordAssignment = 2
	maxRecord        = 256 << 20
	minRewrite       = 1 << 20
	// maxQueued is how many bytes may wait for the disk. If there is more, writing the whole state is cheaper.
	maxQueued = 4 << 20
	// firstRetry is the pause after a failed write; it doubles up to longestRetry.
	firstRetry, longestRetry = time.Second, 32 * time.Second
	echoDelay                = 30 * time.Second
)

func openJournal(path string, state func(taken func(version uint64)) *nodev1.Assignment, welcome func(*nodev1.Welcome), assignment func(*nodev1.Assignment)) (*journal, error) {
	j := &journal{path: path, state: state, echoes: map[key]*nodev1.Object{}}
	os.Remove(path + ".tmp")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	good, err := j.replay(f, welcome, assignment)
	if err != nil {
		slog.Warn("the journal of assignments ends with an invalid record", "path", path, "good_bytes", good, "err", err)
		if err := f.Truncate(good); err != nil {
			f.Close()
			return nil, err
		}
	}
	if _, err := f.Seek(good, io.SeekStart); err != nil {
		f.Close()
		return nil, err
	}
	j.f, j.size, j.base = f, good, good
	return j, nil
}

// replay reads records until the end or the first invalid one, and returns the number of valid bytes.
func (j *journal) replay(f *os.File, welcome func(*nodev1.Welcome), assignment func(*nodev1.Assignment)) (good int64, err error) {
	r := bufio.NewReaderSize(f, 1<<20)
	for {
		var head [9]byte
		if _, err := io.ReadFull(r, head[:]); err == io.EOF {
			return good, nil
		} else if err != nil {
			return good, err
		}
		n := binary.BigEndian.Uint32(head[1:])
		if n > maxRecord {
			return good, fmt.Errorf("record of %d bytes", n)
		}
		body := make([]byte, n)
		if _, err := io.ReadFull(r, body); err != nil {
			return good, err
		}
		if sum(head[0], body) != binary.BigEndian.Uint32(head[5:]) {
			return good, errors.New("bad checksum")
		}
		switch head[0] {
		case recordWelcome:
			w := &nodev1.Welcome{}
			if err := proto.Unmarshal(body, w); err != nil {
				return good, err
			}
			j.welcome = w
			welcome(w)
		case recordAssignment:
			a := &nodev1.Assignment{}
			if err := proto.Unmarshal(body, a); err != nil {
				return good, err
			}
			assignment(a)
			j.tail = a.To
		}
		good += int64(len(head)) + int64(n)
	}
}

func sum(kind byte, body []byte) uint32 {
	return crc32c.Update(crc32c.Sum([]byte{kind}), body)
}

func record(kind byte, m proto.Message) ([]byte, error) {
	body, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 9+len(body))
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, sum(kind, body))
	return append(b, body...), nil
}

// append adds a change that leads to a version of a history. A change without effect is not written.
func (j *journal) append(version uint64, history string, c change) {
	if len(c.upserts)+len(c.deletes)+len(c.echoes) == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.whole {
		j.kick()
		return
	}
	for _, o := range c.echoes {
		j.echoes[keyOf(o.Key)] = o
	}
	j.history = history
	if len(c.echoes) > 0 {
		if j.echoed = version; j.late == nil && !j.closed {
			j.late = time.AfterFunc(echoDelay, func() {
				j.mu.Lock()
				defer j.mu.Unlock()
				j.due = true
				j.kick()
			})
		}
	}
	if len(c.upserts)+len(c.deletes) == 0 {
		return
	}
	for _, o := range c.upserts {
		delete(j.echoes, keyOf(o.Key))
	}
	for _, k := range c.deletes {
		delete(j.echoes, keyOf(k))
	}
	j.enqueue(&nodev1.Assignment{From: j.tail, To: version, Upserts: c.upserts, Deletes: c.deletes, History: history})
	j.kick()
}

// enqueue adds an assignment to the queue. The caller holds mu.
func (j *journal) enqueue(a *nodev1.Assignment) {
	j.queue, j.queued, j.tail = append(j.queue, a), j.queued+proto.Size(a), a.To
	if j.queued > maxQueued || a.From == 0 { // From 0 marks a full assignment
		j.replace()
	}
}

// rewrite schedules writing the file again from the state.
func (j *journal) rewrite() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.replace()
	j.kick()
}

// keepWelcome stores the masters' addresses and the cluster's settings.
func (j *journal) keepWelcome(w *nodev1.Welcome) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if proto.Equal(w, j.welcome) {
		return
	}
	j.welcome, j.greeted = w, true
	j.kick()
}

// replace discards the queue and schedules a rewrite. The caller holds mu.
func (j *journal) replace() {
	j.clear()
	j.whole = true
}

// clear discards the queue. The caller holds mu.
func (j *journal) clear() {
	j.queue, j.queued, j.due, j.greeted = nil, 0, false, false
	clear(j.echoes)
	if j.late != nil {
		j.late.Stop()
		j.late = nil
	}
}

// kick starts drain, unless it is running or waiting for a retry. The caller holds mu.
func (j *journal) kick() {
	if !j.running && !j.closed && j.retry == nil {
		j.running = true
		go j.drain()
	}
}

// drain writes until nothing is left to write.
func (j *journal) drain() {
	for {
		err := j.flush()
		j.mu.Lock()
		if err == nil && !j.closed && (j.whole || j.greeted || j.due || len(j.queue) > 0) {
			j.mu.Unlock()
			continue
		}
		j.running = false
		if err != nil && !j.closed {
			pause := min(firstRetry<<min(j.failed, 8), longestRetry)
			slog.Error("assignments could not be written to disk, retrying", "path", j.path, "err", err, "in", pause)
			j.failed++
			j.retry = time.AfterFunc(pause, func() {
				j.mu.Lock()
				defer j.mu.Unlock()
				j.retry = nil
				j.kick()
			})
		}
		j.mu.Unlock()
		return
	}
}

// flush writes and syncs what is queued.
func (j *journal) flush() error {
	j.writing.Lock()
	defer j.writing.Unlock()
	if j.f == nil {
		return nil // closed
	}
	j.mu.Lock()
	if len(j.echoes) > 0 && (j.due || j.closed || len(j.queue) > 0) && !j.whole {
		a := &nodev1.Assignment{From: j.tail, To: max(j.tail, j.echoed), Upserts: slices.Collect(maps.Values(j.echoes)), History: j.history}
		clear(j.echoes)
		j.enqueue(a)
	}
	whole, queue := j.whole, j.queue
	var welcome *nodev1.Welcome
	if j.greeted {
		welcome = j.welcome
	}
	if whole || len(queue) > 0 {
		j.clear() // the queue is in this slice now
	}
	j.due, j.greeted = false, false
	j.mu.Unlock()
	if !whole {
		err := j.write(welcome, queue)
		if err == nil && !j.long() {
			return nil
		}
		if err != nil {
			slog.Warn("writing to the journal of assignments failed; writing a new one", "path", j.path, "err", err)
		}
	}
	full := j.state(func(version uint64) {
		j.mu.Lock()
		defer j.mu.Unlock()
		j.clear()
		j.whole = false
		j.tail, welcome = version, j.welcome
	})
	err := j.writeAnew(welcome, full)
	j.mu.Lock()
	defer j.mu.Unlock()
	if err != nil {
		j.replace()
		return err
	}
	j.failed = 0
	return nil
}

// write appends records to the file.
func (j *journal) write(welcome *nodev1.Welcome, assignments []*nodev1.Assignment) error {
	b, err := records(welcome, assignments...)
	if err != nil || len(b) == 0 {
		return err
	}
	if _, err := j.f.Write(b); err != nil {
		// A partial record would hide the records after it.
		_ = j.f.Truncate(j.size)
		_, _ = j.f.Seek(j.size, io.SeekStart)
		return err
	}
	j.size += int64(len(b))
	return j.f.Sync()
}

func records(welcome *nodev1.Welcome, assignments ...*nodev1.Assignment) ([]byte, error) {
	var all []byte
	add := func(kind byte, m proto.Message) error {
		b, err := record(kind, m)
		all = append(all, b...)
		return err
	}
	if welcome != nil {
		if err := add(recordWelcome, welcome); err != nil {
			return nil, err
		}
	}
	for _, a := range assignments {
		if err := add(recordAssignment, a); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// long says whether most of the file is history.
func (j *journal) long() bool { return j.size > minRewrite && j.size > 2*j.base }

// writeAnew replaces the file by one with a single full assignment.
func (j *journal) writeAnew(welcome *nodev1.Welcome, full *nodev1.Assignment) error {
	b, err := records(welcome, full)
	if err != nil {
		return err
	}
	tmp := j.path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, j.path)
	}
	if err != nil {
		f.Close()
		os.Remove(tmp)
		return err
	}
	if d, err := os.Open(filepath.Dir(j.path)); err == nil {
		_ = d.Sync()
		d.Close()
	}
	j.f.Close()
	j.f, j.size, j.base = f, int64(len(b)), int64(len(b))
	return nil
}

// close writes what is queued, with one attempt, and closes the file.
func (j *journal) close() {
	j.mu.Lock()
	j.closed = true
	for _, t := range []*time.Timer{j.retry, j.late} {
		if t != nil {
			t.Stop()
		}
	}
	j.mu.Unlock()
	if err := j.flush(); err != nil {
		slog.Error("assignments could not be written to disk", "path", j.path, "err", err)
	}
	j.writing.Lock()
	defer j.writing.Unlock()
	if j.f == nil {
		return
	}
	if err := j.f.Close(); err != nil {
		slog.Warn("close assignments", "err", err)
	}
	j.f = nil
}
