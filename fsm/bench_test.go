package fsm

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"runtime"
	"sync"
	"testing"

	"github.com/kontiki/kontiki/internal/kv"
)

const benchObjects = 100_000

func benchKey(i int) string {
	return fmt.Sprintf("/core/pods/namespace-%03d/deployment-7d4b9c8f6d-%06d", i%100, i)
}

var benchValue = bytes.Repeat([]byte("0123456789abcdef"), 64) // 1 KiB

// benchEntry returns a put of 1 KiB in its own buffer.
func benchEntry(tb testing.TB, n uint64, key string) Entry {
	c := kv.Command{Ops: []kv.Op{{Key: key, Value: benchValue}}}
	binary.BigEndian.PutUint64(c.ID[:], n)
	return Entry{n, mustEncode(tb, &c)}
}

// full is a store with 100,000 objects of 1 KiB.
func full(tb testing.TB, o Options) *Store {
	s := New(o)
	batch := make([]Entry, 0, 500)
	for i := range benchObjects {
		if batch = append(batch, benchEntry(tb, uint64(i+1), benchKey(i*7919%benchObjects))); len(batch) == cap(batch) {
			s.ApplyBatch(batch)
			batch = batch[:0]
		}
	}
	return s
}

func benchmarkApply(b *testing.B, size int, make func(i int) string) {
	s := full(b, Options{})
	const ahead = 8192
	entries := []Entry(nil)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += size {
		if len(entries) < size {
			b.StopTimer()
			entries = nil
			for k := range ahead {
				entries = append(entries, benchEntry(b, uint64(benchObjects+i+k+1), make(i+k)))
			}
			b.StartTimer()
		}
		if size == 1 {
			if _, err := s.Apply(entries[0].Index, entries[0].Data); err != nil {
				b.Fatal(err)
			}
		} else {
			s.ApplyBatch(entries[:size])
		}
		entries = entries[size:]
	}
}

// BenchmarkApply is the time of one command (a put of 1 KiB into a store of 100,000 such objects), applied alone and in batches.
func BenchmarkApply(b *testing.B) {
	update := func(i int) string { return benchKey(i * 7919 % benchObjects) }
	create := func(i int) string { return benchKey(benchObjects + i) }
	for _, size := range []int{1, 64, 512} {
		b.Run(fmt.Sprintf("update/batch=%d", size), func(b *testing.B) { benchmarkApply(b, size, update) })
		b.Run(fmt.Sprintf("create/batch=%d", size), func(b *testing.B) { benchmarkApply(b, size, create) })
	}
}

// BenchmarkRead measures one read of a view of 100,000 objects.
func BenchmarkRead(b *testing.B) {
	s := full(b, Options{})
	b.Run("view", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if s.View().Revision() == 0 {
				b.Fatal("empty")
			}
		}
	})
	b.Run("get", func(b *testing.B) {
		keys := make([]string, 1024)
		for i := range keys {
			keys[i] = benchKey(i * 31337 % benchObjects)
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, ok := s.View().Get(keys[i%len(keys)]); !ok {
				b.Fatal("absent")
			}
		}
	})
	for name, prefix := range map[string]string{"1000": "/core/pods/namespace-042/", "100000": "/core/pods/"} {
		b.Run("range/"+name, func(b *testing.B) {
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				n = 0
				s.View().Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool { n += len(v.Value); return true })
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(float64(n)/1024), "ns/object")
		})
	}
	b.Run("count", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if s.View().Count("/core/pods/namespace-042/", "/core/pods/namespace-050") != 8000 {
				b.Fatal("miscounted")
			}
		}
	})
	b.Run("form", func(b *testing.B) {
		v, _ := s.View().Get(benchKey(1))
		build := func(v *kv.Version) (any, int, error) { return v.Value, len(v.Value), nil }
		b.ReportAllocs()
		for b.Loop() {
			if _, err := v.Form(0, build); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkFanOut writes one object after another while watchers read. events/s counts the events of all watchers together. With
// narrow, each watcher has its own namespace, so that a write concerns only one of them.
func BenchmarkFanOut(b *testing.B) {
	for _, x := range []struct {
		watchers int
		narrow   bool
		batch    int
	}{{100, false, 1}, {1000, false, 1}, {1000, false, 64}, {1000, true, 1}, {10000, true, 1}} {
		b.Run(fmt.Sprintf("watchers=%d/narrow=%v/batch=%d", x.watchers, x.narrow, x.batch), func(b *testing.B) {
			s := New(Options{})
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			entries := make([]Entry, b.N)
			for i := range entries {
				entries[i] = benchEntry(b, uint64(i+1), fmt.Sprintf("/core/pods/ns%d/pod%d", i%x.watchers, i%50))
			}
			var wg sync.WaitGroup
			total := 0
			for n := range x.watchers {
				prefix, want := "/core/pods/", b.N
				if x.narrow {
					prefix, want = fmt.Sprintf("/core/pods/ns%d/", n), (b.N-n+x.watchers-1)/x.watchers
				}
				total += want
				w, err := s.Watch(prefix, 0)
				if err != nil {
					b.Fatal(err)
				}
				wg.Go(func() {
					defer w.Close()
					for got := 0; got < want; {
						events, _, err := w.Next(ctx)
						if err != nil {
							b.Error(err)
							return
						}
						got += len(events)
					}
				})
			}
			b.ReportAllocs()
			b.ResetTimer()
			for len(entries) > 0 {
				n := min(x.batch, len(entries))
				s.ApplyBatch(entries[:n])
				entries = entries[n:]
			}
			wg.Wait()
			b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkSnapshot writes a snapshot of 100,000 objects of 1 KiB.
func BenchmarkSnapshot(b *testing.B) {
	s := full(b, Options{})
	b.Run("take", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.Snapshot()
		}
	})
	var buf bytes.Buffer
	if _, err := s.Snapshot().WriteTo(&buf); err != nil {
		b.Fatal(err)
	}
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(buf.Len()))
		for b.Loop() {
			if _, err := s.Snapshot().WriteTo(io.Discard); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("restore", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(buf.Len()))
		for b.Loop() {
			if err := s.Restore(bytes.NewReader(buf.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkMemory reports the memory per object of 1 KiB in addition to its key and value: restored, and as applied from the log
// (where each value is part of its log entry), with and without the history of the writes.
func BenchmarkMemory(b *testing.B) {
	payload := len(benchKey(0)) + len(benchValue)
	report := func(b *testing.B, make func() *Store) {
		for b.Loop() {
			before := heapBytes()
			s := make()
			b.ReportMetric(float64(heapBytes()-before)/benchObjects-float64(payload), "extraB/object")
			runtime.KeepAlive(s)
		}
	}
	var buf bytes.Buffer
	if _, err := full(b, Options{}).Snapshot().WriteTo(&buf); err != nil {
		b.Fatal(err)
	}
	b.Run("restored", func(b *testing.B) {
		report(b, func() *Store {
			s := New(Options{})
			if err := s.Restore(bytes.NewReader(buf.Bytes())); err != nil {
				b.Fatal(err)
			}
			return s
		})
	})
	b.Run("applied", func(b *testing.B) {
		report(b, func() *Store { return full(b, Options{HistoryEvents: 1}) })
	})
	b.Run("applied-with-history", func(b *testing.B) {
		report(b, func() *Store { return full(b, Options{}) })
	})
}

func heapBytes() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
