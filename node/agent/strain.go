package agent

import (
	"errors"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// strainMemory is how long the end of a session by silence is remembered.
	strainMemory = 5 * time.Minute
	// mostStrain limits how often the patience is doubled.
	mostStrain = 3
	// strainPause is the longest pause after a session under the least strain; it doubles with the strain.
	strainPause = 500 * time.Millisecond
)

// strain tells a master's failure from an overload. When a master vanishes, one session ends by silence, and the next master serves. When
// masters, the network or this host are overloaded, one session after the other ends by silence, and each new one adds to the load: then the
// agent becomes more patient, and waits between sessions for a time of its own.
type strain struct {
	silences []time.Time
}

// ended notes the end of a session.
func (s *strain) ended(err error, now time.Time) {
	s.silences = slices.DeleteFunc(s.silences, func(t time.Time) bool { return now.Sub(t) > strainMemory })
	if errors.Is(err, errSilent) {
		s.silences = append(s.silences, now)
	}
}

// level is 0 as long as no more has failed than one master.
func (s *strain) level() int { return min(max(len(s.silences)-1, 0), mostStrain) }

// missed returns how many heartbeats must be missing for a master to count as silent.
func (s *strain) missed() int { return missedBeats << s.level() }

// patience returns how long a master may take to send its welcome.
func (s *strain) patience() time.Duration { return welcomeTimeout << s.level() }

// pause returns how long to wait before the next session.
func (s *strain) pause() time.Duration {
	if s.level() == 0 {
		return 0
	}
	return rand.N(strainPause << s.level())
}
