package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/wake"
	"github.com/kontiki/kontiki/node/proxy/hold"
)

// sleepers returns the services whose connections wake their workload.
func (p *Proxy) sleepers(services []*corev1.Service) (out []*corev1.Service) {
	if p.o.Wake == nil {
		return nil
	}
	for _, s := range services {
		if _, ok, err := wake.Of(s); ok && err == nil {
			out = append(out, s)
		}
	}
	return out
}

// openHolder opens the listener at which connections wait, at the node's own address, when it is needed for the first time. The caller
// holds syncing.
func (p *Proxy) openHolder(address netip.Addr, needed bool) error {
	if p.holder != nil || !needed {
		return nil
	}
	if !address.Is4() {
		return errors.New("the node has no IPv4 address")
	}
	var listener net.Listener
	err := p.inside(func() (err error) {
		// Any free port: the rules have its number, and those of the next process will have its own.
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(address, 0).String())
		return err
	})
	if err != nil {
		return err
	}
	p.holder = hold.Start(listener.(*net.TCPListener), hold.Config{Limits: hold.DefaultLimits, Wake: p.o.Wake, Dial: p.dial, Held: p.o.Metrics.holds, Reset: p.o.Metrics.wasReset, Log: p.log})
	return nil
}

// dialing limits the connections that are being made to endpoints, each of which takes a thread.
var dialing = make(chan struct{}, 64)

// dial connects to an endpoint from the node's network.
func (p *Proxy) dial(ctx context.Context, to netip.AddrPort) (conn *net.TCPConn, err error) {
	select {
	case dialing <- struct{}{}:
		defer func() { <-dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	err = p.inside(func() error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp4", to.String())
		if err != nil {
			return fmt.Errorf("connect to an endpoint: %w", err)
		}
		conn = c.(*net.TCPConn)
		return nil
	})
	return conn, err
}

// closeHolder ends the connections that wait or are carried.
func (p *Proxy) closeHolder() {
	p.syncing.Lock()
	defer p.syncing.Unlock()
	if p.holder != nil {
		p.holder.Close()
		p.holder = nil
		p.applied.valid = false
	}
}

// heldPorts returns the ports of services at which connections may wait, by address.
func heldPorts(sleepers []*corev1.Service, slices []*discoveryv1.EndpointSlice, at place) map[netip.AddrPort]hold.Port {
	bySvc := map[types.NamespacedName][]*discoveryv1.EndpointSlice{}
	for _, s := range sleepers {
		bySvc[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] = nil
	}
	for _, s := range slices {
		key := types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		if _, ok := bySvc[key]; ok && s.AddressType == discoveryv1.AddressTypeIPv4 {
			bySvc[key] = append(bySvc[key], s)
		}
	}
	ports := map[netip.AddrPort]hold.Port{}
	for _, s := range sleepers {
		key := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
		for _, port := range s.Spec.Ports {
			if protocol(port) != corev1.ProtocolTCP {
				continue
			}
			held := hold.Port{Service: key, Endpoints: targets(s, choose(port, bySvc[key], at))}
			addresses := append(append([]string{}, clusterIPs(&s.Spec)...), s.Spec.ExternalIPs...)
			for _, in := range s.Status.LoadBalancer.Ingress {
				addresses = append(addresses, in.IP)
			}
			for _, a := range addresses {
				if ip, err := netip.ParseAddr(a); err == nil && ip.Is4() {
					add(ports, netip.AddrPortFrom(ip, uint16(port.Port)), held)
				}
			}
			if port.NodePort != 0 {
				add(ports, netip.AddrPortFrom(netip.Addr{}, uint16(port.NodePort)), held)
			}
		}
	}
	return ports
}

// add adds a port. Of two services with the same address, the first by name has it, as in the rules.
func add(ports map[netip.AddrPort]hold.Port, at netip.AddrPort, p hold.Port) {
	if had, ok := ports[at]; ok && had.Service.String() <= p.Service.String() {
		return
	}
	ports[at] = p
}

// targets returns the endpoints for connections that have waited.
func targets(s *corev1.Service, c chosen) (out []netip.AddrPort) {
	endpoints := c.cluster
	if policy := s.Spec.InternalTrafficPolicy; policy != nil && *policy == corev1.ServiceInternalTrafficPolicyLocal {
		endpoints = c.local
	}
	for _, e := range endpoints {
		out = append(out, e.target())
	}
	return out
}
