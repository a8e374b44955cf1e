package pods

import "time"

// backOff delays restarts after repeated failures: 10 s, doubled each time up to 300 s, and reset after twice that without a
// failure.
type backOff struct {
	entries map[string]*backOffEntry
}

type backOffEntry struct {
	delay time.Duration
	last  time.Time
}

// waits returns how long from now key must wait before a restart after its failure at since; 0 means it may start now.
func (b *backOff) waits(key string, since, now time.Time) time.Duration {
	e := b.entries[key]
	if e == nil || b.expired(e, since) {
		return 0
	}
	return max(0, e.delay-now.Sub(since))
}

// delay returns the current delay of key.
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

// expired says whether it ran long enough since the last attempt for the back-off to be reset.
func (b *backOff) expired(e *backOffEntry, since time.Time) bool {
	return since.Sub(e.last) > 2*backOffMax
}
