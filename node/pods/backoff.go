package pods

import "time"

// backOff delays the restarts of what keeps failing: 10 s, doubled each time up to 300 s, forgotten after twice that
// without a failure.
type backOff struct {
	entries map[string]*backOffEntry
}

type backOffEntry struct {
	delay time.Duration
	last  time.Time
}

// waits answers how long from now until key may start again after its failure at since, 0 for now.
func (b *backOff) waits(key string, since, now time.Time) time.Duration {
	e := b.entries[key]
	if e == nil || b.expired(e, since) {
		return 0
	}
	return max(0, e.delay-now.Sub(since))
}

// delay is the current delay of key.
func (b *backOff) delay(key string) time.Duration {
	if e := b.entries[key]; e != nil {
		return e.delay
	}
	return 0
}

// next counts an attempt after a failure at since.
func (b *backOff) next(key string, since, now time.Time) {
	if b.entries == nil {
		b.entries = map[string]*backOffEntry{}
	}
	e := b.entries[key]
	if e == nil || b.expired(e, since) {
		e = &backOffEntry{delay: backOffInitial}
		b.entries[key] = e
	} else {
		e.delay = min(2*e.delay, backOffMax)
	}
	e.last = now
}

func (b *backOff) reset(key string) { delete(b.entries, key) }

// expired says whether it ran long enough since the last attempt to be forgiven.
func (b *backOff) expired(e *backOffEntry, since time.Time) bool {
	return since.Sub(e.last) > 2*backOffMax
}
