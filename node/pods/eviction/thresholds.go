package eviction

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is something of the node that may run out, by the kubelet's name.
type Signal string

// The signals.
const (
	MemoryAvailable   Signal = "memory.available"
	NodeFsAvailable   Signal = "nodefs.available"
	NodeFsInodesFree  Signal = "nodefs.inodesFree"
	ImageFsAvailable  Signal = "imagefs.available"
	ImageFsInodesFree Signal = "imagefs.inodesFree"
	PidAvailable      Signal = "pid.available"
)

type about struct {
	signal    Signal
	condition corev1.NodeConditionType
	resource  corev1.ResourceName
}

// signals are what each signal is about: the condition of the node, and the resource in messages. The order is that in which they are
// relieved.
var signals = []about{
	{MemoryAvailable, corev1.NodeMemoryPressure, corev1.ResourceMemory},
	{NodeFsAvailable, corev1.NodeDiskPressure, corev1.ResourceEphemeralStorage},
	{NodeFsInodesFree, corev1.NodeDiskPressure, "inodes"},
	{ImageFsAvailable, corev1.NodeDiskPressure, corev1.ResourceEphemeralStorage},
	{ImageFsInodesFree, corev1.NodeDiskPressure, "inodes"},
	{PidAvailable, corev1.NodePIDPressure, "pids"},
}

// Room is what the node has of something, and how much of it is available.
type Room struct{ Available, Capacity int64 }

// Threshold is how little of a signal may be available before pods are evicted.
type Threshold struct {
	Signal Signal
	// Quantity or Percent of the capacity: one of them.
	Quantity *resource.Quantity
	Percent  float64
	// Grace is how long less may be available; 0 for a hard threshold, at which pods are evicted at once and without grace.
	Grace time.Duration
}

func (t Threshold) least(capacity int64) resource.Quantity {
	if t.Quantity != nil {
		return *t.Quantity
	}
	return *resource.NewQuantity(int64(float64(capacity)*t.Percent/100), resource.BinarySI)
}

// Default are the kubelet's hard thresholds.
const Default = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%"

// ParseThresholds parses thresholds as the kubelet's flags have them: "memory.available<100Mi,nodefs.available<10%". Each soft one needs a
// period of grace: "memory.available=1m30s".
func ParseThresholds(hard, soft, grace string) ([]Threshold, error) {
	graces := map[Signal]time.Duration{}
	for _, part := range list(grace) {
		name, value, _ := strings.Cut(part, "=")
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return nil, fmt.Errorf("invalid eviction grace period %q", part)
		}
		graces[Signal(name)] = d
	}
	var out []Threshold
	for _, text := range list(hard) {
		t, err := parseThreshold(text)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	for _, text := range list(soft) {
		t, err := parseThreshold(text)
		if err != nil {
			return nil, err
		}
		if t.Grace = graces[t.Signal]; t.Grace == 0 {
			return nil, fmt.Errorf("grace period must be specified for the soft eviction threshold %v", t.Signal)
		}
		out = append(out, t)
	}
	return out, nil
}

func list(s string) []string {
	if strings.TrimSpace(s) == "" {
		return nil
	}
	return strings.Split(strings.ReplaceAll(s, " ", ""), ",")
}

func parseThreshold(text string) (Threshold, error) {
	name, value, ok := strings.Cut(text, "<")
	t := Threshold{Signal: Signal(name)}
	if !ok {
		return t, fmt.Errorf("invalid eviction threshold syntax %q, expected <signal><operator><value>", text)
	}
	known := false
	for _, s := range signals {
		known = known || s.signal == t.Signal
	}
	if !known {
		return t, fmt.Errorf("unsupported eviction signal %v", name)
	}
	if percent, ok := strings.CutSuffix(value, "%"); ok {
		p, err := strconv.ParseFloat(percent, 64)
		if err != nil || p < 0 || p > 100 {
			return t, fmt.Errorf("eviction percentage threshold %v must be between 0%% and 100%%: %s", name, value)
		}
		t.Percent = p
		return t, nil
	}
	q, err := resource.ParseQuantity(value)
	if err != nil || q.Sign() < 0 {
		return t, fmt.Errorf("eviction threshold %v must be a quantity that is not negative: %s", name, value)
	}
	t.Quantity = &q
	return t, nil
}
