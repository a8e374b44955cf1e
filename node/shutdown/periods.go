package shutdown

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Period is the time that pods have to end, whose priority is at least Priority and less than that of the next period.
type Period struct {
	Priority int32
	Grace    time.Duration
}

// critical is the lowest priority of critical pods.
const critical = 2_000_000_000

// Periods returns the periods, sorted by priority, from a kubelet's settings: either total and ofCritical (shutdownGracePeriod and
// shutdownGracePeriodCriticalPods: critical pods have the last part of the total), or byPriority (shutdownGracePeriodByPodPriority), from
// priorities to durations. Without any there are none, and shutdowns are not waited for.
func Periods(total, ofCritical time.Duration, byPriority map[string]string) ([]Period, error) {
	switch {
	case total < 0 || ofCritical < 0:
		return nil, errors.New("shutdown-grace-period: must not be negative")
	case ofCritical > total:
		return nil, fmt.Errorf("shutdown-grace-period-critical-pods: %s is more than shutdown-grace-period, %s, of which it is a part", ofCritical, total)
	case total > 0 && len(byPriority) > 0:
		return nil, errors.New("shutdown-grace-period-by-pod-priority: must not be set together with shutdown-grace-period")
	case total > 0 && total < time.Second || ofCritical > 0 && ofCritical < time.Second:
		return nil, errors.New("shutdown-grace-period: must be at least one second")
	case total > 0:
		return []Period{{0, total - ofCritical}, {critical, ofCritical}}, nil
	}
	var out []Period
	for priority, grace := range byPriority {
		p, err := strconv.ParseInt(priority, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("shutdown-grace-period-by-pod-priority: %q is not a priority", priority)
		}
		d, err := time.ParseDuration(grace)
		if err != nil || d < 0 {
			return nil, fmt.Errorf("shutdown-grace-period-by-pod-priority: %q is not a duration such as 10s", grace)
		}
		if slices.ContainsFunc(out, func(other Period) bool { return other.Priority == int32(p) }) {
			return nil, fmt.Errorf("shutdown-grace-period-by-pod-priority: priority %d is set twice", p)
		}
		out = append(out, Period{int32(p), d})
	}
	slices.SortFunc(out, func(a, b Period) int { return int(a.Priority) - int(b.Priority) })
	return out, nil
}

// total is how long a shutdown takes at most.
func total(periods []Period) (sum time.Duration) {
	for _, p := range periods {
		sum += p.Grace
	}
	return sum
}

// group divides pods by their periods. Those with a lower priority than the first have the first.
func group(periods []Period, pods []*corev1.Pod) [][]*corev1.Pod {
	out := make([][]*corev1.Pod, len(periods))
	for _, pod := range pods {
		priority := int32(0)
		if pod.Spec.Priority != nil {
			priority = *pod.Spec.Priority
		}
		at := 0
		for at+1 < len(periods) && periods[at+1].Priority <= priority {
			at++
		}
		out[at] = append(out[at], pod)
	}
	return out
}
