package job

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

func TestIndexesAsText(t *testing.T) {
	for _, c := range []struct {
		text        string
		completions int
		want        string
	}{
		{"", 10, ""},
		{"3", 10, "3"},
		{"0,1", 10, "0,1"},
		{"0-2,4,6-9", 10, "0-2,4,6-9"},
		{"0-2,3", 10, "0-3"},
		{"1,4-9", 6, "1,4,5"},
		{"7", 7, ""},
		{"x,2,3-y,-4,6-5", 10, "2"},
	} {
		if got := parseIndexes(c.text, c.completions).String(); got != c.want {
			t.Errorf("%q of %d is %q, want %q", c.text, c.completions, got, c.want)
		}
	}
}

// The operations agree with those on a plain set.
func TestIndexesAreASet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	random := func() (indexes, map[int]bool) {
		var list []int
		plain := map[int]bool{}
		for range r.IntN(30) {
			i := r.IntN(40)
			list, plain[i] = append(list, i), true
		}
		return indexesOf(list), plain
	}
	for range 500 {
		a, plainA := random()
		b, plainB := random()
		both, common := map[int]bool{}, 0
		for i := range 40 {
			if plainA[i] || plainB[i] {
				both[i] = true
			}
			if plainA[i] && plainB[i] {
				common++
			}
			if a.has(i) != plainA[i] {
				t.Fatalf("%v has %d: %v", a, i, !plainA[i])
			}
		}
		union := a.union(b)
		if a.count() != len(plainA) || union.count() != len(both) || a.common(b) != common {
			t.Fatalf("%v and %v: %d, %d in both of %d, %d in common", a, b, a.count(), union.count(), len(both), a.common(b))
		}
		if again := parseIndexes(union.String(), 40); !slices.Equal(again, union) {
			t.Fatalf("%v is read as %v", union, again)
		}
		end, count := r.IntN(45), r.IntN(45)
		var missing []int
		for i := 0; i < end && len(missing) < count; i++ {
			if !both[i] {
				missing = append(missing, i)
			}
		}
		if got := union.missing(end, count); fmt.Sprint(got) != fmt.Sprint(missing) {
			t.Fatalf("%d missing of %v below %d: %v, want %v", count, union, end, got, missing)
		}
	}
}
