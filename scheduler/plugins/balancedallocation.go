package plugins

import (
	"math"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// NodeResourcesBalancedAllocation prefers nodes of which the pod makes the shares of requested resources more equal.
type NodeResourcesBalancedAllocation struct {
	Resources []WeightedResource
}

// Name returns the plugin's name.
func (NodeResourcesBalancedAllocation) Name() string { return "NodeResourcesBalancedAllocation" }

type balanceScore struct {
	resources []WeightedResource
	requests  []int64
	with      []float64 // reused memory
}

// PreScore returns a score for a pod with requests: those without would all be placed on one node.
func (b NodeResourcesBalancedAllocation) PreScore(_ *framework.Cluster, p *framework.PodInfo, _ framework.PodFilter) framework.PodScore {
	s := &balanceScore{resources: b.Resources, requests: make([]int64, len(b.Resources))}
	none := true
	for i, r := range b.Resources {
		s.requests[i] = p.Requests.Of(r.Name)
		none = none && s.requests[i] == 0
	}
	if none {
		return nil
	}
	return s
}

// Score compares the balance with and without the pod: 75 if it does not change, up to 100 if it improves.
func (s *balanceScore) Score(n *framework.NodeInfo) int64 {
	const half = framework.MaxScore / 2
	return half + (half+s.balance(n, true)-s.balance(n, false))/2
}

// balance is MaxScore less the standard deviation of the shares of the resources.
func (s *balanceScore) balance(n *framework.NodeInfo, with bool) int64 {
	shares := s.with[:0]
	var sum float64
	for i, r := range s.resources {
		total := n.Allocatable.Of(r.Name)
		if total == 0 || (s.requests[i] == 0 && scalar(r.Name)) {
			continue
		}
		requested := n.Requested.Of(r.Name)
		if with {
			requested += s.requests[i]
		}
		share := min(float64(requested)/float64(total), 1)
		shares = append(shares, share)
		sum += share
	}
	s.with = shares
	var deviation float64
	switch {
	case len(shares) == 2:
		deviation = math.Abs((shares[0] - shares[1]) / 2)
	case len(shares) > 2:
		mean := sum / float64(len(shares))
		var squares float64
		for _, share := range shares {
			squares += (share - mean) * (share - mean)
		}
		deviation = math.Sqrt(squares / float64(len(shares)))
	}
	return int64((1 - deviation) * framework.MaxScore)
}
