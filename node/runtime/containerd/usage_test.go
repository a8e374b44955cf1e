package containerd

import (
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
)

func TestUpperDir(t *testing.T) {
	overlay := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{"index=off", "workdir=/s/2/work", "upperdir=/s/2/fs", "lowerdir=/s/1/fs"}}
	if dir, ok := upperDir([]mount.Mount{overlay}); !ok || dir != "/s/2/fs" {
		t.Errorf("%q, %v", dir, ok)
	}
	for _, other := range [][]mount.Mount{nil, {{Type: "bind", Source: "/s/2/fs", Options: []string{"rbind"}}}, {{Type: "overlay", Options: []string{"lowerdir=/a:/b"}}}, {overlay, overlay}} {
		if dir, ok := upperDir(other); ok {
			t.Errorf("%v: %q", other, dir)
		}
	}
}
