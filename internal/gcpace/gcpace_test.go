package gcpace

import (
	"fmt"
	"slices"
	"testing"
)

// recorder is a pacer whose effects are recorded.
func recorder() (*pacer, *[]string) {
	var did []string
	return &pacer{set: func(percent int) { did = append(did, fmt.Sprint(percent)) }, release: func() { did = append(did, "release") }}, &did
}

func TestABusyProcessCollectsLessOftenUntilItIsIdle(t *testing.T) {
	p, did := recorder()
	cycles := uint64(100)
	second := func(ran, live uint64) { cycles += ran; p.observe(cycles, live) }
	second(0, 30<<20) // what ran before is not counted
	second(1, 30<<20)
	if len(*did) > 0 {
		t.Fatalf("one collection a second is not busy: %v", *did)
	}
	second(5, 30<<20)
	for range 60 {
		second(1, 40<<20) // fewer, because of the pace
		for range calmAfter - 1 {
			second(0, 40<<20)
		}
	}
	if !slices.Equal(*did, []string{"300"}) {
		t.Fatalf("while it is busy: %v", *did)
	}
	for range 10 * calmAfter {
		second(0, 40<<20)
	}
	if !slices.Equal(*did, []string{"300", "100", "release"}) {
		t.Fatalf("when it is idle: %v", *did)
	}
}

func TestGarbageIsBounded(t *testing.T) {
	for _, c := range []struct {
		live uint64
		want []string
	}{
		{0, []string{"300"}},
		{100 << 20, []string{"300"}},
		{256 << 20, []string{"200"}},
		{512 << 20, nil},
		{16 << 30, nil},
	} {
		p, did := recorder()
		p.observe(0, c.live)
		p.observe(3, c.live)
		if !slices.Equal(*did, c.want) {
			t.Errorf("with %d MiB in use: %v, want %v", c.live>>20, *did, c.want)
		}
	}
	// A heap that grows while the process is busy has less garbage, then the default.
	p, did := recorder()
	p.observe(0, 1<<20)
	p.observe(3, 1<<20)
	p.observe(4, 256<<20)
	p.observe(5, 1<<30)
	if !slices.Equal(*did, []string{"300", "200", "100"}) {
		t.Errorf("a heap that grows: %v", *did)
	}
}
