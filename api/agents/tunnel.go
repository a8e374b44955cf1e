package agents

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/kontiki/kontiki/internal/kv"
)

// Endpoint is an address in the pod network, with its port, that is reached through a node's agent.
type Endpoint struct{ Node, Address string }

// Dial opens a connection to an endpoint through its node's agent (CONNECT, RFC 9110 section 9.3.6).
func (a *Agents) Dial(ctx context.Context, to Endpoint) (net.Conn, error) {
	agent, err := a.URL(ctx, to.Node)
	if err != nil {
		return nil, err
	}
	config, err := a.TLS(to.Node)
	if err != nil {
		return nil, err
	}
	dialer := &tls.Dialer{Config: config}
	conn, err := dialer.DialContext(ctx, "tcp", agent.Host)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", to.Address, to.Address) // if it fails, reading the response will fail
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("tunnel through %s: %w", agent.Host, err)
	}
	if response.StatusCode != http.StatusOK {
		conn.Close()
		return nil, fmt.Errorf("tunnel through %s to %s: %s", agent.Host, to.Address, response.Status)
	}
	return &bufferedConn{conn, reader}, nil
}

// bufferedConn returns bytes that were read after the response before it reads from the connection.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *bufferedConn) Read(b []byte) (int, error) { return c.reader.Read(b) }

// EndpointsOf returns the endpoints that serve a service's port, by its name, in the state that this master knows.
func (a *Agents) EndpointsOf(service *corev1.Service, portName string) (out []Endpoint) {
	kind, _ := a.objects.Kinds().ByGroupResource(discoveryv1.GroupName, "endpointslices")
	prefix := kind.NamespacePrefix(service.Namespace)
	a.objects.Store().View().Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool {
		obj, err := a.objects.Decode(kind, v)
		if err != nil {
			return true
		}
		slice := obj.(*discoveryv1.EndpointSlice)
		if slice.Labels[discoveryv1.LabelServiceName] != service.Name {
			return true
		}
		for _, p := range slice.Ports {
			if p.Port == nil || (p.Name == nil && portName != "") || (p.Name != nil && *p.Name != portName) {
				continue
			}
			for _, e := range slice.Endpoints {
				if (e.Conditions.Ready == nil || *e.Conditions.Ready) && e.NodeName != nil && len(e.Addresses) > 0 {
					out = append(out, Endpoint{Node: *e.NodeName, Address: net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port)))})
				}
			}
		}
		return true
	})
	return out
}

// Service returns a service in the state that this master knows.
func (a *Agents) Service(namespace, name string) (*corev1.Service, error) {
	kind, _ := a.objects.Kinds().ByGroupResource("", "services")
	v, ok := a.objects.Store().View().Get(kind.Key(namespace, name))
	if !ok {
		return nil, fmt.Errorf("service %q not found", namespace+"/"+name)
	}
	obj, err := a.objects.Decode(kind, v)
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Service), nil
}
