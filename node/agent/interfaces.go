// Package agent is the worker: it keeps one session with a master, runs the pods assigned to it, and reports their status.
package agent

import "github.com/kontiki/kontiki/node/netapi"

// The interfaces of the node's network that the agent uses. The types are in node/netapi so that the network's packages need not
// import the agent.
type (
	Network         = netapi.Network
	PodNetwork      = netapi.PodNetwork
	HostPort        = netapi.HostPort
	NetworkConfig   = netapi.NetworkConfig
	Peer            = netapi.Peer
	ServiceConsumer = netapi.ServiceConsumer
)
