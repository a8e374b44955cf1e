// Package dns is the cluster's DNS server, one on every node.
//
// Each node serves the cluster's DNS address itself: the address is on the node's loopback, so a pod's question is
// answered on its own host, with no service address in between, and goes on being answered with every master gone. What
// the server knows it is told by SetServices.
//
// It answers for one zone (cluster.local) by the Kubernetes DNS specification 1.1.0 (github.com/kubernetes/dns,
// docs/specification.md), and where that is silent as CoreDNS does:
//
//	<service>.<namespace>.svc                A of the cluster IP; of every ready endpoint when headless; CNAME of an ExternalName
//	<host>.<service>.<namespace>.svc         A of an endpoint by its hostname, or its address with dashes
//	_<port>._<protocol>.<service>.<ns>.svc   SRV for named ports, with the targets' addresses
//	1-2-3-4.<namespace>.pod                  A of that address
//	dns-version                              TXT
//	4.3.2.1.in-addr.arpa                     PTR of cluster IPs and of headless services' endpoints
//
// Other names of the zone, and addresses of the cluster's ranges without a PTR, do not exist (NXDOMAIN with the SOA, to be
// believed for five seconds); names that exist without a record of the type (AAAA, for one) have an empty answer. Until
// the first SetServices the zone is not known and every question in it is SERVFAIL, which nobody caches.
//
// Everything else is forwarded to the nameservers of the host's resolv.conf and remembered for at most 30 seconds. A change of
// that file is noticed by the first question a second later. Without a nameserver the answer is SERVFAIL at once.
//
// No client keeps the others out: questions on their way to a nameserver, and TCP connections, are bounded for each client
// address and in all, and when all places are taken, a client that has fewer takes one from the client that has most.
//
// A headless service without a ready endpoint does not exist, as the specification wants it.
package dns
