// Package network connects the pods of one node to each other, to the node, and to the pods of other nodes.
//
// # Inside a node
//
// Every pod has a veth pair of its own and an address of the node's pod range as a /32: there is no bridge, so nothing
// depends on br_netfilter, and a pod reaches its neighbour, itself through a service, and the node by the same routed road.
//
//	pod:  eth0 10.244.1.5/32    169.254.1.1 dev eth0 scope link    default via 169.254.1.1
//	node: kt<hash of the UID> 169.254.1.1/32 scope link            10.244.1.5 dev kt... src <node address>
//
// An address of the range that no pod has is unreachable, so a client of a pod that is gone gets an error at once.
//
// # Between nodes
//
// One VXLAN device, kontiki-vx (VNI 1, UDP port 8472, learning off), carries the packets to other nodes' ranges. Its own
// address is the first of the node's range and its MAC is derived from the node's address, so every node knows both of
// every other: a peer is one forwarding entry, one permanent neighbour and one onlink route, none of which is ever learned.
// The service range is routed into the same device, so that a host without a default route can ask for a service
// address at all; packets to services are rewritten before they could leave by it (see node/proxy).
//
// # Leaving the cluster
//
// The nftables table kontiki-node masquerades what pods send out of the cluster and publishes host ports. It is
// replaced in one transaction and only when its content changes.
//
// # Who may send what
//
// The nftables tables kontiki-guard (inet and arp) drop what a pod sends from another address than its own, fragments,
// ARP and IPv6 among it, before anything else looks at it. VXLAN packets are taken only from the addresses of the other nodes, and only
// when the packet inside is from the sender's own range or address; nothing that a node forwards may reach another
// node's VXLAN port, so a pod cannot write such packets in its node's name. Pods come and go in these tables one element each. VXLAN
// itself has no authentication: who can send with a node's address on the network between the nodes is believed.
//
// # What survives what
//
// All state in the kernel survives the process. Addresses are on disk, one file a pod, written and synced before the pod
// is wired: a restarted process gives the same address to the same UID and adopts what it finds. Sweep removes what
// belongs to pods that are no longer known, Teardown removes everything.
//
// A Network acts on the network namespace that New was called in, whatever thread later calls it; several can live on one
// machine, in a namespace each. It needs root's CAP_NET_ADMIN and CAP_SYS_ADMIN there, a writable /proc/sys/net (or
// ip_forward already set), and the nft binary, 1.0.1 or newer.
package network
