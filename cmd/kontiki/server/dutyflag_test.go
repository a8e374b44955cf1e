package server

import (
	"slices"
	"strings"
	"testing"
)

func TestDuties(t *testing.T) {
	for text, want := range map[string]struct{ scheduler, deployment bool }{
		"*":                                    {true, true},
		"none":                                 {},
		"*,-kube-scheduler":                    {false, true},
		"-kube-scheduler,*":                    {false, true},
		"deployment-controller":                {false, true},
		"-kube-scheduler,kube-scheduler":       {},
		"kube-scheduler,replicaset-controller": {true, false},
		"*,-deployment-controller,kube-scheduler": {true, false},
	} {
		d, err := parseDuties(strings.Split(text, ","))
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if d.has(schedulerDuty) != want.scheduler || d.has("deployment-controller") != want.deployment {
			t.Errorf("%s: scheduler %v, deployments %v", text, d.has(schedulerDuty), d.has("deployment-controller"))
		}
	}
	for text, want := range map[string]string{
		"none,kube-scheduler":       "--duties: none must be the only value",
		"schedulr":                  `--duties: "schedulr" is not in the list of known duties: `,
		"-resourcequota-controller": `--duties: "resourcequota-controller" is not in the list`, // no other program can count quotas
	} {
		if _, err := parseDuties(strings.Split(text, ",")); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestControllersHaveNamesOfTheirOwn: a duty's name selects one controller.
func TestControllersHaveNamesOfTheirOwn(t *testing.T) {
	names := dutyNames()
	if len(slices.Compact(slices.Clone(names))) != len(names) || len(names) < 10 {
		t.Errorf("names %v", names)
	}
}
