package consensus

import "time"

// Timings are the timeouts of consensus. A zero field takes its value from DefaultTimings.
type Timings struct {
	// Heartbeat is how long a follower waits for its leader before it starts an election; Election how long a candidate waits for
	// votes; Lease how long a leader continues without a quorum. Commit (to twice that) is the interval at which an idle leader
	// sends its commit index; raftfix.Announcer sends it to followers that keep up at once anyway.
	Heartbeat, Election, Lease, Commit time.Duration
	// A snapshot is taken when SnapshotThreshold entries were added since the last one, checked every SnapshotInterval (to twice
	// that); TrailingLogs entries are kept before it for followers that are slightly behind.
	SnapshotInterval                time.Duration
	SnapshotThreshold, TrailingLogs uint64
	// Transport is the time limit of one raft call (of each 256 KiB for the install of a snapshot).
	Transport time.Duration
	// Propose is the time limit of a proposal or a consistent read whose context has no deadline.
	Propose time.Duration
	// DiskStall is how long one operation of the raft log may take before this master stops leading and requesting votes.
	DiskStall time.Duration
	// Shutdown is the time limit of each step of a clean stop.
	Shutdown time.Duration
}

// DefaultTimings fail over in 0.8 s (measured median; 1.1 s at most) and are long enough for loaded machines.
var DefaultTimings = Timings{
	Heartbeat:         500 * time.Millisecond,
	Election:          500 * time.Millisecond,
	Lease:             300 * time.Millisecond,
	Commit:            500 * time.Millisecond,
	SnapshotInterval:  30 * time.Second,
	SnapshotThreshold: 16384,
	TrailingLogs:      10240,
	Transport:         3 * time.Second,
	Propose:           30 * time.Second,
	DiskStall:         2 * time.Second,
	Shutdown:          2 * time.Second,
}

// WithDefaults returns the timings with every zero field set.
func (t Timings) WithDefaults() Timings {
	d := DefaultTimings
	for _, f := range []struct{ value, def *time.Duration }{
		{&t.Heartbeat, &d.Heartbeat}, {&t.Election, &d.Election}, {&t.Lease, &d.Lease}, {&t.Commit, &d.Commit},
		{&t.SnapshotInterval, &d.SnapshotInterval}, {&t.Transport, &d.Transport},
		{&t.Propose, &d.Propose}, {&t.Shutdown, &d.Shutdown}, {&t.DiskStall, &d.DiskStall},
	} {
		if *f.value <= 0 {
			*f.value = *f.def
		}
	}
	if t.SnapshotThreshold == 0 {
		t.SnapshotThreshold = d.SnapshotThreshold
	}
	if t.TrailingLogs == 0 {
		t.TrailingLogs = d.TrailingLogs
	}
	return t
}
