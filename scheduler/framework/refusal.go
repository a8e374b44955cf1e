package framework

import (
	"fmt"
	"slices"
	"strings"
)

// NoNodes is the message of a refusal when there are no nodes at all; it is upstream's.
const NoNodes = "no nodes available to schedule pods"

// Refusal says why there is no node for a pod.
type Refusal struct {
	// Nodes is the number of nodes that there are.
	Nodes int
	// All is the refusal of all nodes at once, by PreFilter.
	All *Status
	// Single are the refusals of single nodes, by name.
	Single map[string]*Status
	// Rest is the refusal of the nodes that are not in Single.
	Rest *Status
	// Added is what was found out afterwards, by PostFilter.
	Added string
}

// Message returns the refusal in the form of upstream's FitError.
func (r *Refusal) Message() string {
	if r.Nodes == 0 {
		return NoNodes
	}
	message := fmt.Sprintf("0/%d nodes are available:", r.Nodes)
	if r.All != nil {
		message += " " + r.All.Message() + "."
	} else if reasons := r.histogram(); len(reasons) > 0 {
		message += " " + strings.Join(reasons, ", ") + "."
	}
	if r.Added != "" {
		message += " " + r.Added
	}
	return message
}

func (r *Refusal) histogram() []string {
	counts := map[string]int{}
	for _, status := range r.Single {
		for _, reason := range status.Reasons {
			counts[reason]++
		}
	}
	if rest := r.Nodes - len(r.Single); rest > 0 && r.Rest != nil {
		for _, reason := range r.Rest.Reasons {
			counts[reason] += rest
		}
	}
	parts := make([]string, 0, len(counts))
	for reason, n := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return parts
}

// Plugins returns the names of the plugins that refused, sorted.
func (r *Refusal) Plugins() []string {
	var out []string
	add := func(s *Status) {
		if s != nil && !slices.Contains(out, s.Plugin) {
			out = append(out, s.Plugin)
		}
	}
	add(r.All)
	add(r.Rest)
	for _, status := range r.Single {
		add(status)
	}
	slices.Sort(out)
	return out
}

// Failure returns the first internal error among the refusals, or nil.
func (r *Refusal) Failure() *Status {
	if r.All != nil && r.All.Code == Error {
		return r.All
	}
	var names []string
	for name, status := range r.Single {
		if status.Code == Error {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return r.Single[slices.Min(names)]
}
