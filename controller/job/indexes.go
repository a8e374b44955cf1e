package job

import (
	"slices"
	"strconv"
	"strings"
)

// indexes is a set of completion indexes, as ordered intervals that neither overlap nor touch.
type indexes []interval

type interval struct{ first, last int }

// parseIndexes reads "1,3-5,7" up to a number of completions; indexes beyond it, and whatever cannot be read, are left out.
func parseIndexes(text string, completions int) indexes {
	if text == "" {
		return nil
	}
	var out indexes
	for part := range strings.SplitSeq(text, ",") {
		from, to, isRange := strings.Cut(part, "-")
		first, err := strconv.Atoi(from)
		if err != nil || first < 0 {
			continue
		}
		last := first
		if isRange {
			if last, err = strconv.Atoi(to); err != nil || last < first {
				continue
			}
		}
		if first >= completions {
			break
		}
		out = append(out, interval{first, min(last, completions-1)})
	}
	return out.normal()
}

// indexesOf returns the set of some indexes, in any order.
func indexesOf(list []int) indexes {
	out := make(indexes, len(list))
	for i, index := range list {
		out[i] = interval{index, index}
	}
	return out.normal()
}

// normal orders and joins the intervals of x, which it may change.
func (x indexes) normal() indexes {
	slices.SortFunc(x, func(a, b interval) int { return a.first - b.first })
	out := x[:0]
	for _, next := range x {
		if n := len(out); n > 0 && next.first <= out[n-1].last+1 {
			out[n-1].last = max(out[n-1].last, next.last)
		} else {
			out = append(out, next)
		}
	}
	return out
}

// union returns the indexes that are in any of the sets.
func (x indexes) union(others ...indexes) indexes {
	out := slices.Clone(x)
	for _, other := range others {
		out = append(out, other...)
	}
	return out.normal()
}

func (x indexes) count() (n int) {
	for _, i := range x {
		n += i.last - i.first + 1
	}
	return n
}

// common returns how many indexes are in both sets.
func (x indexes) common(other indexes) (n int) {
	for i, j := 0, 0; i < len(x) && j < len(other); {
		n += max(0, min(x[i].last, other[j].last)-max(x[i].first, other[j].first)+1)
		if x[i].last < other[j].last {
			i++
		} else {
			j++
		}
	}
	return n
}

func (x indexes) has(index int) bool {
	_, found := slices.BinarySearchFunc(x, index, func(i interval, index int) int {
		switch {
		case i.last < index:
			return -1
		case i.first > index:
			return 1
		}
		return 0
	})
	return found
}

// missing returns the lowest indexes below end that are not in the set, at most count.
func (x indexes) missing(end, count int) (out []int) {
	next := 0
	for _, i := range append(slices.Clone(x), interval{end, end}) {
		for ; next < min(i.first, end) && len(out) < count; next++ {
			out = append(out, next)
		}
		next = max(next, i.last+1)
	}
	return out
}

// String returns the set as the API has it: "1,3-5,7". Two adjacent indexes are written as two.
func (x indexes) String() string {
	var b strings.Builder
	for _, i := range x {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(i.first))
		if i.last > i.first {
			separator := byte('-')
			if i.last == i.first+1 {
				separator = ','
			}
			b.WriteByte(separator)
			b.WriteString(strconv.Itoa(i.last))
		}
	}
	return b.String()
}
