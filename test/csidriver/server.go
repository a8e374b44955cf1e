package csidriver

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registration1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// New returns the node service of a driver.
func New(o Options) (*Node, error) {
	s := &store{o.Dir}
	return &Node{store: s, o: o}, s.addNode(o.NodeID)
}

// Serve serves all services of a driver at a socket until ctx ends.
func (n *Node) Serve(ctx context.Context, socket string) error {
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, identity{})
	csi.RegisterControllerServer(server, &controller{store: n.store})
	csi.RegisterNodeServer(server, n)
	return serve(ctx, server, socket)
}

// serve serves at a socket, which it makes anew and removes.
func serve(ctx context.Context, server *grpc.Server, socket string) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return err
	}
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	return server.Serve(l)
}

// registrar is what node-driver-registrar does for drivers.
type registrar struct {
	registration1.UnimplementedRegistrationServer
	endpoint string
	told     chan<- *registration1.RegistrationStatus
}

func (r *registrar) GetInfo(context.Context, *registration1.InfoRequest) (*registration1.PluginInfo, error) {
	return &registration1.PluginInfo{Type: registration1.CSIPlugin, Name: Name, Endpoint: r.endpoint, SupportedVersions: []string{"1.0.0"}}, nil
}

func (r *registrar) NotifyRegistrationStatus(_ context.Context, s *registration1.RegistrationStatus) (*registration1.RegistrationStatusResponse, error) {
	select {
	case r.told <- s:
	default:
	}
	return &registration1.RegistrationStatusResponse{}, nil
}

// Register serves the registration of a driver at a socket in the kubelet's folder of them until ctx ends. endpoint is the driver's socket as the
// agent names it. The registration's results are sent to told, unless nobody receives them.
func Register(ctx context.Context, socket, endpoint string, told chan<- *registration1.RegistrationStatus) error {
	server := grpc.NewServer()
	registration1.RegisterRegistrationServer(server, &registrar{endpoint: endpoint, told: told})
	return serve(ctx, server, socket)
}
