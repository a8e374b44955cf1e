package flow

import (
	"math"
	"time"
)

// smoothing is by how much a demand that ended still counts after one period of adjustment: half of it is left after five minutes.
const smoothing = 0.977

// demand is the number of seats that a level could have used, over one period: its integrals over time and its maximum.
type demand struct {
	seconds, sum, squares float64
	high                  int
	smoothed              float64
	// average, deviation and highest are those of the last complete period.
	average, deviation float64
	highest            int
}

func (d *demand) pass(passed time.Duration, seats float64) {
	t := passed.Seconds()
	d.seconds += t
	d.sum += seats * t
	d.squares += seats * seats * t
}

// period ends a period, while the demand is for that many seats.
func (d *demand) period(seats int) {
	d.highest = d.high
	if d.seconds > 0 {
		d.average = d.sum / d.seconds
		d.deviation = math.Sqrt(max(0, d.squares/d.seconds-d.average*d.average))
		envelope := d.average + d.deviation
		d.smoothed = max(envelope, smoothing*d.smoothed+(1-smoothing)*envelope)
	}
	d.seconds, d.sum, d.squares, d.high = 0, 0, 0, seats
}
