package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
)

// workerHints is gossip as the node controllers read it: workers alone.
type workerHints struct {
	cluster *cluster.Cluster
	events  *cluster.MemberEvents
}

func hint(m cluster.Member) nodelifecycle.Member {
	state := nodelifecycle.Alive
	switch m.State {
	case cluster.MemberDead:
		state = nodelifecycle.Dead
	case cluster.MemberLeft:
		state = nodelifecycle.Left
	}
	return nodelifecycle.Member{Name: m.Name, State: state, Since: m.Since}
}

// Members implements nodelifecycle.Hints.
func (h workerHints) Members() (out []nodelifecycle.Member) {
	for _, m := range h.cluster.Members() {
		if m.Role == cluster.RoleWorker {
			out = append(out, hint(m))
		}
	}
	return out
}

// Next implements nodelifecycle.Hints.
func (h workerHints) Next(ctx context.Context) (nodelifecycle.Member, error) {
	for {
		m, err := h.events.Next(ctx)
		if err != nil || m.Role == cluster.RoleWorker {
			return hint(m), err
		}
	}
}

// probeAgent asks a node's agent whether it is alive.
func (m *master) probeAgent(ctx context.Context, node *corev1.Node) error {
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = kubeletPort
	}
	for _, address := range node.Status.Addresses {
		if address.Type != corev1.NodeInternalIP {
			continue
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+net.JoinHostPort(address.Address, strconv.Itoa(port))+"/healthz", nil)
		if err != nil {
			return err
		}
		response, err := m.probes.Do(request)
		if err != nil {
			return err
		}
		// Whatever it answers, the agent answers: that its containerd is down is the node's own to report.
		return response.Body.Close()
	}
	return fmt.Errorf("node %s has no internal address", node.Name)
}
