package pods

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/resources"
)

// SwapBehavior says which containers may use the node's swap (KEP-2400).
type SwapBehavior string

const (
	// NoSwap lets none use it.
	NoSwap SwapBehavior = "NoSwap"
	// LimitedSwap lets containers of Burstable pods use a part of it, as large as the part of the node's memory that they request. Critical pods,
	// and containers that request as much memory as their limit, may not.
	LimitedSwap SwapBehavior = "LimitedSwap"
)

// ParseSwapBehavior returns the behavior of that name, NoSwap for "".
func ParseSwapBehavior(name string) (SwapBehavior, error) {
	switch b := SwapBehavior(name); b {
	case "":
		return NoSwap, nil
	case NoSwap, LimitedSwap:
		return b, nil
	}
	return "", fmt.Errorf("memory-swap-behavior: %q is neither %s nor %s", name, NoSwap, LimitedSwap)
}

// swapOf returns how much of the node's swap a container may use besides its memory, in bytes.
func (m *Manager) swapOf(pod *corev1.Pod, l resources.Limits) int64 {
	memory := m.nodeMemory()
	if m.c.Swap != LimitedSwap || !m.features.Swap || m.critical(pod) || podspec.QOS(pod) != corev1.PodQOSBurstable || memory <= 0 ||
		l.MemoryRequest <= 0 || l.MemoryRequest >= l.MemoryLimit && l.MemoryLimit > 0 || l.MemoryRequest > memory {
		return 0
	}
	return int64(float64(l.MemoryRequest) / float64(memory) * float64(m.c.SwapTotal))
}
