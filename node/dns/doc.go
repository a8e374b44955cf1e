// Package dns is the cluster's DNS server, which runs on every node.
//
// Each node serves the cluster's DNS address itself: the address is on the node's loopback, so a pod's question is answered on its
// own host, without a service address in between, and is still answered when all masters are down. The server gets its data through
// SetServices.
//
// It serves one zone (cluster.local) by the Kubernetes DNS specification 1.1.0 (github.com/kubernetes/dns, docs/specification.md),
// and behaves like CoreDNS where that is silent:
//
//	<service>.<namespace>.svc                A of the cluster IP; of every ready endpoint when headless; CNAME of an ExternalName
//	<host>.<service>.<namespace>.svc         A of an endpoint by its hostname, or its address with dashes
//	_<port>._<protocol>.<service>.<ns>.svc   SRV for named ports, with the targets' addresses
//	1-2-3-4.<namespace>.pod                  A of that address
//	dns-version                              TXT
//	4.3.2.1.in-addr.arpa                     PTR of cluster IPs and of headless services' endpoints
//
// Other names of the zone, and addresses of the cluster's ranges without a PTR, do not exist (NXDOMAIN with the SOA, cached for
// five seconds); names that exist without a record of the requested type (AAAA, for example) get an empty response. Until the first
// SetServices the zone is not known and every question for it gets SERVFAIL, which is not cached; so that pods rarely see that when their
// agent restarts, Late listens some seconds later if it has to wait for the services.
//
// All other questions are forwarded to the nameservers in the host's resolv.conf, and the responses cached for at most 30 seconds.
// A change of that file takes effect with the first question at least a second later. Without a nameserver the response is SERVFAIL
// at once.
//
// No client can exhaust the server for the others: forwarded questions in flight and TCP connections are limited for each client
// address and in total, and when all slots are taken, a client that has fewer takes one from the client that has most.
//
// A headless service without a ready endpoint does not exist, as the specification requires.
package dns
