package agent

import (
	"context"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/runtime/fake"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
	"github.com/kontiki/kontiki/node/shutdown"
	"github.com/kontiki/kontiki/node/shutdown/logindtest"
)

// TestAShutdownOfTheMachine: when logind announces it, the node is not ready, pods end by priority, others are refused, and then the machine
// may shut down.
func TestAShutdownOfTheMachine(t *testing.T) {
	logind := logindtest.Start(t, time.Hour)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", logind.Address)
	m := newMaster(t)
	c := Config{NodeName: "node-1", NodeIP: netip.MustParseAddr("192.0.2.1"), StateDir: t.TempDir(), Runtime: fake.New(runtimetest.BusyboxName), Network: &fakeNetwork{},
		Dial: dialPlain, Masters: []string{m.addr}, Shutdown: []shutdown.Period{{Priority: 0, Grace: time.Minute}, {Priority: 2_000_000_000, Grace: time.Minute}}}
	c.LogDir = filepath.Join(c.StateDir, "logs")
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
	})
	logind.AwaitLock()
	normal, critical, late := sleeper("normal"), sleeper("critical"), sleeper("late")
	critical.Spec.Priority = new(int32(2_000_001_000))
	for _, p := range []*corev1.Pod{normal, critical} {
		p.Spec.TerminationGracePeriodSeconds = new(int64(1))
		m.pod(p)
		m.awaitPod(p.UID, "running", running)
	}
	if !logind.Held() {
		t.Fatal("no lock is held")
	}
	logind.Announce(true)
	m.await("the node's condition", func() bool {
		for _, c := range m.node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionFalse && c.Reason == "KubeletNotReady" && c.Message == "node is shutting down"
			}
		}
		return false
	})
	m.awaitEvent("NodeShutdown", "Shutdown manager detected shutdown event")
	for _, p := range []*corev1.Pod{normal, critical} {
		s := m.awaitPod(p.UID, "failed", func(s corev1.PodStatus) bool { return s.Phase == corev1.PodFailed })
		if s.Reason != "Terminated" || s.Message != "Pod was terminated in response to imminent node shutdown." {
			t.Errorf("%s: %s, %s", p.Name, s.Reason, s.Message)
		}
		found := false
		for _, c := range s.Conditions {
			found = found || c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == "TerminationByKubelet"
		}
		if !found {
			t.Errorf("%s: conditions %+v", p.Name, s.Conditions)
		}
	}
	logind.AwaitRelease()
	m.pod(late)
	if s := m.awaitPod(late.UID, "refused", func(s corev1.PodStatus) bool { return s.Phase == corev1.PodFailed }); s.Reason != "NodeShutdown" ||
		s.Message != "Pod was rejected: Pod was rejected as the node is shutting down." {
		t.Errorf("a late pod: %s, %s", s.Reason, s.Message)
	}

	logind.Announce(false)
	logind.AwaitLock()
	next := sleeper("next")
	m.await("the node to be ready again", func() bool {
		for _, c := range m.node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	})
	m.pod(next)
	m.awaitPod(next.UID, "running", running)
}
