package horizontal

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// history is what is remembered of an autoscaler. It is used by one reconciliation at a time, but for selector, which Controller guards.
type history struct {
	uid             types.UID
	recommendations []past // before stabilization
	ups, downs      []past // changes of the number of replicas
	selector        labels.Selector
}

// past is a number of replicas at a time.
type past struct {
	replicas int32
	at       time.Time
}

// maxPast limits what is remembered: spec.behavior allows windows of an hour, in which there are 240 reconciliations at the default period.
const maxPast = 4096

// since returns what is not older than a window.
func since(all []past, window time.Duration, now time.Time) []past {
	cutoff := now.Add(-window)
	i := 0
	for i < len(all) && all[i].at.Before(cutoff) {
		i++
	}
	return all[i:]
}

// remember appends to what is not older than a window.
func remember(all []past, p past, window time.Duration) []past {
	all = slices.Clone(since(all, window, p.at))
	if len(all) >= maxPast {
		all = all[1:]
	}
	return append(all, p)
}

// limited is a number of replicas, and why it is not the one that was wanted, or that it is.
type limited struct {
	replicas        int32
	reason, message string
}

// stabilize returns the highest recommendation of a window, which ends with the given one.
func (h *history) stabilize(wanted int32, window time.Duration, now time.Time) int32 {
	highest := wanted
	for _, p := range since(h.recommendations, window, now) {
		highest = max(highest, p.replicas)
	}
	h.recommendations = remember(h.recommendations, past{wanted, now}, window)
	return highest
}

// limit applies the limits of an autoscaler without a behavior.
func limit(current, wanted, least, most int32) limited {
	up := max(2*int64(current), 4)
	switch {
	case wanted < least:
		return limited{least, "TooFewReplicas", "the desired replica count is less than the minimum replica count"}
	case int64(most) > up && int64(wanted) > up:
		return limited{int32(up), "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"}
	case wanted > most:
		return limited{most, "TooManyReplicas", "the desired replica count is more than the maximum replica count"}
	}
	return limited{wanted, "DesiredWithinRange", "the desired count is within the acceptable range"}
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

// stabilizeBetween moves the present number of replicas between the lowest recommendation of one window and the highest of another.
func (h *history) stabilizeBetween(current, wanted int32, up, down time.Duration, now time.Time) limited {
	lowest, highest := wanted, wanted
	for _, p := range h.recommendations {
		if p.at.After(now.Add(-up)) {
			lowest = min(lowest, p.replicas)
		}
		if p.at.After(now.Add(-down)) {
			highest = max(highest, p.replicas)
		}
	}
	h.recommendations = remember(h.recommendations, past{wanted, now}, max(up, down))
	out := limited{replicas: min(max(current, lowest), highest), reason: "ScaleDownStabilized",
		message: "recent recommendations were higher than current one, applying the highest recent recommendation"}
	if wanted >= current {
		out.reason, out.message = "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"
	}
	return out
}

// limitRate applies the policies of an autoscaler's behavior.
func (h *history) limitRate(current, wanted, least, most int32, b *autoscalingv2.HorizontalPodAutoscalerBehavior, now time.Time) limited {
	switch {
	case wanted > current:
		allowed, out := most, limited{reason: "TooManyReplicas", message: "the desired replica count is more than the maximum replica count"}
		if rate := max(h.mostUp(current, b.ScaleUp, now), current); most > rate {
			allowed, out = rate, limited{reason: "ScaleUpLimit", message: "the desired replica count is increasing faster than the maximum scale rate"}
		}
		if out.replicas = allowed; wanted > allowed {
			return out
		}
	case wanted < current:
		allowed, out := least, limited{reason: "TooFewReplicas", message: "the desired replica count is less than the minimum replica count"}
		if rate := min(h.leastDown(current, b.ScaleDown, now), current); least < rate {
			allowed, out = rate, limited{reason: "ScaleDownLimit", message: "the desired replica count is decreasing faster than the maximum scale rate"}
		}
		if out.replicas = allowed; wanted < allowed {
			return out
		}
	}
	return limited{wanted, "DesiredWithinRange", "the desired count is within the acceptable range"}
}

// atStart returns how many replicas there were at the start of a policy's period.
func (h *history) atStart(current int32, p autoscalingv2.HPAScalingPolicy, now time.Time) int32 {
	sum := func(all []past) (n int32) {
		for _, change := range all {
			if change.at.After(now.Add(-seconds(p.PeriodSeconds))) {
				n += change.replicas
			}
		}
		return n
	}
	return current - sum(h.ups) + sum(h.downs)
}

// mostUp returns to how many replicas the rules allow to scale up.
func (h *history) mostUp(current int32, rules *autoscalingv2.HPAScalingRules, now time.Time) int32 {
	choose, out := func(a, b int32) int32 { return max(a, b) }, int32(math.MinInt32)
	switch *rules.SelectPolicy {
	case autoscalingv2.DisabledPolicySelect:
		return current
	case autoscalingv2.MinChangePolicySelect:
		choose, out = func(a, b int32) int32 { return min(a, b) }, math.MaxInt32
	}
	for _, p := range rules.Policies {
		start := h.atStart(current, p, now)
		allowed := int32(min(int64(start)+int64(p.Value), math.MaxInt32))
		if p.Type == autoscalingv2.PercentScalingPolicy {
			allowed = ceil(float64(start) * (1 + float64(p.Value)/100)) // rounded up, or it might never change
		}
		out = choose(out, allowed)
	}
	return out
}

// leastDown returns to how many replicas the rules allow to scale down.
func (h *history) leastDown(current int32, rules *autoscalingv2.HPAScalingRules, now time.Time) int32 {
	choose, out := func(a, b int32) int32 { return min(a, b) }, int32(math.MaxInt32)
	switch *rules.SelectPolicy {
	case autoscalingv2.DisabledPolicySelect:
		return current
	case autoscalingv2.MinChangePolicySelect:
		choose, out = func(a, b int32) int32 { return max(a, b) }, math.MinInt32
	}
	for _, p := range rules.Policies {
		start := h.atStart(current, p, now)
		allowed := start - p.Value
		if p.Type == autoscalingv2.PercentScalingPolicy {
			allowed = int32(float64(start) * (1 - float64(p.Value)/100))
		}
		out = choose(out, allowed)
	}
	return out
}

// scaled remembers a change of the number of replicas for as long as a policy looks back.
func (h *history) scaled(b *autoscalingv2.HorizontalPodAutoscalerBehavior, from, to int32, now time.Time) {
	if b == nil {
		return
	}
	if to > from {
		h.ups = remember(h.ups, past{to - from, now}, longest(b))
	} else {
		h.downs = remember(h.downs, past{from - to, now}, longest(b))
	}
}

// longest returns the longest period of a behavior's policies.
func longest(b *autoscalingv2.HorizontalPodAutoscalerBehavior) (out time.Duration) {
	for _, rules := range []*autoscalingv2.HPAScalingRules{b.ScaleUp, b.ScaleDown} {
		if rules == nil {
			continue
		}
		for _, p := range rules.Policies {
			out = max(out, seconds(p.PeriodSeconds))
		}
	}
	return out
}
