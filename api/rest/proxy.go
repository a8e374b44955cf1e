package rest

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"

	"github.com/kontiki/kontiki/internal/kv"
)

// proxyTarget is the destination of a proxied request: an address in the pod network, reached through a node's agent.
type proxyTarget struct{ scheme, node, address string }

// podProxy forwards a request to a pod: /api/v1/namespaces/NS/pods/[SCHEME:]NAME[:PORT]/proxy/...
func (c *call) podProxy() error {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(c.target.name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid pod request %q", c.target.name))
	}
	if err := c.connect(&corev1.PodProxyOptions{Path: c.target.rest}, "PodProxyOptions"); err != nil {
		return err
	}
	c.target.name = name
	pod, err := c.pod(c.r.Context())
	if err != nil {
		return err
	}
	if pod.Status.PodIP == "" || pod.Spec.NodeName == "" {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("address not allowed or pod %s has no address yet", name))
	}
	number, err := podPort(pod, port)
	if err != nil {
		return err
	}
	return c.proxyTo(proxyTarget{scheme, pod.Spec.NodeName, net.JoinHostPort(pod.Status.PodIP, number)})
}

// podPort returns the number of a port given by name or number; "" means the pod's first port, as upstream.
func podPort(pod *corev1.Pod, port string) (string, error) {
	for _, container := range pod.Spec.Containers {
		for _, p := range container.Ports {
			if port == "" || p.Name == port {
				return strconv.Itoa(int(p.ContainerPort)), nil
			}
		}
	}
	if port == "" {
		return "80", nil
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", apierrors.NewBadRequest(fmt.Sprintf("pod %s has no port %q", pod.Name, port))
	}
	return port, nil
}

// serviceProxy forwards a request to an endpoint of a service.
func (c *call) serviceProxy() error {
	scheme, name, port, ok := utilnet.SplitSchemeNamePort(c.target.name)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid service request %q", c.target.name))
	}
	if err := c.connect(&corev1.ServiceProxyOptions{Path: c.target.rest}, "ServiceProxyOptions"); err != nil {
		return err
	}
	c.target.name = name
	v, err := c.Objects.Get(c.r.Context(), c.request("", nil), "")
	if err != nil {
		return err
	}
	obj, err := c.Objects.Decode(c.kind, v)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	service := obj.(*corev1.Service)
	portName, err := servicePort(service, port)
	if err != nil {
		return err
	}
	targets := c.endpointsOf(service, portName)
	if len(targets) == 0 {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", c.target.name))
	}
	target := targets[rand.IntN(len(targets))]
	target.scheme = scheme
	return c.proxyTo(target)
}

// servicePort returns the name of the port that a request gives by name or number.
func servicePort(service *corev1.Service, port string) (string, error) {
	for _, p := range service.Spec.Ports {
		if port == "" && len(service.Spec.Ports) == 1 || p.Name == port && port != "" || strconv.Itoa(int(p.Port)) == port {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", port, service.Name))
}

// endpointsOf returns the endpoints that currently serve a service's port.
func (c *call) endpointsOf(service *corev1.Service, portName string) (out []proxyTarget) {
	kind, _ := c.Objects.Kinds().ByGroupResource(discoveryv1.GroupName, "endpointslices")
	prefix := kind.NamespacePrefix(service.Namespace)
	c.Objects.Store().View().Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool {
		obj, err := c.Objects.Decode(kind, v)
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
				if (e.Conditions.Ready == nil || *e.Conditions.Ready) && e.NodeName != nil {
					out = append(out, proxyTarget{node: *e.NodeName, address: net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port)))})
				}
			}
		}
		return true
	})
	return out
}

// proxyTo forwards the request through the node's agent.
func (c *call) proxyTo(t proxyTarget) error {
	agent, err := c.Agents.URL(c.r.Context(), t.node)
	if err != nil {
		return err
	}
	config, err := c.Agents.TLS(t.node)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return tunnelTo(ctx, agent.Host, address, config)
		},
		// Certificates of pods that serve TLS cannot be verified here, as upstream.
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true,
	}
	location := &url.URL{Scheme: t.scheme, Host: t.address, Path: c.target.rest, RawQuery: c.r.URL.RawQuery}
	if location.Scheme == "" {
		location.Scheme = "http"
	}
	// Links in HTML pages are rewritten to lead through the proxy, and a path without its slash is redirected, as upstream.
	handler := proxy.NewUpgradeAwareHandler(location, transport, true, false, responder{c})
	handler.UseLocationHost = true
	handler.ServeHTTP(c.w, c.r)
	return nil
}

// tunnelTo opens a connection to a pod's address through its node's agent (CONNECT, RFC 9110 section 9.3.6).
func tunnelTo(ctx context.Context, agent, address string, config *tls.Config) (net.Conn, error) {
	dialer := &tls.Dialer{Config: config}
	conn, err := dialer.DialContext(ctx, "tcp", agent)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	fmt.Fprintf(conn, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", address, address) // if it fails, reading the response will fail
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, &http.Request{Method: http.MethodConnect})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("tunnel through %s: %w", agent, err)
	}
	if response.StatusCode != http.StatusOK {
		conn.Close()
		return nil, fmt.Errorf("tunnel through %s to %s: %s", agent, address, response.Status)
	}
	return &bufferedConn{conn, reader}, nil
}

// bufferedConn returns bytes that were read after the response before it reads from the connection.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *bufferedConn) Read(b []byte) (int, error) { return c.reader.Read(b) }
