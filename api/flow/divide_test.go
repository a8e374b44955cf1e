package flow

import (
	"hash/maphash"
	"math"
	"math/rand/v2"
	"testing"
)

type maphashSeed = maphash.Seed

func newSeed() maphash.Seed { return maphash.MakeSeed() }

func TestDivide(t *testing.T) {
	for _, c := range []struct {
		seats  float64
		claims []claim
		want   []float64
	}{
		{100, []claim{{0, 100, 10}, {0, 100, 30}}, []float64{25, 75}},
		{100, []claim{{40, 100, 40}, {0, 100, 360}}, []float64{40, 60}},
		{100, []claim{{0, 20, 50}, {0, 100, 50}}, []float64{20, 80}},
		{100, []claim{{0, 100, 0}, {0, 100, 0}}, []float64{50, 50}},
		{10, []claim{{8, 100, 8}, {7, 100, 9}}, []float64{8, 7}}, // impossible: the least
		{100, []claim{{0, 30, 8}, {0, 20, 9}}, []float64{30, 20}},
		{0, nil, []float64{}},
	} {
		got, _ := divide(c.seats, c.claims)
		for i := range c.want {
			if math.Abs(got[i]-c.want[i]) > 1e-9 {
				t.Errorf("%v of %+v: %v", c.seats, c.claims, got)
				break
			}
		}
	}
}

// TestDivideIsFair checks the properties that KEP-1040 requires, for random claims.
func TestDivideIsFair(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		claims := make([]claim, 1+random.IntN(12))
		low, high := 0.0, 0.0
		for i := range claims {
			c := &claims[i]
			c.least = float64(random.IntN(50))
			c.most = c.least + float64(random.IntN(100))
			c.target = c.least + random.Float64()*float64(random.IntN(100))
			low, high = low+c.least, high+c.most
		}
		seats := low + random.Float64()*(high-low)
		parts, fraction := divide(seats, claims)
		total := 0.0
		for i, c := range claims {
			total += parts[i]
			fair := fraction * max(c.target, smallestTarget)
			if parts[i] < c.least || parts[i] > c.most || math.Abs(parts[i]-max(c.least, min(c.most, fair))) > 1e-6 {
				t.Fatalf("%+v gets %v of %v at the fraction %v", c, parts[i], seats, fraction)
			}
		}
		if math.Abs(total-seats) > 1e-6 {
			t.Fatalf("%v seats for %+v: divided %v", seats, claims, parts)
		}
	}
}
