package plugins

import (
	"fmt"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// SchedulingGates keeps pods with scheduling gates out of the queue.
type SchedulingGates struct{}

// Name returns the plugin's name.
func (SchedulingGates) Name() string { return "SchedulingGates" }

// PreEnqueue refuses a pod with gates.
func (SchedulingGates) PreEnqueue(p *framework.PodInfo) *framework.Status {
	if len(p.Spec.SchedulingGates) == 0 {
		return nil
	}
	gates := make([]string, len(p.Spec.SchedulingGates))
	for i, gate := range p.Spec.SchedulingGates {
		gates[i] = gate.Name
	}
	return framework.Refuse(framework.UnschedulableAndUnresolvable, "SchedulingGates", fmt.Sprintf("waiting for scheduling gates: %v", gates))
}
