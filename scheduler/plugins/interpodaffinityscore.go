package plugins

import (
	"github.com/kontiki/kontiki/scheduler/framework"
)

// interPodScore sums up, by domain, the weights of the pod's preferred terms that placed pods match, and those of the placed pods'
// terms that the pod matches.
type interPodScore struct {
	plugin  *InterPodAffinity
	cluster *framework.Cluster
	pod     *framework.PodInfo
	sums    []domainSum
	active  []*domainSum
}

// domainSum has the sums of the domains of one topology key.
type domainSum struct {
	domains *framework.Domains
	sum     []int64
	terms   int // how many matches are in the sums
}

// PreScore sums up over all pods for a pod with preferred terms, otherwise over those with terms.
func (a *InterPodAffinity) PreScore(c *framework.Cluster, p *framework.PodInfo, _ framework.PodFilter) framework.PodScore {
	if a.IgnorePlaced && len(p.Preferred) == 0 {
		return nil
	}
	s := &interPodScore{plugin: a, cluster: c, pod: p}
	if len(p.Preferred)+c.Inclined == 0 {
		return s
	}
	for _, n := range c.Nodes {
		pods := n.Pods
		if len(p.Preferred) == 0 {
			pods = n.Inclined
		}
		for _, other := range pods {
			s.count(other, n, 1)
		}
	}
	return s
}

// AddPod counts a pod more.
func (s *interPodScore) AddPod(p *framework.PodInfo, n *framework.NodeInfo) { s.count(p, n, 1) }

// RemovePod counts a pod less.
func (s *interPodScore) RemovePod(p *framework.PodInfo, n *framework.NodeInfo) { s.count(p, n, -1) }

func (s *interPodScore) count(other *framework.PodInfo, n *framework.NodeInfo, sign int64) {
	for i := range s.pod.Preferred {
		t := &s.pod.Preferred[i]
		if t.Matches(other.Pod, s.cluster.Namespaces) {
			s.add(t.Key, n, t.Weight, sign)
		}
	}
	if s.plugin.HardWeight > 0 {
		for i := range other.Near {
			if t := &other.Near[i]; t.Matches(s.pod.Pod, s.cluster.Namespaces) {
				s.add(t.Key, n, s.plugin.HardWeight, sign)
			}
		}
	}
	for i := range other.Preferred {
		if t := &other.Preferred[i]; t.Matches(s.pod.Pod, s.cluster.Namespaces) {
			s.add(t.Key, n, t.Weight, sign)
		}
	}
}

func (s *interPodScore) add(key string, n *framework.NodeInfo, weight, sign int64) {
	var sum *domainSum
	for i := range s.sums {
		if s.sums[i].domains.Key == key {
			sum = &s.sums[i]
		}
	}
	if sum == nil {
		domains := s.cluster.Domains(key)
		s.sums = append(s.sums, domainSum{domains: domains, sum: make([]int64, domains.Count)})
		sum = &s.sums[len(s.sums)-1]
	}
	if d := sum.domains.Of[n.Index]; d >= 0 {
		sum.sum[d] += sign * weight
		sum.terms += int(sign)
	}
}

// Compare returns false if no term matches.
func (s *interPodScore) Compare([]*framework.NodeInfo) bool {
	s.active = s.active[:0]
	for i := range s.sums {
		if s.sums[i].terms > 0 {
			s.active = append(s.active, &s.sums[i])
		}
	}
	return len(s.active) > 0
}

// Score returns the sum of the node's domains.
func (s *interPodScore) Score(n *framework.NodeInfo) (sum int64) {
	for _, a := range s.active {
		if d := a.domains.Of[n.Index]; d >= 0 {
			sum += a.sum[d]
		}
	}
	return sum
}

func (s *interPodScore) Normalize(_ []*framework.NodeInfo, scores []int64) {
	least, most := scores[0], scores[0]
	for _, score := range scores {
		least, most = min(least, score), max(most, score)
	}
	for i, score := range scores {
		scores[i] = 0
		if most > least {
			scores[i] = int64(framework.MaxScore * (float64(score-least) / float64(most-least)))
		}
	}
}
