package storage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/crc32c"
)

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
	text, sum, _ := bytes.Cut(data, []byte("\n"+metaSum))
	if string(sum) != fmt.Sprintf("%08x", crc32c.Sum(text)) {
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
		return bad(fmt.Errorf("unknown version %d", meta.Version))
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
		return bad(-1, fmt.Errorf("it contains the state at index %d", info.AppliedIndex))
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

// all returns the finished snapshots with a valid meta.json, newest first, and the errors of the others.
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

// choose verifies snapshots, newest first, until one is good, and checks that it reaches the log's first entry (first; 0 for an
// empty log). It returns nil if none is needed and there is none. It also returns the errors of damaged snapshots that are not
// needed.
func (s *snapshots) choose(first uint64) (good *snapshotMeta, damaged map[string]error, err error) {
	metas, damaged, err := s.all()
	if err != nil {
		return nil, nil, err
	}
	for _, meta := range metas {
		if _, err := s.verify(meta.ID); err != nil {
			damaged[meta.ID] = err
			continue
		}
		good = meta
		break
	}
	var worst error // of snapshots that are needed
	for id, err := range damaged {
		if good == nil || first != 0 && good.Index < first-1 || first == 0 && !good.follows(id) {
			worst = err
		}
	}
	switch {
	case first == 1, good != nil && good.Index+1 >= first && worst == nil:
	case worst != nil:
		return nil, nil, worst
	case first == 0: // nothing was ever stored
	case good == nil:
		return nil, nil, &Damage{File: s.path(), Offset: -1, Index: first - 1, Reason: fmt.Errorf("the log begins at index %d, but there is no snapshot", first)}
	default:
		return nil, nil, &Damage{File: s.path(), Offset: -1, Index: good.Index,
			Reason: fmt.Errorf("the log begins at index %d, but the newest snapshot ends at %d", first, good.Index)}
	}
	return good, damaged, nil
}

// follows says whether a snapshot is newer than another one, of which only the name may be known.
func (m *snapshotMeta) follows(id string) bool {
	var term, index uint64
	if n, _ := fmt.Sscanf(id, "%d-%d-", &term, &index); n < 2 {
		return false
	}
	return m.Term > term || m.Term == term && m.Index >= index
}

// setAside moves damaged snapshots that are not needed to a directory that raft does not read.
func (s *snapshots) setAside(damaged map[string]error) error {
	for id, err := range damaged {
		to, aside := setSnapshotAside(s.dir, id)
		if aside != nil {
			return aside
		}
		s.log.Error("a damaged snapshot was set aside; older data contain the same state", "snapshot", id, "to", to, "error", err)
	}
	return nil
}
