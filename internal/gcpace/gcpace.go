// Package gcpace collects garbage less often while a process is busy.
//
// With Go's default (GOGC=100), a process with a small live heap that serves many requests collects several times a second, which took a fifth
// of a busy master's CPU time. While it is busy, the heap may grow further between two collections; when it is idle again, the default returns
// and the memory goes back to the system.
package gcpace

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	interval = time.Second
	// busyCycles are the collections in one interval with which a process counts as busy.
	busyCycles = 2
	// calmAfter is the number of intervals without a collection after which it is idle.
	calmAfter = 15
	// restPercent and busyPercent are how much garbage may be there before it is collected, in hundredths of the live heap.
	restPercent, busyPercent = 100, 300
	// mostGarbage bounds the garbage of a busy process, in bytes; a live heap that is larger than this has the default all the time.
	mostGarbage = 512 << 20
)

// Run adapts the pace until the context ends, unless the environment sets GOGC. It changes a setting of the process: call it once.
func Run(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	p := &pacer{set: func(percent int) { debug.SetGCPercent(percent) }, release: debug.FreeOSMemory}
	samples := []metrics.Sample{{Name: "/gc/cycles/automatic:gc-cycles"}, {Name: "/gc/heap/live:bytes"}}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	defer debug.SetGCPercent(restPercent)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		metrics.Read(samples)
		p.observe(samples[0].Value.Uint64(), samples[1].Value.Uint64())
	}
}

// pacer decides from one observation in each interval.
type pacer struct {
	set     func(percent int)
	release func()

	percent int // 0 is restPercent
	cycles  uint64
	known   bool
	calm    int
}

// observe takes the number of collections since the process began, and the bytes that the last one found in use.
func (p *pacer) observe(cycles, live uint64) {
	ran := cycles - p.cycles
	first := !p.known
	p.cycles, p.known = cycles, true
	if first {
		return
	}
	if ran > 0 {
		p.calm = 0
	} else {
		p.calm++
	}
	switch {
	case ran >= busyCycles || ran > 0 && p.percent != 0:
		p.change(int(min(busyPercent, max(restPercent, mostGarbage*100/max(live, 1)))))
	case p.calm >= calmAfter && p.percent != 0:
		p.change(restPercent)
		p.release()
	}
}

func (p *pacer) change(percent int) {
	if percent == restPercent && p.percent == 0 || percent == p.percent {
		return
	}
	p.set(percent)
	if p.percent = percent; percent == restPercent {
		p.percent = 0
	}
}
