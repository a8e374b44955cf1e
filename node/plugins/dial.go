package plugins

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kontiki/kontiki/node/kubeletroot"
)

// Connect returns a connection to the gRPC server of a plugin, whose socket is at a path as plugins name it (kubeletroot.Root.Dial). It connects
// when it is first used, and anew after a failure. A message from the plugin may have at most limit bytes. The caller closes it.
func Connect(root *kubeletroot.Root, socket string, limit int, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///plugin", append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return root.Dial(ctx, socket) }),
		grpc.WithAuthority("localhost"), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(limit)), grpc.WithMaxHeaderListSize(16 << 10),
	}, options...)...)
}
