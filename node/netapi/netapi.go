// Package netapi is the vocabulary between the agent and the node's network: the agent asks through these types, and
// node/network, node/proxy and node/dns answer them. It is a leaf so that neither side imports the other.
package netapi

import (
	"context"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Network gives pods their interface and address, and keeps the routes to other nodes. All methods are safe for
// concurrent use and idempotent.
type Network interface {
	// AddPod connects the pod's network namespace and answers the pod's address. It is idempotent by UID: the same
	// address every time, also after a restart of the agent, until DelPod.
	AddPod(ctx context.Context, p PodNetwork) (netip.Addr, error)
	// DelPod frees all that AddPod made. An unknown uid is no error.
	DelPod(ctx context.Context, uid string) error
	// Sweep frees what former lives made for pods that are not in keep. It leaves alone what AddPod made in this life, so
	// it may run beside it.
	Sweep(ctx context.Context, keep []string) error
	// Configure is called at start and whenever the set of nodes or a range changes.
	Configure(ctx context.Context, c NetworkConfig) error
}

// PodNetwork asks for one pod's network. NetNS is the path of its pinned network namespace.
type PodNetwork struct {
	UID, Namespace, Name string
	NetNS                string
	HostPorts            []HostPort
}

// HostPort publishes a container's port on the node. HostIP is "" for all addresses; Protocol is TCP, UDP or SCTP.
type HostPort struct {
	HostIP        string
	HostPort      int32
	ContainerPort int32
	Protocol      string
}

// NetworkConfig is what the network must know of the cluster. Prefixes that are not known yet are invalid (zero).
type NetworkConfig struct {
	NodeName    string
	Zone        string // the node's, "" if it is in none
	NodeIP      netip.Addr
	PodCIDR     netip.Prefix // this node's own range
	ClusterCIDR netip.Prefix
	ServiceCIDR netip.Prefix
	Peers       []Peer // every other node
	// ClusterDNS is the address that pods ask names of, ClusterDomain the domain of the cluster's own.
	ClusterDNS    netip.Addr
	ClusterDomain string
}

// Peer is another node.
type Peer struct {
	Name    string
	IP      netip.Addr
	PodCIDR netip.Prefix
}

// ServiceConsumer is told the cluster's services. It gets full sets, coalesced; the objects are read-only and may be
// kept. SetServices is called by one goroutine at a time and must not block for long.
type ServiceConsumer interface {
	SetServices(services []*corev1.Service, slices []*discoveryv1.EndpointSlice)
}
