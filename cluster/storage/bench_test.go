package storage

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// The same is measured of other log stores in test/bench/logstore.

func batch(from uint64, count int) []*raft.Log {
	logs := make([]*raft.Log, count)
	for i := range logs {
		logs[i] = &raft.Log{Index: from + uint64(i), Term: 1, Type: raft.LogCommand, Data: make([]byte, 1024)}
	}
	return logs
}

// BenchmarkStoreLogs stores entries of 1 KiB, so many in a commit, and cuts the log as raft does.
func BenchmarkStoreLogs(b *testing.B) {
	for _, count := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			s := mustOpen(b, b.TempDir())
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

// BenchmarkCut is how long entries wait at most while 16,384 others are deleted.
func BenchmarkCut(b *testing.B) {
	s := mustOpen(b, b.TempDir())
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
}

// BenchmarkOpen opens a log of 26,624 entries of 1 KiB, checking all of it.
func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	s := mustOpen(b, dir)
	for next := uint64(1); next <= 26624; next += 512 {
		check(b, s.StoreLogs(batch(next, 512)))
	}
	check(b, s.Close())
	b.ResetTimer()
	for range b.N {
		s, err := Open(dir, Options{Log: quiet})
		check(b, err)
		check(b, s.Close())
	}
}
