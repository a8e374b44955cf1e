// Package agent is the worker: it keeps one session with a master, runs the pods it is assigned, and reports on them.
package agent

import "github.com/kontiki/kontiki/node/netapi"

// What the agent needs of the node's network. The types live in node/netapi so that the network's packages do not
// import the agent.
type (
	Network         = netapi.Network
	PodNetwork      = netapi.PodNetwork
	HostPort        = netapi.HostPort
	NetworkConfig   = netapi.NetworkConfig
	Peer            = netapi.Peer
	ServiceConsumer = netapi.ServiceConsumer
)
