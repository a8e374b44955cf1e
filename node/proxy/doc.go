// Package proxy makes service addresses work on one node: nftables rules rewrite cluster IPs, node ports, external IPs and load
// balancer IPs to endpoints, for pods and for the node itself.
//
// # The path of a packet
//
// The first packet of a connection is looked up in one of two verdict maps in the table "kontiki" (prerouting and output, nat):
//
//	services    address . protocol . port -> goto svc-..., ext-... or lb-...
//	node-ports  protocol . port           -> the same, for any address of the node but 127.0.0.0/8
//
// so its cost does not grow with the number of services. They lead to these chains, for each port of a service:
//
//	svc-  mark for masquerading unless the source is a pod; choose one endpoint at random; dnat
//	loc-  the same among this node's endpoints, the source kept      (traffic policy Local)
//	ext-  svc- for pods and the node itself, loc- for everybody else (externalTrafficPolicy Local)
//	lb-   drop sources outside loadBalancerSourceRanges, then as external
//	ep-   one endpoint, remembered for the client                     (session affinity)
//	hold- the listener of node/proxy/hold, for TCP ports without endpoints of services that wake their workload (internal/wake)
//
// postrouting masquerades marked packets, and connections of a pod to itself. A service port without endpoints is refused (TCP
// reset, otherwise ICMP port unreachable) through the maps no-endpoints and no-endpoint-node-ports, and so is any address of the
// service range that no service has.
//
// Endpoints are the ready ones; if there is none, those that are terminating but still serve, as in kube-proxy, so that a rolling
// update loses no connections. If all ready ones have hints (trafficDistribution), those for this node are used, else those for its
// zone, else all.
//
// # Changes
//
// SetServices gets full sets, but the cost of a change depends on the services that changed: a service whose objects are the same
// (pointer, or UID and resource version) is skipped, and for a changed one only the chains, sets and elements that differ are
// written, all in one transaction. After a failed transaction, and when a process starts, a full transaction replaces everything at
// once, so nothing is interrupted, and connections and session affinity are kept. Until the first SetServices the rules of the
// previous process are left unchanged.
//
// A chain is emptied when its service is removed, and deleted a little later: kernels before 6.2 keep the reference of a deleted
// map element for a moment.
//
// Conntrack keeps UDP flows on the endpoint that they began with; after a change, flows of changed services to endpoints that they
// no longer have are deleted.
//
// # Health checks
//
// At the healthCheckNodePort of a service with externalTrafficPolicy Local, the proxy answers load balancers whether this node has
// ready endpoints.
//
// Not implemented: IPv6.
//
// A Proxy acts on the network namespace that New was called in. It needs CAP_NET_ADMIN there and nft 1.0.1 or newer.
package proxy
