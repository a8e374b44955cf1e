package agent

import (
	"context"

	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/cluster/worker"
)

// dialMaster returns a function that connects a worker to a master.
func dialMaster(identity *worker.Identity) func(context.Context, string) (*grpc.ClientConn, error) {
	return func(_ context.Context, address string) (*grpc.ClientConn, error) { return identity.Connect(address) }
}
