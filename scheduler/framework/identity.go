package framework

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// identityLabels are the labels that controllers give to tell the pods of one template apart. They would make the pods of a StatefulSet
// or of an indexed Job all different to the scheduler. Hardly anything selects by them, so they are left out of signatures, and pods
// that have one share no evaluation as long as something does select by it.
var identityLabels = [...]string{appsv1.PodIndexLabel, appsv1.StatefulSetPodNameLabel, batchv1.JobCompletionIndexAnnotation}

// identity is a set of identityLabels: bit i stands for the label i.
type identity uint8

func identityOf(key string) identity {
	for i, label := range identityLabels {
		if key == label {
			return 1 << i
		}
	}
	return 0
}

func identityIn(set map[string]string) (has identity) {
	for i, label := range identityLabels {
		if _, ok := set[label]; ok {
			has |= 1 << i
		}
	}
	return has
}

// selectedBy returns the labels of identity that a selector reads.
func selectedBy(s labels.Selector) (read identity) {
	requirements, _ := s.Requirements()
	for i := range requirements {
		read |= identityOf(requirements[i].Key())
	}
	return read
}

// selections returns the labels of identity that a pod's terms on other pods read: all of them, and those that are about this pod too
// once it is placed, which are those of affinity.
func (p *PodInfo) selections() (all, placed identity) {
	for _, terms := range [][]AffinityTerm{p.Near, p.Far} {
		for i := range terms {
			placed |= selectedBy(terms[i].Selector)
		}
	}
	for i := range p.Preferred {
		placed |= selectedBy(p.Preferred[i].Selector)
	}
	all = placed
	for _, terms := range [][]SpreadTerm{p.Hard, p.Soft} {
		for i := range terms {
			all |= selectedBy(terms[i].Selector)
		}
	}
	return all, placed
}

// identityCounts has the number of pods whose affinity reads each of the labels of identity.
type identityCounts [len(identityLabels)]int

func (c *identityCounts) add(read identity, sign int) {
	for i := range c {
		if read&(1<<i) != 0 {
			c[i] += sign
		}
	}
}

func (c *identityCounts) any() (read identity) {
	for i, n := range c {
		if n > 0 {
			read |= 1 << i
		}
	}
	return read
}

// Distinguishes says whether the affinity of a pod that is placed or nominated reads a label that tells a pod apart from the others of
// its template.
func (c *Cluster) Distinguishes(p *PodInfo) bool { return c.readers.any()&p.identity != 0 }

// Distinguisher is a FilterPlugin that may read labels of identity elsewhere than in the affinity of placed pods and in the pod's own
// constraints.
type Distinguisher interface {
	FilterPlugin
	// Distinguishes says whether the plugin may treat pods differently that differ in nothing but the values of labels that reads
	// accepts.
	Distinguishes(p *PodInfo, reads func(labels.Selector) bool) bool
}

// distinguished says whether one of the profile's plugins may treat the pod differently from others of its template.
func (e *Evaluation) distinguished() bool {
	if e.pod.identity == 0 {
		return false
	}
	reads := func(s labels.Selector) bool { return selectedBy(s)&e.pod.identity != 0 }
	for _, plugin := range e.profile.Filters {
		if d, ok := plugin.(Distinguisher); ok && d.Distinguishes(e.pod, reads) {
			return true
		}
	}
	return false
}
