package flow

import (
	"fmt"
	"time"
)

// seatSeconds is an amount of work, or a reading of a progress meter, in units of 10 ns of one seat.
type seatSeconds int64

const (
	perSecond = 1e8
	// mostSeconds is larger than any reading.
	mostSeconds = seatSeconds(1<<63 - 1)
	// highReading is the reading at which a level's meter is set back.
	highReading = seatSeconds(1 << 62)
)

// workOf returns the work of seats that are occupied for a duration.
func workOf(seats float64, d time.Duration) seatSeconds {
	return seatSeconds(seats * float64(d) / (float64(time.Second) / perSecond))
}

// over returns for how long the work takes that many seats.
func (s seatSeconds) over(seats int) time.Duration {
	return time.Duration(float64(s) / float64(seats) * (float64(time.Second) / perSecond))
}

func (s seatSeconds) float() float64 { return float64(s) / perSecond }

// String returns upstream's form of an amount of work.
func (s seatSeconds) String() string {
	sign := ""
	if s < 0 {
		sign, s = "-", -s
	}
	return fmt.Sprintf("%s%d.%08dss", sign, s/perSecond, s%perSecond)
}
