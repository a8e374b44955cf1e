// Package logstore measures other log stores as cluster/storage measures ours (its bench_test.go), and shows how they treat a
// damaged disk. It is a separate module, so that none of them enters Kontiki's go.mod.
package logstore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"go.etcd.io/bbolt"
)

type store interface {
	raft.LogStore
	Close() error
}

var stores = []struct {
	name string
	open func(dir string) (store, error)
}{
	{"raft-boltdb", func(dir string) (store, error) {
		return raftboltdb.New(raftboltdb.Options{
			Path:        filepath.Join(dir, "raft.db"),
			BoltOptions: &bbolt.Options{Timeout: time.Second, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
		})
	}},
	{"raft-wal", func(dir string) (store, error) { return wal.Open(dir) }},
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func batch(from uint64, count int) []*raft.Log {
	logs := make([]*raft.Log, count)
	for i := range logs {
		logs[i] = &raft.Log{Index: from + uint64(i), Term: 1, Type: raft.LogCommand, Data: make([]byte, 1024)}
	}
	return logs
}

func BenchmarkStoreLogs(b *testing.B) {
	for _, kind := range stores {
		for _, count := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("%s/%d", kind.name, count), func(b *testing.B) {
				s, err := kind.open(b.TempDir())
				check(b, err)
				defer s.Close()
				next := uint64(1)
				b.ResetTimer()
				for range b.N {
					check(b, s.StoreLogs(batch(next, count)))
					next += uint64(count)
					if first, _ := s.FirstIndex(); next-first > 26624 {
						b.StopTimer()
						check(b, s.DeleteRange(first, first+16383))
						b.StartTimer()
					}
				}
				b.ReportMetric(float64(b.N*count)/b.Elapsed().Seconds(), "entries/s")
			})
		}
	}
}

func BenchmarkCut(b *testing.B) {
	for _, kind := range stores {
		b.Run(kind.name, func(b *testing.B) {
			s, err := kind.open(b.TempDir())
			check(b, err)
			defer s.Close()
			next := uint64(1)
			var worst, cuts time.Duration
			for range b.N {
				b.StopTimer()
				first, _ := s.FirstIndex()
				for first = max(first, 1); next-first < 26624; next += 512 {
					check(b, s.StoreLogs(batch(next, 512)))
				}
				b.StartTimer()
				done := make(chan error, 1)
				begin := time.Now()
				go func() { done <- s.DeleteRange(first, first+16383) }()
				for cutting := true; cutting; next += 16 {
					one := time.Now()
					check(b, s.StoreLogs(batch(next, 16)))
					worst = max(worst, time.Since(one))
					select {
					case err := <-done:
						check(b, err)
						cutting = false
					default:
					}
				}
				cuts += time.Since(begin)
			}
			b.ReportMetric(float64(worst.Microseconds())/1000, "ms-worst-write")
			b.ReportMetric(float64(cuts.Microseconds())/1000/float64(b.N), "ms-cut")
		})
	}
}

// TestADamagedLastEntry shows how each store reacts to a flipped bit in the last entry that it has acknowledged, and in an entry
// before it. It asserts nothing: the results are in docs/dependencies.md.
func TestADamagedLastEntry(t *testing.T) {
	for _, kind := range stores {
		for _, victim := range []uint64{10, 3} {
			dir := t.TempDir()
			s, err := kind.open(dir)
			check(t, err)
			for i := uint64(1); i <= 10; i++ {
				check(t, s.StoreLog(&raft.Log{Index: i, Term: 1, Data: bytes.Repeat([]byte(fmt.Sprintf("<%d>", i)), 100)}))
			}
			check(t, s.Close())
			flip(t, dir, bytes.Repeat([]byte(fmt.Sprintf("<%d>", victim)), 100))
			s, err = kind.open(dir)
			if err != nil {
				t.Logf("%s, entry %d of 10 damaged: it does not open: %v", kind.name, victim, err)
				continue
			}
			last, _ := s.LastIndex()
			var l raft.Log
			err = s.GetLog(victim, &l)
			intact := err == nil && bytes.Equal(l.Data, bytes.Repeat([]byte(fmt.Sprintf("<%d>", victim)), 100))
			t.Logf("%s, entry %d of 10 damaged: it opens, the log ends at %d, the entry is read as it was: %v (%v)", kind.name, victim, last, intact, err)
			s.Close()
		}
	}
}

func flip(t *testing.T, dir string, text []byte) {
	found := errors.New("the text is nowhere")
	check(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if at := bytes.Index(data, text); err == nil && at >= 0 {
			for ; at >= 0; at = bytes.Index(data, text) {
				data[at+50] ^= 1
			}
			found = os.WriteFile(path, data, 0o600)
		}
		return err
	}))
	check(t, found)
}
