package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// sshToDev writes a stand-in for ssh to hosts of the development cluster, which have none: it keeps what is sent to its standard input, and starts
// the host that has the address with that. A host that a file names is not started again.
func sshToDev(t *testing.T, dir string, addresses map[string]string) (ssh string) {
	t.Helper()
	var hosts strings.Builder
	for host, address := range addresses {
		fmt.Fprintf(&hosts, "  %s) host=%s;;\n", address, host)
	}
	ssh = filepath.Join(dir, "ssh")
	script := fmt.Sprintf(`#!/bin/sh
# ssh -l USER ADDRESS COMMAND
set -eu
case "$3" in
%sesac
cat > %[2]s/$host.next
chmod 755 %[2]s/$host.next
%[3]s dev stop $host --data-dir %[4]s
if [ -e %[2]s/$host.broken ]; then exit 0; fi
%[3]s dev start $host --kontiki %[2]s/$host.next --data-dir %[4]s
`, hosts.String(), dir, env.Kontiki, env.Dir)
	if err := os.WriteFile(ssh, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return ssh
}

// TestUpgradeCommand: kontiki cluster upgrade replaces the program of all hosts, one after the other and the leader last of the masters, stops at
// the first that does not come back, and goes on when it is run again.
func TestUpgradeCommand(t *testing.T) {
	previous, next := previousProgram(t), os.Getenv("KONTIKI")
	printed, err := exec.Command(next, "--version").Output()
	fields := strings.Fields(string(printed))
	if err != nil || len(fields) != 3 {
		t.Fatalf("%s --version: %s %v", next, printed, err)
	}
	version := fields[2]
	ownCluster(t, previous, masters, workers)
	healthy(t)
	const ns = "upgrade"
	kubectl(t, "create", "namespace", ns)
	for i := range workers {
		apply(t, in(ns, toolPod(fmt.Sprint("server-", i+1), fmt.Sprint("worker-", i+1), "tools", "serve")))
	}
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s")
	containers := containerIDs(t, ns)

	// The plan: masters that follow, the leader, workers.
	env.Kontiki = next // the command is the new program's
	upgrade := func(args ...string) (string, error) {
		return kontiki(append([]string{"cluster", "upgrade", "--program", next}, args...)...)
	}
	out, err := upgrade("--dry-run", "-o", "json")
	var plan struct {
		Version string
		Hosts   []struct {
			Name, Role, Address, Version string
			Leads                        bool
		}
		Problems []string
	}
	if err != nil || json.Unmarshal([]byte(out), &plan) != nil || plan.Version != version || len(plan.Hosts) != masters+workers || len(plan.Problems) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	addresses := map[string]string{}
	var order []string
	for i, h := range plan.Hosts {
		addresses[h.Name] = h.Address
		order = append(order, h.Name)
		if h.Version != previousVersion || h.Leads != (i == masters-1) || (h.Role == "worker") != (i >= masters) {
			t.Errorf("host %d of the plan: %+v", i+1, h)
		}
	}
	dir := t.TempDir()
	ssh := sshToDev(t, dir, addresses)

	// The second host does not come back: nothing else is touched.
	broken := filepath.Join(dir, order[1]+".broken")
	if err := os.WriteFile(broken, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err = upgrade("--ssh", ssh, "--wait", "20s"); err == nil || !strings.Contains(err.Error(), "stopped at "+order[1]) || !strings.Contains(out, order[0]+" is back after") {
		t.Fatalf("%v: %s", err, out)
	}
	if m := member(t, order[0]); m.Version != version {
		t.Errorf("%s runs %s", order[0], m.Version)
	}
	if m := member(t, order[2]); m.Version != previousVersion {
		t.Errorf("%s runs %s, and was not to be touched", order[2], m.Version)
	}
	// Nor does it go on while that host is away.
	if out, err = upgrade("--dry-run"); err == nil || !strings.Contains(err.Error(), order[1]) {
		t.Errorf("the plan while %s is away: %v: %s", order[1], err, out)
	}
	// When it is back, the same command goes on.
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	must(t, "dev", "start", order[1], "--kontiki", previous)
	healthy(t)
	leader, err := env.Leader()
	if err != nil {
		t.Fatal(err)
	}
	if out, err = upgrade("--ssh", ssh, "--wait", "2m"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	done := slices.DeleteFunc(strings.Split(out, "\n"), func(line string) bool { return !strings.Contains(line, "is back after") })
	if len(done) != masters+workers-1 || !strings.Contains(out, leader+" leads: handing leadership over to ") || !strings.HasPrefix(done[masters-2], leader+" ") {
		t.Errorf("%s led, and the command says\n%s", leader, out)
	}
	contains(t, out, fmt.Sprintf("%d host(s) upgraded: all run %s", masters+workers-1, version))
	healthy(t)
	for _, host := range order[:masters] {
		if m := member(t, host); m.Version != version {
			t.Errorf("%s runs %s", host, m.Version)
		}
	}
	nodes, err := env.Set.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		if got := n.Status.NodeInfo.KubeletVersion; got != version {
			t.Errorf("worker %s runs %s", n.Name, got)
		}
	}
	sameContainers(t, containers, containerIDs(t, ns))
	if out, err = upgrade("--ssh", ssh); err != nil || !strings.Contains(out, "All hosts run "+version+" already") {
		t.Errorf("again: %v: %s", err, out)
	}
}
