// Package eintr repeats system calls that a signal interrupted.
//
// The Go runtime sends its threads SIGURG to preempt goroutines. Its handlers are installed with SA_RESTART, but a call on a file
// system in user space (FUSE), on a network file system or on a FIFO may return EINTR all the same. Package os repeats its calls;
// packages syscall and unix do not.
package eintr

import (
	"errors"
	"syscall"
)

// Retry calls f again for as long as its error is EINTR, and returns the first other result. f must be safe to repeat.
func Retry(f func() error) error {
	for {
		if err := f(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
