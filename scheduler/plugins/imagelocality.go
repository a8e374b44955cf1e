package plugins

import (
	"strings"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// ImageLocality prefers nodes that already have large images of the pod.
type ImageLocality struct{}

// Name returns the plugin's name.
func (ImageLocality) Name() string { return "ImageLocality" }

// Sums of sizes up to the least one do not count, and more than the largest one for each container adds nothing.
const (
	leastImages         = 23 << 20
	mostOfEachContainer = 1000 << 20
)

type imageScore struct {
	cluster *framework.Cluster
	images  []string
	most    int64
}

// PreScore returns a score.
func (ImageLocality) PreScore(c *framework.Cluster, p *framework.PodInfo, _ framework.PodFilter) framework.PodScore {
	s := &imageScore{cluster: c}
	for i := range p.Spec.InitContainers {
		s.images = append(s.images, normalizedImage(p.Spec.InitContainers[i].Image))
	}
	for i := range p.Spec.Containers {
		s.images = append(s.images, normalizedImage(p.Spec.Containers[i].Image))
	}
	for i := range p.Spec.Volumes {
		if image := p.Spec.Volumes[i].Image; image != nil {
			s.images = append(s.images, normalizedImage(image.Reference))
		}
	}
	s.most = mostOfEachContainer * int64(len(s.images))
	return s
}

// Compare returns false if no node has an image of the pod.
func (s *imageScore) Compare([]*framework.NodeInfo) bool {
	for _, image := range s.images {
		if s.cluster.ImageNodes[image] > 0 {
			return true
		}
	}
	return false
}

// Score sums up the sizes of the images that the node has. An image that few nodes have counts less, so that pods are not all placed
// on these.
func (s *imageScore) Score(n *framework.NodeInfo) (sum int64) {
	if len(n.Images) > 0 {
		for _, image := range s.images {
			if size, ok := n.Images[image]; ok {
				sum += int64(float64(size) * (float64(s.cluster.ImageNodes[image]) / float64(len(s.cluster.Nodes))))
			}
		}
	}
	return framework.MaxScore * (min(max(sum, leastImages), s.most) - leastImages) / (s.most - leastImages)
}

// normalizedImage returns the name of an image with its tag.
func normalizedImage(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
		return name + ":latest"
	}
	return name
}
