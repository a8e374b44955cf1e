package history

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
)

// The two resolutions of a series: an hour of minutes, and a day of steps of five minutes.
const (
	minutes     = 60
	stepMinutes = 5
	steps       = 24 * 60 / stepMinutes
)

// point is what was used at a time, each as encode returns it; none if it is not known.
type point struct{ cpu, memory uint16 }

// unknown is no number's code.
const unknown = math.MaxUint16

var none = point{unknown, unknown}

// encode rounds a number down to one of 11 significant bits, as a floating-point number with 10 bits of fraction and 6 of exponent; numbers below 2048
// are exact.
func encode(v uint64) uint16 {
	if v < 1<<10 {
		return uint16(v)
	}
	shift := bits.Len64(v) - 11
	return uint16(shift+1)<<10 | uint16(v>>shift)&(1<<10-1)
}

func decode(code uint16) uint64 {
	if code < 1<<10 {
		return uint64(code)
	}
	return (uint64(code)&(1<<10-1) | 1<<10) << (code>>10 - 1)
}

// series has the points of one subject. Times are in minutes since 1970. It is not safe for concurrent use.
type series struct {
	// first and last are the minutes of the oldest point ever and of the newest; last is 0 if there is none.
	first, last int64
	// sum and count are of the step that the newest point is in.
	sum   Amount
	count uint64
	// The point of minute m is at m % minutes, that of step s at s % steps. What the newest point's minute does not cover is none.
	fine   [minutes]point
	coarse [steps]point
}

// Amount is processor time in microcores (a millionth of a processor) and memory in KiB.
type Amount struct{ CPU, Memory uint64 }

func newSeries() *series {
	s := &series{}
	s.clear()
	return s
}

func (s *series) clear() {
	for i := range s.fine {
		s.fine[i] = none
	}
	for i := range s.coarse {
		s.coarse[i] = none
	}
}

// add adds what was used in a minute. A minute that is not after the newest is left out: the clock was set back.
func (s *series) add(minute int64, a Amount) {
	if minute <= s.last {
		return
	}
	if s.first == 0 {
		s.first = minute
	}
	if s.last != 0 {
		for m := max(s.last+1, minute-minutes+1); m < minute; m++ {
			s.fine[m%minutes] = none
		}
		for at := max(s.last/stepMinutes+1, minute/stepMinutes-steps+1); at <= minute/stepMinutes; at++ {
			s.coarse[at%steps] = none
		}
	}
	if s.last/stepMinutes != minute/stepMinutes {
		s.sum, s.count = Amount{}, 0
	}
	s.last = minute
	s.sum.CPU, s.sum.Memory, s.count = s.sum.CPU+a.CPU, s.sum.Memory+a.Memory, s.count+1
	s.fine[minute%minutes] = point{encode(a.CPU), encode(a.Memory)}
	s.coarse[minute/stepMinutes%steps] = point{encode(s.sum.CPU / s.count), encode(s.sum.Memory / s.count)}
}

// minute returns the point of a minute, and step that of a step; none if it is not kept.
func (s *series) minute(m int64) point {
	if m > s.last || m <= s.last-minutes || m < s.first {
		return none
	}
	return s.fine[m%minutes]
}

func (s *series) step(at int64) point {
	if newest := s.last / stepMinutes; at > newest || at <= newest-steps || at < s.first/stepMinutes {
		return none
	}
	return s.coarse[at%steps]
}

// fill takes over points of another master's series where this one has none.
func (s *series) fill(o *series) {
	if s.last < o.last {
		// What this master has since it started is newer than anything that the other sent: only without it can the other be ahead.
		missing := *o
		missing.fill(s)
		*s = missing
		return
	}
	for m := s.last - minutes + 1; m <= s.last; m++ {
		if s.minute(m) == none {
			s.fine[m%minutes] = o.minute(m)
		}
	}
	for at := s.last/stepMinutes - steps + 1; at <= s.last/stepMinutes; at++ {
		if s.step(at) == none {
			s.coarse[at%steps] = o.step(at)
		}
	}
	if o.first != 0 && o.first < s.first {
		s.first = o.first
	}
}

const encodedPoints = (minutes + steps) * 4

// marshal returns the points; unmarshal reads them. The first and last minute are sent beside them.
func (s *series) marshal() []byte {
	out := make([]byte, 0, encodedPoints)
	for _, p := range s.fine {
		out = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(out, p.cpu), p.memory)
	}
	for _, p := range s.coarse {
		out = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(out, p.cpu), p.memory)
	}
	return out
}

func unmarshal(first, last int64, points []byte) (*series, error) {
	if len(points) != encodedPoints || first <= 0 || last < first {
		return nil, errors.New("a series is damaged")
	}
	s := &series{first: first, last: last}
	next := func() point {
		p := point{binary.LittleEndian.Uint16(points), binary.LittleEndian.Uint16(points[2:])}
		points = points[4:]
		return p
	}
	for i := range s.fine {
		s.fine[i] = next()
	}
	for i := range s.coarse {
		s.coarse[i] = next()
	}
	return s, nil
}
