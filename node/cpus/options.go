package cpus

import (
	"fmt"
	"strconv"

	"k8s.io/utils/cpuset"
)

// The policies' names, which are those of the kubelet's cpuManagerPolicy.
const (
	None   = "none"
	Static = "static"
)

// Options are the kubelet's cpuManagerPolicyOptions that are stable in Kubernetes v1.37.
type Options struct {
	// FullCores (full-pcpus-only) gives containers whole cores only, and refuses those that request parts of one.
	FullCores bool
	// StrictReservation (strict-cpu-reservation) keeps all containers from the reserved processors, not only those with processors of their
	// own.
	StrictReservation bool
	// AlignCaches (prefer-align-cpus-by-uncorecache) takes processors that share a cache, if possible.
	AlignCaches bool
}

// ParseOptions reads options by their names. Those that are not stable are refused.
func ParseOptions(in map[string]string) (Options, error) {
	var o Options
	fields := map[string]*bool{"full-pcpus-only": &o.FullCores, "strict-cpu-reservation": &o.StrictReservation, "prefer-align-cpus-by-uncorecache": &o.AlignCaches}
	for name, value := range in {
		field := fields[name]
		if field == nil {
			switch name {
			case "align-by-socket", "distribute-cpus-across-cores", "distribute-cpus-across-numa":
				return o, fmt.Errorf("CPU manager policy option %q is not stable in Kubernetes v1.37, and not supported", name)
			}
			return o, fmt.Errorf("unknown CPU manager policy option %q", name)
		}
		b, err := strconv.ParseBool(value)
		if err != nil {
			return o, fmt.Errorf("bad value for CPU manager policy option %q: %w", name, err)
		}
		*field = b
	}
	return o, nil
}

// ParseReserved reads a set of processors: "0-1,8".
func ParseReserved(s string) (cpuset.CPUSet, error) {
	set, err := cpuset.Parse(s)
	if err != nil {
		return set, fmt.Errorf("reserved CPUs %q: want a set such as 0-1,8: %w", s, err)
	}
	return set, nil
}
