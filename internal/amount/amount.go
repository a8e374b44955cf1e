// Package amount converts quantities, which have no bounds, to numbers that can be added. A quantity's own Value returns something arbitrary for what
// does not fit an int64 (nothing for 2^64), so who requested too much would be counted as if it had requested nothing.
package amount

import (
	"math"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Most is the largest number: thousands of it can be added. It is far above what any node has (two pebibytes).
const Most = math.MaxInt64 >> 12

var (
	most      = resource.NewQuantity(Most, resource.DecimalSI)
	mostMilli = resource.NewMilliQuantity(Most, resource.DecimalSI)
)

// Value returns a quantity rounded up, at most Most.
func Value(q *resource.Quantity) int64 {
	if n, ok := q.AsInt64(); ok {
		return min(n, Most)
	}
	if q.Cmp(*most) >= 0 {
		return Most
	}
	return q.Value()
}

// Milli returns a quantity in thousandths rounded up, at most Most.
func Milli(q *resource.Quantity) int64 {
	if q.Cmp(*mostMilli) >= 0 {
		return Most
	}
	return q.MilliValue()
}
