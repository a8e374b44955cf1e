// Package broadcast wakes any number of goroutines that wait for a change.
package broadcast

import "sync"

// Signal wakes all goroutines that wait for it. The zero value is ready to use. Safe for concurrent use.
type Signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// Next returns a channel that the next Tell closes. Call it before reading the state that the signal is about.
func (s *Signal) Next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

// Tell wakes all waiters.
func (s *Signal) Tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// Poke sends on a channel that has room for one, unless something is waiting there already. Its one receiver is then woken at least once
// after the last Poke. It never blocks.
func Poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
