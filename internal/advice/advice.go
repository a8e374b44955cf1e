// Package advice recommends requests for containers from what they used, by the rules of the recommender of Kubernetes' Vertical Pod Autoscaler
// (https://github.com/kubernetes/autoscaler/tree/master/vertical-pod-autoscaler, docs/components.md and pkg/recommender): decaying histograms, of
// which percentiles are taken with a margin.
//
//   - Processors: each sample is weighed by the container's request, at least 0.1 of a processor. A sample of a day ago counts half as much as one of
//     now. Recommended is the 90th percentile plus 15 percent.
//   - Memory: of each interval of 24 hours the peak counts as one sample, in the same way. A container that was killed because it was out of memory
//     counts as one that used 20 percent more than it had, or 100 MiB more if that is more.
//   - The lower and the upper bound are the 50th and the 95th percentile, with the same margin.
//
// Unlike there, the peak is that of all containers of a workload together, the bounds are not widened while little is known, and nothing is
// stored on disk.
package advice

import (
	"math"
	"time"
)

const (
	halfLife       = 24 * time.Hour
	memoryInterval = 24 * time.Hour
	margin         = 1.15
	target         = 0.9
	lower          = 0.5
	upper          = 0.95
	// leastWeight is the least weight of a sample of processors.
	leastWeight = 0.1
	// oomFactor and oomBytes are by how much more is assumed than a container had that was out of memory.
	oomFactor, oomBytes = 1.2, 100 << 20
	// mostCores and mostBytes are more than any container can use.
	mostCores, mostBytes = 1e6, 1 << 50
	// LeastCores and LeastBytes are recommended at least.
	LeastCores, LeastBytes = 0.01, 16 << 20
)

// Annotation of a Deployment, StatefulSet, DaemonSet or pod says what becomes of the advice about its requests: Apply.
const (
	Annotation = "kontiki.io/advice"
	Apply      = "apply"
)

// Bounds are an amount that is recommended, and between which others are reasonable: in processors or bytes.
type Bounds struct{ Target, Lower, Upper float64 }

// Need is what is recommended for a container, and what it uses now: processors and bytes.
type Need struct{ CPU, Memory, UsedCPU, UsedMemory float64 }

// Usage is what the containers of one name of a workload used. The zero value has seen nothing. It is not safe for concurrent use.
type Usage struct {
	cpu, memory histogram
	peak        float64   // of the present interval
	interval    time.Time // when it began
	Since, Last time.Time // the first and the last sample
	Samples     int
	// MostCores and MostBytes are the most that was seen at once.
	MostCores, MostBytes float64
}

// Add adds a sample: what a container uses, of processors and in bytes, with the processors that it requests.
func (u *Usage) Add(at time.Time, cores, bytes, requestedCores float64) {
	cores, bytes, requestedCores = sane(cores, mostCores), sane(bytes, mostBytes), sane(requestedCores, mostCores)
	if u.Samples == 0 {
		u.Since = at
		u.cpu, u.memory = histogram{first: 0.01}, histogram{first: 10 << 20}
	}
	u.Samples++
	u.Last = at
	u.MostCores, u.MostBytes = max(u.MostCores, cores), max(u.MostBytes, bytes)
	u.cpu.add(cores, max(requestedCores, leastWeight), at)
	u.addPeak(at, bytes)
}

// OutOfMemory notes that a container was killed because it was out of memory, although it had so many bytes.
func (u *Usage) OutOfMemory(at time.Time, had float64) {
	if u.Samples == 0 {
		return
	}
	had = max(sane(had, mostBytes), u.peak)
	u.addPeak(at, max(had*oomFactor, had+oomBytes))
}

func (u *Usage) addPeak(at time.Time, bytes float64) {
	if u.interval.IsZero() || at.Sub(u.interval) >= memoryInterval {
		u.interval, u.peak = at, 0
	}
	if bytes <= u.peak {
		return
	}
	if u.peak > 0 {
		u.memory.add(u.peak, -1, u.interval)
	}
	u.memory.add(bytes, 1, u.interval)
	u.peak = bytes
}

// sane returns a value that can be; the samples are what workers report.
func sane(value, most float64) float64 {
	if math.IsNaN(value) {
		return 0
	}
	return max(0, min(value, most))
}

// CPU recommends processors. Nothing is recommended without samples.
func (u *Usage) CPU() Bounds { return u.cpu.bounds(LeastCores) }

// Memory recommends bytes.
func (u *Usage) Memory() Bounds { return u.memory.bounds(LeastBytes) }

// histogram has buckets that grow by 5 percent, from a first one; weights decay with time.
type histogram struct {
	first   float64 // the width of the first bucket
	weights []float64
	total   float64
	since   time.Time // when a weight of 1 is 1
}

const (
	growth = 1.05
	// mostBuckets ends the histogram beyond 3,000 processors, or 3 TiB.
	mostBuckets = 200
	// longestSince is after how many half-lives the weights are scaled anew.
	longestSince = 64
)

// bucket returns the index of the bucket of a value.
func (h *histogram) bucket(value float64) int {
	if value < h.first {
		return 0
	}
	return min(int(math.Log(value*(growth-1)/h.first+1)/math.Log(growth)), mostBuckets-1)
}

// end returns the upper end of a bucket.
func (h *histogram) end(i int) float64 {
	return h.first * (math.Pow(growth, float64(i+1)) - 1) / (growth - 1)
}

// add adds a value with a weight, which is negative to take one away that was added with the same time.
func (h *histogram) add(value, weight float64, at time.Time) {
	if h.since.IsZero() {
		h.since = at
	}
	if at.Sub(h.since) > longestSince*halfLife {
		scale := math.Exp2(-float64(at.Sub(h.since)) / float64(halfLife))
		for i := range h.weights {
			h.weights[i] *= scale
		}
		h.total *= scale
		h.since = at
	}
	weight *= math.Exp2(float64(at.Sub(h.since)) / float64(halfLife))
	i := h.bucket(value)
	if i >= len(h.weights) {
		h.weights = append(h.weights, make([]float64, i+1-len(h.weights))...)
	}
	before := h.weights[i]
	h.weights[i] = max(before+weight, 0)
	h.total += h.weights[i] - before
}

// percentile returns the upper end of the bucket below which a part of the weight is, 0 without any.
func (h *histogram) percentile(part float64) float64 {
	if h.total <= 0 {
		return 0
	}
	sum, last := 0.0, 0
	for i, weight := range h.weights {
		if weight <= 0 {
			continue
		}
		last = i
		if sum += weight; sum >= part*h.total {
			break
		}
	}
	return h.end(last)
}

func (h *histogram) bounds(least float64) Bounds {
	if h.total <= 0 {
		return Bounds{}
	}
	of := func(part float64) float64 { return max(h.percentile(part)*margin, least) }
	return Bounds{Target: of(target), Lower: of(lower), Upper: of(upper)}
}
