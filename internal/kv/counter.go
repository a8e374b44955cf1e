package kv

import (
	"math"
	"strconv"
)

// Counter returns the value of a counter (Op.Add): 0 for a nil version, and for a value that is not a counter.
func Counter(v *Version) int64 {
	if v == nil {
		return 0
	}
	n, err := strconv.ParseInt(string(v.Value), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// CounterValue returns the value that a counter is stored as.
func CounterValue(n int64) []byte { return strconv.AppendInt(nil, n, 10) }

// AddSaturated returns a + b, or the nearest value of an int64.
func AddSaturated(a, b int64) int64 {
	switch {
	case b > 0 && a > math.MaxInt64-b:
		return math.MaxInt64
	case b < 0 && a < math.MinInt64-b:
		return math.MinInt64
	}
	return a + b
}

// Exceeds says whether an addition with the condition AtMost fails on a counter with the present value.
func (op *Op) Exceeds(present int64) bool {
	return op.Cond == AtMost && op.Add > 0 && AddSaturated(present, op.Add) > op.Most
}
