package cluster

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"
)

// pulse notices that the process stood still: it should beat every third of the lease.
type pulse struct {
	limit time.Duration
	start time.Time
	timer *time.Timer // is due when there should be a beat
	// The last beat by three clocks, because each misses something: a suspended machine stops mono, one that was moved to
	// another host may stop boot, and wall is set back by its administrator. One that says late is enough.
	mono, boot, wall atomic.Int64
}

// instant is a time by the three clocks, in nanoseconds.
type instant struct{ mono, boot, wall int64 }

func newPulse(limit time.Duration) *pulse {
	p := &pulse{limit: limit, start: time.Now(), timer: time.NewTimer(limit / 3)}
	p.timer.Stop()
	p.beat()
	return p
}

func (p *pulse) now() instant {
	return instant{int64(time.Since(p.start)), sinceBoot(), time.Now().UnixNano()}
}

func (p *pulse) beat() { p.set(p.now()) }

func (p *pulse) set(now instant) {
	p.mono.Store(now.mono)
	p.boot.Store(now.boot)
	p.wall.Store(now.wall)
}

// sinceBoot is the time since the machine's start, with the time that it was suspended; in nanoseconds.
func sinceBoot() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return 0 // the other clocks are left
	}
	return now.Nano()
}

func (p *pulse) late() bool { return p.lateAt(p.now()) }

func (p *pulse) lateAt(now instant) bool {
	limit := int64(p.limit)
	return now.mono-p.mono.Load() > limit || now.boot-p.boot.Load() > limit || now.wall-p.wall.Load() > limit
}

// goOn beats, unless the pulse is late: then only a barrier restarts it. The clocks are read once: where the process stands still
// between reading and beating, the beat is of before.
func (p *pulse) goOn() {
	now := p.now()
	if !p.lateAt(now) {
		p.set(now)
	}
	p.timer.Reset(p.limit / 3)
}

// run keeps the pulse where nothing else does.
func (p *pulse) run(ctx context.Context) {
	p.timer.Reset(p.limit / 3)
	defer p.timer.Stop()
	for {
		select {
		case <-p.timer.C:
			p.goOn()
		case <-ctx.Done():
			return
		}
	}
}

// beating is a wire by which raft's heartbeats keep the pulse too, as they come often enough: so an idle leader need not wake up
// for it.
type beating struct {
	wire
	pulse *pulse
}

// AppendEntries implements raft.Transport.
func (b beating) AppendEntries(id raft.ServerID, target raft.ServerAddress, request *raft.AppendEntriesRequest, response *raft.AppendEntriesResponse) error {
	b.pulse.goOn()
	return b.wire.AppendEntries(id, target, request, response)
}
