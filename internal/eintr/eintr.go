// Package eintr repeats system calls that a signal interrupted.
//
// The Go runtime sends SIGURG to its threads to preempt goroutines. Its handlers are installed with SA_RESTART, but calls on a FUSE
// file system, on a network file system or on a FIFO may nevertheless return EINTR. Package os repeats its calls; packages syscall
// and unix do not.
package eintr

import (
	"errors"
	"syscall"
)

// Retry calls f again while its error is EINTR, and returns the first other result. f must be safe to repeat.
func Retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
