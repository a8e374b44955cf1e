package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/cpuset"
)

// allowed returns the processors and the NUMA nodes that the first process of a pod's container may use.
func allowed(t *testing.T, ns, pod string) (cpus cpuset.CPUSet, memories string) {
	t.Helper()
	var out string
	eventually(t, 30*time.Second, "a command in "+pod, func() (err error) { // the agent may be starting
		out, err = kontiki("kubectl", "-n", ns, "exec", pod, "--", "cat", "/proc/1/status")
		return err
	})
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); name {
		case "Cpus_allowed_list":
			set, err := cpuset.Parse(value)
			if err != nil {
				t.Fatal(err)
			}
			cpus = set
		case "Mems_allowed_list":
			memories = value
		}
	}
	return cpus, memories
}

func TestGuaranteedPodsGetProcessorsOfTheirOwn(t *testing.T) {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		t.Fatal(err)
	}
	all, err := cpuset.Parse(strings.TrimSpace(string(b)))
	if err != nil || all.Size() < 2 {
		// One is reserved for the host, another one is given to a pod.
		t.Skipf("this needs two processors: %s %v", all, err)
	}
	reserved := all.List()[0]
	ownCluster(t, env.Kontiki, 1, 1, "--agent-arg=--cpu-manager-policy=static", fmt.Sprint("--agent-arg=--reserved-cpus=", reserved),
		"--agent-arg=--memory-manager-policy=Static", "--agent-arg=--reserved-memory=0:memory=256Mi", "--agent-arg=--topology-manager-policy=restricted")
	ns := namespace(t)
	const guaranteed = `    resources: {limits: {cpu: 1, memory: 64Mi}}`
	apply(t, shellPod(ns, "shares", "true", "", ""))
	apply(t, shellPod(ns, "own", "true", guaranteed, ""))
	waitReady(t, ns, "shares", "own")
	own, memories := allowed(t, ns, "own")
	if own.Size() != 1 || own.Contains(reserved) || memories != "0" {
		t.Errorf("the container with a processor of its own has %s, and memory of %s", own, memories)
	}
	sharesAre := func(want cpuset.CPUSet) {
		t.Helper()
		eventually(t, 30*time.Second, "the other container to use "+want.String(), func() error {
			if got, _ := allowed(t, ns, "shares"); !got.Equals(want) {
				return fmt.Errorf("it uses %s", got)
			}
			return nil
		})
	}
	sharesAre(all.Difference(own))
	if got := monitored(t, "worker-1", ns, "own"); got != "cpu "+own.String() {
		t.Errorf("monitoring agents read %q", got)
	}
	if c, a, _ := amounts(t, "worker-1", corev1.ResourceCPU); c != int64(all.Size()) || a != int64(all.Size()-1) {
		t.Errorf("the node has %d processors and %d allocatable ones", c, a)
	}
	before := containerIDs(t, ns)
	must(t, "dev", "kill", "worker-1")
	must(t, "dev", "start", "worker-1")
	eventually(t, time.Minute, "the worker to be ready", func() error { return nodesReady(1) })
	sameContainers(t, before, containerIDs(t, ns))
	if now, _ := allowed(t, ns, "own"); !now.Equals(own) {
		t.Errorf("after a restart of the agent it has %s, before %s", now, own)
	}
	sharesAre(all.Difference(own))
	kubectl(t, "-n", ns, "delete", "pod", "own")
	sharesAre(all)
}
