package server

import (
	"fmt"
	"slices"
	"strings"
)

// schedulerDuty is the name of the scheduler in --duties.
const schedulerDuty = "kube-scheduler"

// dutyList is the value of --duties: which of the leader's duties Kontiki carries out itself, so that upstream's kube-scheduler and
// kube-controller-manager can carry out the others. It is written like --controllers of kube-controller-manager: "*" stands for all,
// "name" switches a duty on, "-name" off; "none" alone switches all off. The first mention of a name decides.
type dutyList []string

// dutyNames returns the names that --duties can have.
func dutyNames() []string {
	names := []string{schedulerDuty}
	for _, entry := range (*master)(nil).controllers(nil) {
		if !entry.own {
			names = append(names, entry.name)
		}
	}
	slices.Sort(names)
	return names
}

// parseDuties checks the values of the flag.
func parseDuties(values []string) (dutyList, error) {
	known := dutyNames()
	for _, value := range values {
		switch name := strings.TrimPrefix(value, "-"); {
		case value == "none" && len(values) > 1:
			return nil, fmt.Errorf("--duties: none must be the only value")
		case value == "none", value == "*", slices.Contains(known, name):
		default:
			return nil, fmt.Errorf("--duties: %q is not in the list of known duties: %s", name, strings.Join(known, ", "))
		}
	}
	return values, nil
}

// has returns whether the master carries out a duty.
func (d dutyList) has(name string) bool {
	for _, value := range d {
		switch value {
		case name:
			return true
		case "-" + name, "none":
			return false
		}
	}
	return slices.Contains(d, "*")
}
