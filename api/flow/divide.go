package flow

import "slices"

// claim is one level's part in a division of seats.
type claim struct{ least, most, target float64 }

// smallestTarget replaces smaller targets, so that a level without demand still gets a part of what nobody wants.
const smallestTarget = 0.001

func (c claim) at(fraction float64) float64 {
	return max(c.least, min(c.most, fraction*max(c.target, smallestTarget)))
}

// divide divides seats among claims: each gets the same fraction of its target, unless this is less than its least or more than its
// most. If they cannot be satisfied exactly, all get their least, or their most.
func divide(seats float64, claims []claim) (parts []float64, fraction float64) {
	sum := func(fraction float64) (total float64) {
		for _, c := range claims {
			total += c.at(fraction)
		}
		return total
	}
	// The sum is a piecewise linear function of the fraction, which bends where a level reaches one of its bounds.
	bends := []float64{0}
	for _, c := range claims {
		target := max(c.target, smallestTarget)
		bends = append(bends, c.least/target, c.most/target)
	}
	slices.Sort(bends)
	i, _ := slices.BinarySearchFunc(bends, seats, func(bend, seats float64) int {
		if sum(bend) < seats {
			return -1
		}
		return 1
	})
	switch {
	case i == 0:
		fraction = bends[0]
	case i == len(bends):
		fraction = bends[i-1]
	default:
		low, high := bends[i-1], bends[i]
		from, to := sum(low), sum(high)
		fraction = low + (high-low)*(seats-from)/(to-from)
	}
	parts = make([]float64, len(claims))
	for i, c := range claims {
		parts[i] = c.at(fraction)
	}
	return parts, fraction
}
