// Package netapi defines the interface between the agent and the node's network: the agent uses these types, and node/network,
// node/proxy and node/dns implement them. It is a separate package so that neither side imports the other.
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
	// AddPod connects the pod's network namespace and returns the pod's address. It is idempotent by UID: it returns the same
	// address until DelPod, also after a restart of the agent.
	AddPod(ctx context.Context, p PodNetwork) (netip.Addr, error)
	// DelPod removes everything that AddPod created. An unknown uid is not an error.
	DelPod(ctx context.Context, uid string) error
	// Sweep removes what earlier processes created for pods that are not in keep. It does not touch what AddPod created in this
	// process, so both may run concurrently.
	Sweep(ctx context.Context, keep []string) error
	// Configure is called at start and whenever the set of nodes or a range changes.
	Configure(ctx context.Context, c NetworkConfig) error
}

// PodNetwork describes one pod's network. NetNS is the path of its pinned network namespace.
type PodNetwork struct {
	UID, Namespace, Name string
	NetNS                string
	HostPorts            []HostPort
}

// HostPort is a container's port published on the node. HostIP is "" for all addresses; Protocol is TCP, UDP or SCTP.
type HostPort struct {
	HostIP        string
	HostPort      int32
	ContainerPort int32
	Protocol      string
}

// NetworkConfig is what the network needs to know about the cluster. Prefixes that are not known yet are invalid (zero).
type NetworkConfig struct {
	NodeName    string
	Zone        string // the node's zone, "" if it is in none
	NodeIP      netip.Addr
	PodCIDR     netip.Prefix // this node's own range
	ClusterCIDR netip.Prefix
	ServiceCIDR netip.Prefix
	Peers       []Peer // every other node
	// ClusterDNS is the address of the DNS server for pods, ClusterDomain the domain of the cluster's names.
	ClusterDNS    netip.Addr
	ClusterDomain string
}

// Peer is another node.
type Peer struct {
	Name    string
	IP      netip.Addr
	PodCIDR netip.Prefix
}

// ServiceConsumer receives the cluster's services. It gets full sets, coalesced; the objects are read-only and may be kept.
// SetServices is called by one goroutine at a time and must not block for long.
type ServiceConsumer interface {
	SetServices(services []*corev1.Service, slices []*discoveryv1.EndpointSlice)
}

// Ports are ports of the cluster's own traffic between its hosts, TCP and UDP. Neither a pod's host port nor a service's external address
// takes them on any host: whoever may create pods or services could cut off workers from masters, and masters from each other.
type Ports map[uint16]bool

// PortsOf returns ports, with that of the nodes' VXLAN.
func PortsOf(ports ...int) Ports {
	out := Ports{VXLANPort: true}
	for _, p := range ports {
		out[uint16(p)] = true
	}
	return out
}

// VXLANPort is the UDP port of the packets between nodes.
const VXLANPort = 8472
