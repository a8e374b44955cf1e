package framework

import (
	"maps"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/amount"
)

// Amounts are resources: CPU in thousandths of a core, the others in bytes or counts.
type Amounts struct {
	MilliCPU, Memory, Storage int64
	Scalar                    map[corev1.ResourceName]int64
}

func (a *Amounts) add(b *Amounts, sign int64) {
	a.MilliCPU += sign * b.MilliCPU
	a.Memory += sign * b.Memory
	a.Storage += sign * b.Storage
	for name, n := range b.Scalar {
		if a.Scalar == nil {
			a.Scalar = map[corev1.ResourceName]int64{}
		}
		if a.Scalar[name] += sign * n; a.Scalar[name] == 0 {
			delete(a.Scalar, name)
		}
	}
}

// Of returns the amount of a resource.
func (a *Amounts) Of(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return a.MilliCPU
	case corev1.ResourceMemory:
		return a.Memory
	case corev1.ResourceEphemeralStorage:
		return a.Storage
	default:
		return a.Scalar[name]
	}
}

// None says whether there is none of any resource.
func (a *Amounts) None() bool {
	return a.MilliCPU == 0 && a.Memory == 0 && a.Storage == 0 && len(a.Scalar) == 0
}

func (a *Amounts) equal(b *Amounts) bool {
	return a.MilliCPU == b.MilliCPU && a.Memory == b.Memory && a.Storage == b.Storage && maps.Equal(a.Scalar, b.Scalar)
}

// AmountsOf converts a list. The number of pods is not a part of it.
func AmountsOf(list corev1.ResourceList) Amounts {
	var a Amounts
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU:
			a.MilliCPU = amount.Milli(&quantity)
		case corev1.ResourceMemory:
			a.Memory = amount.Value(&quantity)
		case corev1.ResourceEphemeralStorage:
			a.Storage = amount.Value(&quantity)
		case corev1.ResourcePods:
		default:
			if a.Scalar == nil {
				a.Scalar = map[corev1.ResourceName]int64{}
			}
			if n := amount.Value(&quantity); n != 0 {
				a.Scalar[name] = n
			}
		}
	}
	return a
}
