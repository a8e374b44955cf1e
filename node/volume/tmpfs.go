package volume

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// mountMemory mounts a tmpfs whose pages are never written to swap space, if the kernel can do that (Linux 6.4).
func mountMemory(dir string, flags uintptr, options string) error {
	err := unix.Mount("tmpfs", dir, "tmpfs", flags, options+",noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", dir, "tmpfs", flags, options)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs: %w", err)
	}
	return nil
}
