package agent

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/fake"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
)

// TestUsageIsReportedToMastersThatAskForIt: a master before these reports would end the session if it got one.
func TestUsageIsReportedToMastersThatAskForIt(t *testing.T) {
	m := newMaster(t)
	m.usageMs = 1000
	rt := fake.New(runtimetest.BusyboxName)
	rt.SetStats("c", runtime.Stats{Usage: runtime.Usage{CPUNanoseconds: 1e9, MemoryWorkingSet: 77}})
	startFake(t, rt, m)
	p := sleeper("a")
	m.pod(p)
	m.awaitPod(p.UID, "running", func(s corev1.PodStatus) bool { return s.Phase == corev1.PodRunning })
	m.await("a report of the pod", func() bool {
		for _, r := range m.usage {
			for _, u := range r.Pods {
				if u.Uid == string(p.UID) && u.Name == "a" && len(u.Containers) == 1 && r.Node.Compute.MemoryBytes > 0 {
					return true
				}
			}
		}
		return false
	})
}

func TestNoUsageIsReportedToMastersThatDoNotAsk(t *testing.T) {
	m := newMaster(t)
	startFake(t, fake.New(runtimetest.BusyboxName), m)
	p := sleeper("a")
	m.pod(p)
	m.awaitPod(p.UID, "running", func(s corev1.PodStatus) bool { return s.Phase == corev1.PodRunning })
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.usage) != 0 {
		t.Errorf("%d reports came", len(m.usage))
	}
}
