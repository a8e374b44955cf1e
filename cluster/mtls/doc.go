// Package mtls is the one TCP port of a master, and the connections to other masters' ports.
//
// Raft, the masters' gRPC, the workers' gRPC and joining share the port and are told apart by ALPN (Port). All but joining need a client
// certificate under the cluster's CA whose subject names the role: master or worker. Clients check the server's role and not its host name
// (Dialer), so addresses may change. Handshakes run outside Accept under a deadline; what is not TLS is answered or closed, and
// logged at a bounded rate. Live connections are tracked, and closed when CAs are dropped or certificates revoked.
//
// Stream carries raft's protocol, which has no authentication of its own; Lines keeps one gRPC connection to each master; NewServer and
// NewJoinServer make the gRPC servers, of which the latter bounds what anybody may ask who has no certificate yet.
//
// Everything here is safe for concurrent use.
package mtls
