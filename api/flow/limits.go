package flow

import (
	"errors"
	"math"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

// defaultShares is what defaulting sets for a level that gives no shares.
const defaultShares = 30

// limits are a level's numbers of seats.
type limits struct {
	// nominal is the level's share of all seats. Of these it always keeps least; with what it borrows it has at most most.
	nominal, least, most int
	// current is how many requests may occupy now, target what the last division aimed at.
	current int
	target  float64
	// widest is the largest number of seats for one request, as far as the level determines it; 0 means that it does not.
	widest int
}

func queuingOf(config *flowcontrolv1.PriorityLevelConfiguration) *flowcontrolv1.QueuingConfiguration {
	if config.Spec.Limited == nil {
		return nil
	}
	return config.Spec.Limited.LimitResponse.Queuing
}

// checkLevel checks what this package relies on; validation ensures it for objects that are created now. It returns the dealer for
// levels with queues.
func checkLevel(config *flowcontrolv1.PriorityLevelConfiguration) (*shufflesharding.Dealer, error) {
	spec := &config.Spec
	exempt := spec.Type == flowcontrolv1.PriorityLevelEnablementExempt
	switch {
	case exempt != (spec.Exempt != nil), exempt == (spec.Limited != nil):
		return nil, errors.New("spec.limited and spec.exempt do not agree with spec.type")
	case exempt != (config.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt):
		return nil, errors.New("only the level exempt is exempt")
	case exempt:
		return nil, nil
	}
	queuing := spec.Limited.LimitResponse.Queuing
	switch {
	case (spec.Limited.LimitResponse.Type == flowcontrolv1.LimitResponseTypeQueue) != (queuing != nil):
		return nil, errors.New("spec.limited.limitResponse.queuing does not agree with its type")
	case queuing == nil:
		return nil, nil
	case queuing.QueueLengthLimit < 1:
		return nil, errors.New("queueLengthLimit must be positive")
	}
	return shufflesharding.NewDealer(int(queuing.Queues), int(queuing.HandSize))
}

// shares returns the numbers in a level's object that determine its limits, percentages as fractions; borrow is negative if there
// is no limit.
func shares(config *flowcontrolv1.PriorityLevelConfiguration) (nominal, lend, borrow float64) {
	of := func(p *int32, absent float64) float64 {
		if p == nil {
			return absent
		}
		return float64(*p)
	}
	if limited := config.Spec.Limited; limited != nil {
		return of(limited.NominalConcurrencyShares, defaultShares),
			of(limited.LendablePercent, 0) / 100, of(limited.BorrowingLimitPercent, -100) / 100
	}
	return of(config.Spec.Exempt.NominalConcurrencyShares, 0), of(config.Spec.Exempt.LendablePercent, 0) / 100, -1
}

// share computes all levels' limits from their objects. The caller holds mu.
func (c *Control) share() {
	total := 0.0
	for _, l := range c.levels {
		nominal, _, _ := shares(l.config)
		total += nominal
	}
	total = max(total, 1)
	c.nominal = 0
	for _, l := range c.levels {
		nominal, lend, borrow := shares(l.config)
		var now limits
		// Rounding up makes the sum a little larger than the number of seats.
		now.nominal = int(math.Ceil(float64(c.seats) * nominal / total))
		lent := int(math.Round(float64(now.nominal) * lend))
		borrowed := c.seats
		if borrow >= 0 {
			borrowed = int(math.Round(float64(now.nominal) * borrow))
		}
		now.least, now.most = now.nominal-lent, now.nominal+borrowed
		if q := queuingOf(l.config); q != nil {
			// Beside one request there must be room for others, also for those whose hands overlap.
			now.widest = max(1, min(int(math.Ceil(float64(now.nominal)*0.15)), now.nominal/int(q.HandSize)))
		}
		c.nominal += now.nominal
		l.mu.Lock()
		if now.current = l.limits.current; l.limits == (limits{}) {
			now.current = now.nominal - lent/2
		}
		l.limits = now
		l.mu.Unlock()
	}
	c.lend()
}

// lend divides the seats by the demand since it was last called. The caller holds mu.
func (c *Control) lend() {
	type bounded struct {
		*level
		least int // no less than this, for what it has just used of its own
	}
	var levels []bounded
	var claims []claim
	leastSum, leastNowSum, remaining := 0, 0, c.nominal
	for _, l := range c.levels {
		l.mu.Lock()
		l.sync()
		l.demand.period(l.seats + l.seatsWanted)
		if l.exempt {
			l.limits.current = max(l.limits.least, l.demand.highest)
			l.limits.target = float64(l.limits.current)
			remaining -= l.limits.current
			l.mu.Unlock()
			continue
		}
		b := bounded{l, max(l.limits.least, min(l.limits.nominal, l.demand.highest))}
		levels = append(levels, b)
		claims = append(claims, claim{float64(b.least), float64(l.limits.most), max(float64(b.least), l.demand.smoothed)})
		leastSum += l.limits.least
		leastNowSum += b.least
		l.mu.Unlock()
	}
	var parts []float64
	c.fraction = 0
	part := func(i int) int { return int(math.Round(parts[i])) }
	switch {
	case remaining <= leastSum:
		part = func(i int) int { return levels[i].limits.least }
	case remaining <= leastNowSum:
		fraction := float64(remaining-leastSum) / float64(leastNowSum-leastSum)
		part = func(i int) int {
			least := levels[i].limits.least
			return least + int(math.Round(float64(levels[i].least-least)*fraction))
		}
	default:
		parts, c.fraction = divide(float64(remaining), claims)
	}
	for i, l := range levels {
		l.mu.Lock()
		l.sync()
		l.limits.current, l.limits.target = part(i), claims[i].target
		l.dispatch()
		l.mu.Unlock()
	}
}
