package scheduler

import "sync"

// inbox takes work for the loop. It is the only part of the scheduler that goroutines share with the loop.
type inbox struct {
	mu   sync.Mutex
	work []func()
	// signal is sent when there may be something to do.
	signal chan struct{}
}

func newInbox() *inbox { return &inbox{signal: make(chan struct{}, 1)} }

// post adds work, which is done in order. It never blocks.
func (b *inbox) post(work func()) {
	b.mu.Lock()
	b.work = append(b.work, work)
	b.mu.Unlock()
	b.wake()
}

// wake makes the loop look whether there is something to do.
func (b *inbox) wake() {
	select {
	case b.signal <- struct{}{}:
	default:
	}
}

func (b *inbox) take() []func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	work := b.work
	b.work = nil
	return work
}
