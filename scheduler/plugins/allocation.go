package plugins

import (
	"math"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// Strategy says how NodeResourcesFit scores nodes by how much of their resources is requested.
type Strategy struct {
	// Type is LeastAllocated, MostAllocated or RequestedToCapacityRatio.
	Type string
	// Resources are what is looked at, with weights.
	Resources []WeightedResource
	// Shape is the function of RequestedToCapacityRatio: points in order of utilization.
	Shape []ShapePoint
}

// The types of strategies.
const (
	LeastAllocated           = "LeastAllocated"
	MostAllocated            = "MostAllocated"
	RequestedToCapacityRatio = "RequestedToCapacityRatio"
)

// WeightedResource is a resource with its weight among others.
type WeightedResource struct {
	Name   corev1.ResourceName
	Weight int64
}

// ShapePoint is a point of a piecewise linear function. Utilization is from 0 to 100, and so is Score.
type ShapePoint struct{ Utilization, Score int64 }

// DefaultResources are CPU and memory, with equal weights.
var DefaultResources = []WeightedResource{{corev1.ResourceCPU, 1}, {corev1.ResourceMemory, 1}}

// allocationScorer is a strategy, ready for use.
type allocationScorer struct {
	resources []WeightedResource
	// rate scores one resource.
	rate func(requested, total int64) int64
	// mean finishes the score from the sum of weighted scores and that of weights.
	ratio bool
}

func newAllocationScorer(s Strategy) *allocationScorer {
	a := &allocationScorer{resources: s.Resources}
	switch s.Type {
	case MostAllocated:
		a.rate = mostRequested
	case RequestedToCapacityRatio:
		a.ratio = true
		a.rate = func(requested, total int64) int64 {
			if total == 0 || requested > total {
				return valueOf(s.Shape, 100)
			}
			return valueOf(s.Shape, requested*100/total)
		}
	default:
		a.rate = leastRequested
	}
	return a
}

func leastRequested(requested, total int64) int64 {
	if total == 0 || requested > total {
		return 0
	}
	return (total - requested) * framework.MaxScore / total
}

func mostRequested(requested, total int64) int64 {
	if total == 0 {
		return 0
	}
	return min(requested, total) * framework.MaxScore / total
}

// valueOf returns the value of a piecewise linear function.
func valueOf(shape []ShapePoint, at int64) int64 {
	for i, point := range shape {
		if at <= point.Utilization {
			if i == 0 {
				return point.Score
			}
			last := shape[i-1]
			return last.Score + (point.Score-last.Score)*(at-last.Utilization)/(point.Utilization-last.Utilization)
		}
	}
	return shape[len(shape)-1].Score
}

type allocationScore struct {
	*allocationScorer
	requests []int64 // in the order of resources
}

func (a *allocationScorer) forPod(p *framework.PodInfo) framework.PodScore {
	s := &allocationScore{a, make([]int64, len(a.resources))}
	for i, r := range a.resources {
		s.requests[i] = scoredOf(&p.Scored, &p.Requests, r.Name)
	}
	return s
}

// scoredOf returns an amount with the defaults for scoring, which exist for CPU and memory.
func scoredOf(scored, requests *framework.Amounts, name corev1.ResourceName) int64 {
	if name == corev1.ResourceCPU || name == corev1.ResourceMemory {
		return scored.Of(name)
	}
	return requests.Of(name)
}

// scalar says whether a resource is none of those that every node has.
func scalar(name corev1.ResourceName) bool {
	return name != corev1.ResourceCPU && name != corev1.ResourceMemory && name != corev1.ResourceEphemeralStorage
}

// Score returns the weighted mean of the resources' scores. Resources that the pod does not request or the node does not have do not
// count.
func (s *allocationScore) Score(n *framework.NodeInfo) int64 {
	var sum, weights int64
	for i, r := range s.resources {
		if s.requests[i] == 0 && scalar(r.Name) {
			continue
		}
		total := n.Allocatable.Of(r.Name)
		if total == 0 {
			continue
		}
		score := s.rate(scoredOf(&n.Scored, &n.Requested, r.Name)+s.requests[i], total)
		if s.ratio && score <= 0 {
			continue
		}
		sum += score * r.Weight
		weights += r.Weight
	}
	switch {
	case weights == 0:
		return 0
	case s.ratio:
		return int64(math.Round(float64(sum) / float64(weights)))
	default:
		return sum / weights
	}
}
