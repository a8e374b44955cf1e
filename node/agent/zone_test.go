package agent

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/node/runtime/fake"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
)

func TestTheNetworkIsToldTheNodesZone(t *testing.T) {
	m := newMaster(t)
	a := startFake(t, fake.New(runtimetest.BusyboxName), m)
	network := a.c.Network.(*fakeNetwork)
	told := make(chan struct{}, 1)
	network.mu.Lock()
	network.told = told
	network.mu.Unlock()
	deadline := time.After(30 * time.Second)
	for _, zone := range []string{"z1", "z2"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", Labels: map[string]string{corev1.LabelTopologyZone: zone}}}
		m.put("nodes", "Node", "v1", &n.ObjectMeta, n)
		for got := ""; got != zone; {
			select {
			case <-told:
			case <-deadline:
				t.Fatalf("the network was told zone %q, want %q", got, zone)
			}
			network.mu.Lock()
			got = network.config.Zone
			network.mu.Unlock()
		}
	}
}
