package fsm

import (
	"container/heap"
	"context"
	"fmt"
	"sync"

	"github.com/kontiki/kontiki/internal/kv"
)

// waitQueue wakes goroutines that wait for the applied index to reach a target.
type waitQueue struct {
	mu      sync.Mutex
	at      uint64
	waiters waitHeap
}

type waiter struct {
	target uint64
	place  int // index in the heap; -1 after it has left
	done   chan error
}

// wait blocks until the index is at least target.
func (q *waitQueue) wait(ctx context.Context, target uint64) error {
	q.mu.Lock()
	if q.at >= target {
		q.mu.Unlock()
		return nil
	}
	w := &waiter{target: target, done: make(chan error, 1)}
	heap.Push(&q.waiters, w)
	q.mu.Unlock()
	select {
	case err := <-w.done:
		return err
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if w.place < 0 {
		return <-w.done
	}
	heap.Remove(&q.waiters, w.place)
	return ctx.Err()
}

// advance sets the index and wakes the waiters whose target it has reached.
func (q *waitQueue) advance(at uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.at = at
	for len(q.waiters) > 0 && q.waiters[0].target <= at {
		heap.Pop(&q.waiters).(*waiter).done <- nil
	}
}

// replace sets the index to that of a restored state. If it went backwards, a different log was restored, which may never reach the
// waiters' targets: all are woken.
func (q *waitQueue) replace(at uint64) {
	q.mu.Lock()
	back := at < q.at
	q.mu.Unlock()
	q.advance(at)
	if !back {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.waiters) > 0 {
		w := heap.Pop(&q.waiters).(*waiter)
		w.done <- fmt.Errorf("wait for %d, the store was restored at %d: %w", w.target, at, kv.ErrFutureRevision)
	}
}

type waitHeap []*waiter

func (h waitHeap) Len() int           { return len(h) }
func (h waitHeap) Less(i, j int) bool { return h[i].target < h[j].target }
func (h waitHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}
func (h *waitHeap) Push(x any) {
	w := x.(*waiter)
	w.place = len(*h)
	*h = append(*h, w)
}
func (h *waitHeap) Pop() any {
	old := *h
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	w.place = -1
	return w
}
