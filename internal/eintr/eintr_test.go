package eintr

import (
	"fmt"
	"syscall"
	"testing"
)

func TestRetryRepeatsInterruptedCallsOnly(t *testing.T) {
	for _, last := range []error{nil, syscall.EIO} {
		results := []error{syscall.EINTR, fmt.Errorf("sync: %w", syscall.EINTR), last, syscall.ENOENT}
		calls := 0
		err := Retry(func() error {
			calls++
			return results[calls-1]
		})
		if err != last || calls != 3 {
			t.Errorf("after %d calls: %v, want %v after 3", calls, err, last)
		}
	}
}
