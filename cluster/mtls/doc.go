// Package mtls implements a master's TCP port, and connections to the ports of other masters.
//
// Raft, the masters' gRPC, the workers' gRPC and joining share the port; ALPN selects the protocol (Port). All but joining require
// a client certificate under the cluster's CA whose subject names the role: master or worker. Clients check the server's role and
// not its host name (Dialer), so addresses may change. Handshakes run outside Accept with a deadline; a connection that is not TLS
// gets an answer or is closed, and is logged at a limited rate. Open connections are tracked, and closed when their CA is dropped
// or their certificate revoked.
//
// Stream carries raft's protocol, which has no authentication of its own; Lines keeps one gRPC connection to each master. NewServer,
// NewWorkerServer and NewJoinServer create the gRPC servers. The second limits what one worker may send, the third what clients
// without a certificate may request.
//
// All types are safe for concurrent use.
package mtls
