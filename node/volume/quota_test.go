package volume

import (
	"testing"
	"unsafe"
)

// TestTheKernelsStructures: their sizes are the kernel's.
func TestTheKernelsStructures(t *testing.T) {
	if n := unsafe.Sizeof(fsxattr{}); n != 28 {
		t.Errorf("fsxattr has %d bytes", n)
	}
	if n := unsafe.Sizeof(diskQuota{}); n != 112 {
		t.Errorf("diskQuota has %d bytes", n)
	}
}
