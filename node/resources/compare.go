package resources

import (
	"cmp"

	"github.com/kontiki/kontiki/node/runtime"
)

// Less orders limits, where 0 means none and is more than any other.
func Less(a, b int64) bool { return compareLimits(a, b) < 0 }

func compareLimits(a, b int64) int {
	switch {
	case a == b:
		return 0
	case a == 0:
		return 1
	case b == 0:
		return -1
	}
	return cmp.Compare(a, b)
}

// Same compares what is set in a pod's cgroup. A limit that is no longer required stays.
func Same(have, want runtime.Resources) bool {
	return have.CPUShares == want.CPUShares && (want.CPUQuota == 0 || have.CPUQuota == want.CPUQuota) && (want.MemoryLimit == 0 || have.MemoryLimit == want.MemoryLimit)
}

// ByGrowth orders changes of limits: those that lower one come first.
func ByGrowth(fromA, toA, fromB, toB int64) int {
	return compareLimits(toA, fromA) - compareLimits(toB, fromB)
}
