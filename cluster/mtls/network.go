package mtls

import (
	"context"
	"net"

	"github.com/hashicorp/memberlist"
)

// Network is how a master listens and dials: the machine's network, or one that a test simulates. Addresses are host:port.
type Network interface {
	Listen(address string) (net.Listener, error)
	Dial(ctx context.Context, address string) (net.Conn, error)
	// Gossip returns the transport of gossip at an address; nil means memberlist's own, on the machine's network.
	Gossip(address string) (memberlist.Transport, error)
}

// Machine is the network of the machine, or of the network namespace that the process is in.
type Machine struct{}

func (Machine) Listen(address string) (net.Listener, error) { return net.Listen("tcp", address) }

func (Machine) Dial(ctx context.Context, address string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

func (Machine) Gossip(string) (memberlist.Transport, error) { return nil, nil }
