package history

import (
	"math/rand/v2"
	"testing"
	"unsafe"
)

// Numbers keep eleven significant bits, from 0 to the largest that a report may have.
func TestNumbersAreExactToAThousandth(t *testing.T) {
	for _, v := range []uint64{0, 1, 1023, 1024, 2047, 2048, 123_456, 1e9 * 1e6, 1 << 60} {
		got := decode(encode(v))
		if got > v || float64(v-got) > float64(v)/1000 || v < 2048 && got != v {
			t.Errorf("%d became %d", v, got)
		}
		if encode(v) == unknown {
			t.Errorf("%d is encoded as what is not known", v)
		}
	}
}

// TestASeriesIsWhatAModelSays compares with a map of all points, over days with gaps.
func TestASeriesIsWhatAModelSays(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	s, all := newSeries(), map[int64]Amount{}
	minute := int64(29_000_000)
	for range 5000 {
		switch random.IntN(40) {
		case 0:
			minute += int64(random.IntN(200))
		case 1:
			minute += int64(random.IntN(2000))
		}
		minute++
		all[minute] = Amount{uint64(random.IntN(2000)), uint64(random.IntN(2000))}
		s.add(minute, all[minute])
		s.add(minute-1, Amount{1, 1}) // the clock was set back
		if random.IntN(50) != 0 {
			continue
		}
		for m := minute - minutes - 5; m <= minute+2; m++ {
			want := none
			if a, ok := all[m]; ok && m > minute-minutes {
				want = point{encode(a.CPU), encode(a.Memory)}
			}
			if got := s.minute(m); got != want {
				t.Fatalf("minute %d of %d: %v, want %v", m, minute, got, want)
			}
		}
		for at := minute/stepMinutes - steps - 3; at <= minute/stepMinutes+1; at++ {
			want, sum, n := none, Amount{}, uint64(0)
			for m := at * stepMinutes; m < (at+1)*stepMinutes; m++ {
				if a, ok := all[m]; ok {
					sum, n = Amount{sum.CPU + a.CPU, sum.Memory + a.Memory}, n+1
				}
			}
			if n > 0 && at > minute/stepMinutes-steps {
				want = point{encode(sum.CPU / n), encode(sum.Memory / n)}
			}
			if got := s.step(at); got != want {
				t.Fatalf("step %d: %v, want %v", at, got, want)
			}
		}
	}
}

// A master that was away has the points of another before and after, whichever is ahead.
func TestAnotherMastersPointsFillGaps(t *testing.T) {
	for _, ahead := range []int64{0, 3} {
		whole, own := newSeries(), newSeries()
		for m := int64(1_000_000); m <= 1_000_100; m++ {
			whole.add(m, Amount{uint64(m - 1_000_000), 7})
		}
		for m := int64(1_000_099); m <= 1_000_100-ahead+3; m++ {
			own.add(m, Amount{uint64(m - 1_000_000), 7})
		}
		encoded, err := unmarshal(whole.first, whole.last, whole.marshal())
		if err != nil {
			t.Fatal(err)
		}
		own.fill(encoded)
		if own.first != whole.first || own.last < 1_000_100 {
			t.Errorf("it goes from %d to %d", own.first, own.last)
		}
		for m := int64(1_000_045); m <= own.last; m++ {
			if got := own.minute(m); got != (point{encode(uint64(m - 1_000_000)), 7}) {
				t.Errorf("minute %d: %v", m, got)
			}
		}
		if got := own.step(1_000_000 / stepMinutes); got != (point{2, 7}) {
			t.Errorf("the first step: %v", got)
		}
	}
	for _, damaged := range []struct {
		first, last int64
		points      []byte
	}{{1, 2, nil}, {0, 2, make([]byte, encodedPoints)}, {3, 2, make([]byte, encodedPoints)}, {1, 2, make([]byte, encodedPoints+1)}} {
		if _, err := unmarshal(damaged.first, damaged.last, damaged.points); err == nil {
			t.Errorf("%d %d with %d bytes was taken", damaged.first, damaged.last, len(damaged.points))
		}
	}
}

// The bound of memory in docs/dashboard.md is this size times MostSeries.
func TestASeriesIsSmall(t *testing.T) {
	if size := unsafe.Sizeof(series{}) + unsafe.Sizeof(subject{}); size > 1600 {
		t.Errorf("a series with its subject has %d bytes", size)
	}
}
