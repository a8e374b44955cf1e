// Package clusterapi serves the administration of a cluster by any of its masters: what the commands of package admin ask.
//
//   - by HTTP: http.go (status, members, leadership, snapshots), certs.go (certificates and keys), secrets.go (the keys of Secrets)
//   - by gRPC: grpc.go (the service kontiki.v1.Cluster)
//
// The API authenticates and authorizes a request before it arrives here.
package clusterapi

import (
	"log/slog"

	"github.com/kontiki/kontiki/cluster"
)

// API is the administration of a cluster, through one of its masters. It is safe for concurrent use.
type API struct {
	Cluster *cluster.Cluster
	// Flags are the master's, by name, without its join token.
	Flags map[string]string
	Log   *slog.Logger
}
