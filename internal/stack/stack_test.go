package stack

import (
	"sync"
	"testing"
)

// deep needs a stack of some 16 KiB for 64 calls.
//
//go:noinline
func deep(n int, in [24]uint64) uint64 {
	if n == 0 {
		return in[0]
	}
	in[n%len(in)]++
	return deep(n-1, in) + in[0]
}

// BenchmarkGoroutine measures goroutines whose calls go deep, as a request's do.
func BenchmarkGoroutine(b *testing.B) {
	for name, begin := range map[string]func(){"grown": Grow, "plain": func() {}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var wg sync.WaitGroup
			for b.Loop() {
				wg.Go(func() { begin(); deep(64, [24]uint64{}) })
				wg.Wait()
			}
		})
	}
}

func TestGrowAllocatesNothingOnTheHeap(t *testing.T) {
	if n := testing.AllocsPerRun(100, Grow); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
