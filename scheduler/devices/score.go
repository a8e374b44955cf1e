package devices

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// PreScore returns a score if claims have alternatives.
func (*DynamicResources) PreScore(_ *framework.Cluster, _ *framework.PodInfo, filter framework.PodFilter) framework.PodScore {
	f, ok := filter.(*podClaims)
	if !ok {
		return nil
	}
	for _, c := range f.claims {
		for i := range c.claim.Spec.Devices.Requests {
			if len(c.claim.Spec.Devices.Requests[i].FirstAvailable) > 0 {
				return &alternatives{f}
			}
		}
	}
	return nil
}

// alternatives prefers nodes where requests get what they list first.
type alternatives struct{ filter *podClaims }

// Compare says that the scores must not be kept: they depend on the plans.
func (*alternatives) Compare([]*framework.NodeInfo) bool { return true }

// Score adds up, for each request with alternatives, how far in front the one is that it gets.
func (s *alternatives) Score(n *framework.NodeInfo) (score int64) {
	p := s.filter.plans[n.Name]
	if p == nil {
		return 0
	}
	for _, c := range s.filter.claims {
		has := c.has
		if has == nil {
			has = p.allocations[c]
		}
		if has == nil {
			continue
		}
		got := map[string]bool{}
		for i := range has.Devices.Results {
			got[has.Devices.Results[i].Request] = true
		}
		for i := range c.claim.Spec.Devices.Requests {
			request := &c.claim.Spec.Devices.Requests[i]
			for j := range request.FirstAvailable {
				if got[resourceclaim.CreateSubRequestRef(request.Name, request.FirstAvailable[j].Name)] {
					score += int64(resourcev1.FirstAvailableDeviceRequestMaxSize - j)
				}
			}
		}
	}
	return score
}

// Normalize scales the scores.
func (*alternatives) Normalize(_ []*framework.NodeInfo, scores []int64) {
	framework.NormalizeByMax(scores, false)
}
