// Package network connects the pods of one node to each other, to the node, and to the pods of other nodes.
//
// # Inside a node
//
// Every pod has its own veth pair and an address of the node's pod range as a /32: there is no bridge, so nothing depends on
// br_netfilter, and a pod reaches its neighbours, itself through a service, and the node by the same routing.
//
//	pod:  eth0 10.244.1.5/32    169.254.1.1 dev eth0 scope link    default via 169.254.1.1
//	node: kt<hash of the UID> 169.254.1.1/32 scope link            10.244.1.5 dev kt... src <node address>
//
// Addresses of the range that no pod has are unreachable, so a client of a pod that no longer exists gets an error at once.
//
// # Between nodes
//
// One VXLAN device, kontiki-vx (VNI 1, UDP port 8472, learning off), carries the packets to other nodes' ranges. Its own address is
// the first of the node's range and its MAC is derived from the node's address, so every node can compute both for every other: a
// peer is one forwarding entry, one permanent neighbour and one onlink route, and nothing is learned. The service range is routed
// into the same device, so that a host without a default route can connect to service addresses; packets to services are rewritten
// before they would leave through it (see node/proxy).
//
// # Leaving the cluster
//
// The nftables table kontiki-node masquerades what pods send out of the cluster and publishes host ports. It is replaced in one
// transaction, and only when its content changes.
//
// # Who may send what
//
// The nftables tables kontiki-guard (inet and arp) drop what a pod sends from an address other than its own, including fragments,
// ARP and IPv6, before any other rules. VXLAN packets are accepted only from the addresses of the other nodes, and only if the
// inner packet is from the sender's own range or address. Nothing that a node forwards may reach another node's VXLAN port, so a
// pod cannot send such packets with its node's address. Pods and nodes are added to and removed from these tables as single
// elements. VXLAN itself has no authentication: packets from anyone who can send with a node's address on the network between the
// nodes are accepted.
//
// # What survives what
//
// All state in the kernel survives the process. Addresses are on disk, one file per pod, written and synced before the pod is
// connected: a restarted process gives the same address to the same UID and keeps what it finds. Sweep removes what belongs to pods
// that are no longer known, Teardown removes everything.
//
// A Network acts on the network namespace that New was called in, whichever thread calls it later; several can be used on one
// machine, in one namespace each. It needs CAP_NET_ADMIN and CAP_SYS_ADMIN there, a writable /proc/sys/net (or ip_forward already
// set), and the nft binary, 1.0.1 or newer.
package network
