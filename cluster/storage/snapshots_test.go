package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
)

// state is a state machine that has applied commands up to an index.
func state(t testing.TB, index uint64) *fsm.Store {
	s := fsm.New(fsm.Options{})
	for i := uint64(1); i <= min(index, 20); i++ {
		data, err := fsm.EncodeCommand(&kv.Command{ID: kv.CommandID{byte(i), 1}, Ops: []kv.Op{{Key: fmt.Sprintf("/t/a/b/%d", i), Value: bytes.Repeat([]byte("v"), 100)}}})
		check(t, err)
		_, err = s.Apply(index-min(index, 20)+i, data)
		check(t, err)
	}
	return s
}

// writeSnapshot writes a snapshot through the store.
func writeSnapshot(t testing.TB, dir string, index, term uint64) string {
	s := newSnapshots(dir, Options{Keep: 2, Log: quiet})
	check(t, os.MkdirAll(s.path(), 0o700))
	k, err := s.Create(1, index, term, raft.Configuration{Servers: []raft.Server{{ID: "master-1", Address: "a:1"}}}, 1, nil)
	check(t, err)
	_, err = state(t, index).Snapshot().WriteTo(k)
	check(t, err)
	check(t, k.Close())
	return k.ID()
}

// withSnapshots is a directory whose log begins behind the older of two snapshots, or behind the newer one.
func withSnapshots(t *testing.T, first uint64) (dir, older, newer string) {
	dir = t.TempDir()
	s := mustOpen(t, dir)
	check(t, s.StoreLogs(entries(1, 300, 1)))
	older, newer = writeSnapshot(t, dir, 100, 1), writeSnapshot(t, dir, 200, 1)
	check(t, s.DeleteRange(1, first-1))
	check(t, s.Close())
	return dir, older, newer
}

func TestASnapshotIsReadAsItWasWritten(t *testing.T) {
	dir, older, newer := withSnapshots(t, 101)
	s := mustOpen(t, dir)
	list, err := s.Snapshots().List()
	check(t, err)
	if len(list) != 2 || list[0].ID != newer || list[1].ID != older || list[0].Index != 200 || len(list[0].Configuration.Servers) != 1 {
		t.Fatalf("the snapshots are %+v", list)
	}
	for range 2 { // the first time as Open has checked it, then checked again
		_, r, err := s.Snapshots().Open(newer)
		check(t, err)
		restored := fsm.New(fsm.Options{})
		check(t, restored.Restore(r))
		check(t, r.Close())
		if restored.AppliedIndex() != 200 || restored.View().Count("", "") != 20 {
			t.Errorf("restored %d keys at index %d", restored.View().Count("", ""), restored.AppliedIndex())
		}
	}
}

func TestOldSnapshotsAreDeleted(t *testing.T) {
	dir := t.TempDir()
	for i := uint64(1); i <= 5; i++ {
		writeSnapshot(t, dir, i*10, 1)
	}
	s := &snapshots{dir: dir, keep: 2, log: quiet}
	if names, err := s.names(); err != nil || len(names) != 2 {
		t.Errorf("%v are kept, %v", names, err)
	}
}

// flips damages a file at some of its bytes in turn, and puts it back.
func flips(t *testing.T, path string, step int, try func(at int)) {
	good, err := os.ReadFile(path)
	check(t, err)
	for at := 0; at < len(good); at += step {
		bad := bytes.Clone(good)
		bad[at] ^= 0x10
		check(t, os.MkdirAll(filepath.Dir(path), 0o700))
		check(t, os.WriteFile(path, bad, 0o600))
		try(at)
	}
	check(t, os.MkdirAll(filepath.Dir(path), 0o700))
	check(t, os.WriteFile(path, good, 0o600))
}

func TestADamagedSnapshotIsSetAsideWhereTheLogMakesUpForIt(t *testing.T) {
	for _, file := range []string{metaFile, stateFile} {
		dir, older, newer := withSnapshots(t, 101)
		n := 0
		flips(t, filepath.Join(dir, snapshotsDir, newer, file), 97, func(at int) {
			other := filepath.Join(dir, snapshotsDir, newer)
			for _, f := range []string{metaFile, stateFile} { // the other file was moved with it
				if _, err := os.Stat(filepath.Join(other, f)); err != nil && f != file {
					data, err := os.ReadFile(filepath.Join(dir, damagedSnapshots, newer, f))
					check(t, err)
					check(t, os.WriteFile(filepath.Join(other, f), data, 0o600))
				}
			}
			s := mustOpen(t, dir)
			list, err := s.Snapshots().List()
			check(t, err)
			if len(list) != 1 || list[0].ID != older {
				t.Fatalf("%s damaged at byte %d: the snapshots are %+v", file, at, list)
			}
			check(t, s.Close())
			n++
		})
		aside, err := os.ReadDir(filepath.Join(dir, damagedSnapshots))
		check(t, err)
		if n == 0 || len(aside) != n {
			t.Errorf("%d damaged snapshots were tried, %d are set aside", n, len(aside))
		}
	}
}

func TestADamagedSnapshotThatNothingMakesUpForIsDamage(t *testing.T) {
	for _, file := range []string{metaFile, stateFile} {
		dir, _, newer := withSnapshots(t, 150)
		path := filepath.Join(dir, snapshotsDir, newer, file)
		flips(t, path, 53, func(at int) {
			_, err := Open(dir, Options{Keep: 2, Log: quiet})
			var d *Damage
			if !errors.As(err, &d) || d.File != path {
				t.Fatalf("%s damaged at byte %d: %v", file, at, err)
			}
		})
		check(t, mustOpen(t, dir).Close())
		good, err := os.ReadFile(path)
		check(t, err)
		for _, size := range []int{0, 1, len(good) / 2, len(good) - 1} {
			check(t, os.Truncate(path, int64(size)))
			if _, err := Open(dir, Options{Keep: 2, Log: quiet}); !errors.Is(err, ErrDamaged) {
				t.Fatalf("%s cut to %d bytes: %v", file, size, err)
			}
			check(t, os.WriteFile(path, good, 0o600))
		}
	}
}

func TestAGapBetweenSnapshotAndLogIsDamage(t *testing.T) {
	dir, older, newer := withSnapshots(t, 150)
	check(t, os.RemoveAll(filepath.Join(dir, snapshotsDir, newer)))
	_, err := Open(dir, Options{Log: quiet})
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "the log begins at index 150, but the newest snapshot ends at 100") {
		t.Errorf("the newest snapshot is gone: %v", err)
	}
	check(t, os.RemoveAll(filepath.Join(dir, snapshotsDir, older)))
	_, err = Open(dir, Options{Log: quiet})
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "there is no snapshot") {
		t.Errorf("all snapshots are gone: %v", err)
	}
	check(t, os.Remove(filepath.Join(dir, logFile)))
	writeSnapshot(t, dir, 400, 1)
	if _, err = Open(dir, Options{Log: quiet}); !errors.Is(err, ErrDamaged) {
		t.Errorf("the log is gone: %v", err)
	}
}

// A crash after a snapshot was installed and before the log was emptied leaves a log that ends before the snapshot.
func TestALogThatEndsBeforeItsSnapshotIsEmptied(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	check(t, s.StoreLogs(entries(1, 50, 1)))
	writeSnapshot(t, dir, 500, 2)
	check(t, s.Close())
	s = mustOpen(t, dir)
	if last, _ := s.LastIndex(); last != 0 {
		t.Errorf("the log ends at %d", last)
	}
	check(t, s.StoreLogs(entries(501, 510, 2)))
	check(t, s.Close())
	if first, _ := mustOpen(t, dir).FirstIndex(); first != 501 {
		t.Errorf("the log begins at %d", first)
	}
}

func TestUnfinishedSnapshotsAreDeleted(t *testing.T) {
	dir, _, newer := withSnapshots(t, 150)
	torn := filepath.Join(dir, snapshotsDir, "2-990-1700000000000"+unfinished)
	check(t, os.Mkdir(torn, 0o700))
	check(t, os.WriteFile(filepath.Join(torn, stateFile), []byte("half"), 0o600))
	s := mustOpen(t, dir)
	if _, err := os.Stat(torn); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished snapshot is still there: %v", err)
	}
	// One that is being written is left alone while another begins, and goes when it is cancelled.
	one, err := s.Snapshots().Create(1, 210, 2, raft.Configuration{}, 1, nil)
	check(t, err)
	two, err := s.Snapshots().Create(1, 220, 2, raft.Configuration{}, 1, nil)
	check(t, err)
	_, err = io.WriteString(one, "x")
	check(t, err)
	check(t, one.Cancel())
	check(t, two.Cancel())
	if names, err := os.ReadDir(filepath.Join(dir, snapshotsDir)); err != nil || len(names) != 2 {
		t.Errorf("left are %v, %v", names, err)
	}
	if _, _, err := s.Snapshots().Open(newer); err != nil {
		t.Error(err)
	}
}

func TestASnapshotThatRotsWhileRunningIsSetAside(t *testing.T) {
	dir, _, newer := withSnapshots(t, 101)
	lost := 0
	s, err := Open(dir, Options{Keep: 2, Log: quiet, SnapshotLost: func() { lost++ }})
	check(t, err)
	defer s.Close()
	_, r, err := s.Snapshots().Open(newer)
	check(t, err)
	check(t, r.Close())
	path := filepath.Join(dir, snapshotsDir, newer, stateFile)
	data, err := os.ReadFile(path)
	check(t, err)
	data[len(data)/2] ^= 1
	check(t, os.WriteFile(path, data, 0o600))
	if _, _, err := s.Snapshots().Open(newer); !errors.Is(err, ErrDamaged) || lost != 1 {
		t.Errorf("opened a damaged snapshot: %v; asked for a new one %d times", err, lost)
	}
	if list, err := s.Snapshots().List(); err != nil || len(list) != 1 {
		t.Errorf("left are %v, %v", list, err)
	}
}

func TestSetAsideDeletesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	check(t, os.MkdirAll(dir, 0o700))
	check(t, os.WriteFile(filepath.Join(dir, "raft.db"), []byte("x"), 0o600))
	to, err := SetAside(dir, time.Unix(1700000000, 0))
	check(t, err)
	if filepath.Base(to) != "raft.damaged-20231114T221320.000Z" {
		t.Errorf("set aside as %s", to)
	}
	if data, err := os.ReadFile(filepath.Join(to, "raft.db")); err != nil || string(data) != "x" {
		t.Errorf("what was set aside holds %q, %v", data, err)
	}
	if to, err := SetAside(dir, time.Now()); to != "" || err != nil {
		t.Errorf("nothing there: %q, %v", to, err)
	}
}

// Where the log is empty, an older snapshot does not make up for the newest one: what lies between them is nowhere else.
func TestAnOlderSnapshotDoesNotMakeUpForAnEmptyLog(t *testing.T) {
	for _, file := range []string{metaFile, stateFile} {
		dir, _, newer := withSnapshots(t, 201)
		s := mustOpen(t, dir)
		check(t, s.DeleteRange(201, 300)) // as at an install
		check(t, s.Close())
		check(t, mustOpen(t, dir).Close())
		path := filepath.Join(dir, snapshotsDir, newer, file)
		good, err := os.ReadFile(path)
		check(t, err)
		check(t, os.WriteFile(path, append(good[:len(good)-1:len(good)-1], good[len(good)-1]^1), 0o600))
		if _, err := Open(dir, Options{Keep: 2, Log: quiet}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s damaged: %v", file, err)
		}
		check(t, os.WriteFile(path, good, 0o600))
		check(t, mustOpen(t, dir).Close()) // nothing was changed
	}
}
