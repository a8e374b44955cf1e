package framework

import (
	"encoding/binary"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/nodedeclaredfeatures"
)

// Signature returns a value that is equal for pods that are equal to the scheduler, such as those of one template: all that plugins
// read of a pod, but for its name and for the labels that only say which of the pods it is (see identity). It is "" for pods that must
// be looked at one by one: those with volumes or devices, whose placement depends on objects of their own, and those that select pods
// by a label of their identity themselves.
func (p *PodInfo) Signature() string {
	if p.signature == "" && !Mounts(p.Pod) && len(p.Spec.ResourceClaims) == 0 && p.Spec.NodeName == "" && p.identity&p.selects == 0 {
		p.signature = sign(p)
	}
	return p.signature
}

// sign writes the parts one after the other, each with its length, so that no two different pods can give the same bytes.
func sign(p *PodInfo) string {
	s := signer{buffer: make([]byte, 0, 512)}
	s.text(p.Spec.SchedulerName)
	s.text(p.Namespace)
	written := 0
	for _, key := range slices.Sorted(maps.Keys(p.Labels)) {
		if identityOf(key) == 0 {
			s.text(key)
			s.text(p.Labels[key])
			written++
		}
	}
	s.number(int64(written))
	s.number(int64(p.identity))
	if owner := metav1.GetControllerOfNoCopy(p.Pod); owner != nil {
		s.text(string(owner.UID))
	}
	s.text("")
	for _, key := range slices.Sorted(maps.Keys(p.Spec.NodeSelector)) {
		s.text(key)
		s.text(p.Spec.NodeSelector[key])
	}
	s.number(int64(len(p.Spec.NodeSelector)))
	if p.Spec.Affinity != nil {
		s.message(p.Spec.Affinity)
	}
	s.text("")
	for i := range p.Spec.Tolerations {
		s.message(&p.Spec.Tolerations[i])
	}
	s.text("")
	for i := range p.Spec.TopologySpreadConstraints {
		s.message(&p.Spec.TopologySpreadConstraints[i])
	}
	s.text("")
	s.amounts(&p.Requests)
	s.amounts(&p.Scored)
	for _, port := range p.Ports {
		s.text(port.IP)
		s.text(string(port.Protocol))
		s.number(int64(port.Port))
	}
	s.text("")
	s.containers(p.Spec.InitContainers)
	s.containers(p.Spec.Containers)
	for i := range p.Spec.Volumes {
		if image := p.Spec.Volumes[i].Image; image != nil {
			s.text(image.Reference)
		}
	}
	s.text("")
	s.text(RequiredFeatures(p.Pod).String())
	return string(s.buffer)
}

type signer struct{ buffer []byte }

func (s *signer) number(n int64) { s.buffer = binary.AppendVarint(s.buffer, n) }

func (s *signer) text(t string) {
	s.number(int64(len(t)))
	s.buffer = append(s.buffer, t...)
}

// message writes a part of a pod. The generated encoders order the keys of maps.
func (s *signer) message(m interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}) {
	size := m.Size()
	s.number(int64(size))
	start := len(s.buffer)
	s.buffer = append(s.buffer, make([]byte, size)...)
	if _, err := m.MarshalToSizedBuffer(s.buffer[start:]); err != nil {
		panic(err) // the encoders fail only in a buffer that is too small
	}
}

func (s *signer) amounts(a *Amounts) {
	for _, n := range []int64{a.MilliCPU, a.Memory, a.Storage, int64(len(a.Scalar))} {
		s.number(n)
	}
	for _, name := range slices.Sorted(maps.Keys(a.Scalar)) {
		s.text(string(name))
		s.number(a.Scalar[name])
	}
}

func (s *signer) containers(list []corev1.Container) {
	s.number(int64(len(list)))
	for i := range list {
		s.text(list[i].Image)
	}
}

// RequiredFeatures returns the features that a node must declare to run a pod.
func RequiredFeatures(pod *corev1.Pod) nodedeclaredfeatures.FeatureSet {
	// The registry's features have no largest version that this version could be beyond.
	required, err := nodedeclaredfeatures.DefaultFramework.InferForPodScheduling(&nodedeclaredfeatures.PodInfo{Spec: &pod.Spec}, featureVersion)
	if err != nil {
		panic(err) // it fails only without a version
	}
	return required
}

var featureVersion = version.MustParseGeneric("1.37.0")
