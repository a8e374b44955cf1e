package tree

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestMeasure(t *testing.T) {
	dir := t.TempDir()
	a := filepath.Join(dir, "a")
	if err := os.WriteFile(a, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(a, filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(a, 1<<30); err != nil { // a hole takes nothing
		t.Fatal(err)
	}
	all := Limits{Entries: 100, Linked: 100}
	if u, err := Measure(context.Background(), dir, all); err != nil || u.Bytes < 1<<20 || u.Bytes > 2<<20 || u.Inodes != 2 {
		t.Errorf("%+v, %v", u, err)
	}
	for want, l := range map[error]Limits{
		nil:        {Entries: 100, Linked: 100, Enough: 1},
		ErrTooMany: {Entries: 100, Linked: 0},
	} {
		if u, err := Measure(context.Background(), dir, l); !errors.Is(err, want) || want == nil && u.Bytes <= 1 {
			t.Errorf("%+v: %+v, %v, want %v", l, u, err, want)
		}
	}
}
