package admin

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cmd/kontiki/upgrade"
)

// TestUpgradeFlags: what is missing or does not fit is said before a host is touched.
func TestUpgradeFlags(t *testing.T) {
	program := filepath.Join(t.TempDir(), "kontiki")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho kontiki version v1.37.2+kontiki.9\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ args, says string }{
		{"", "want one of --program, --package and --each"},
		{"--program " + program + " --each true", "want one of --program, --package and --each"},
		{"--each true", "--to: name the version"},
		{"--package x.deb", "--to: name the version"},
		{"--package missing.deb --to v9", "no such file"},
		{"--program missing", "--program: "},
		{"--program " + program + " --wait 0s", "--wait: "},
		{"--program " + program + " -o json", "only the plan, of --dry-run"},
	} {
		cmd := clusterCommand()
		cmd.SilenceUsage, cmd.SilenceErrors = true, true
		cmd.SetArgs(append([]string{"upgrade"}, strings.Fields(c.args)...))
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: %v, want: %s", c.args, err, c.says)
		}
	}
	u := upgradeFlags{program: program, patience: 1}
	if o, err := u.options(t.Context()); err != nil || o.Version != "v1.37.2+kontiki.9" {
		t.Errorf("the version of the program: %q, %v", o.Version, err)
	}
}

// oneMaster is a cluster of one master and a worker.
type oneMaster struct{}

func (oneMaster) Status(context.Context) (*cluster.Status, error) {
	return &cluster.Status{Leader: "m1", Members: []cluster.MemberStatus{{Name: "m1", Role: cluster.StatusLeader, Address: "10.0.0.1:6444", Version: "v1+kontiki.1"}}}, nil
}
func (oneMaster) Transfer(context.Context, string) error { return nil }
func (oneMaster) Nodes(context.Context) ([]corev1.Node, error) {
	return []corev1.Node{{ObjectMeta: metav1.ObjectMeta{Name: "w1"}, Status: corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{KubeletVersion: "v1+kontiki.2"},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}}, nil
}
func (oneMaster) Pods(context.Context, string) ([]corev1.Pod, error) { return nil, nil }

func TestThePlanOfAnUpgradeIsPrinted(t *testing.T) {
	var out bytes.Buffer
	o := upgrade.Options{Cluster: oneMaster{}, Version: "v1+kontiki.2", AllowInterruption: true}
	if err := printPlan(t.Context(), &out, o, false); err != nil {
		t.Fatal(err)
	}
	want := "    HOST   ROLE             ADDRESS    RUNS           THEN\n1   m1     master (leads)   10.0.0.1   v1+kontiki.1   v1+kontiki.2\n"
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
	o.AllowInterruption = false
	var code ExitCode
	if err := printPlan(t.Context(), &out, o, false); !errors.As(err, &code) || code != 2 {
		t.Errorf("something is in the way: %v, want the exit code 2", err)
	}
}
