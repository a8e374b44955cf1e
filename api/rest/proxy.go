package rest

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/kontiki/kontiki/api/agents"
	"github.com/kontiki/kontiki/internal/upgrade"
)

// proxyTarget is the destination of a proxied request: an address in the pod network, reached through a node's agent.
type proxyTarget struct {
	scheme string
	agents.Endpoint
}

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
	return c.proxyTo(proxyTarget{scheme, agents.Endpoint{Node: pod.Spec.NodeName, Address: net.JoinHostPort(pod.Status.PodIP, number)}})
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
	targets := c.Agents.EndpointsOf(service, portName)
	if len(targets) == 0 {
		return apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", c.target.name))
	}
	return c.proxyTo(proxyTarget{scheme, targets[rand.IntN(len(targets))]})
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

// proxyTo forwards the request through the node's agent.
func (c *call) proxyTo(t proxyTarget) error {
	if _, err := c.Agents.URL(c.r.Context(), t.Node); err != nil {
		return err
	}
	if _, err := c.Agents.TLS(t.Node); err != nil {
		return err
	}
	w := c.w
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) { return c.Agents.Dial(ctx, t.Endpoint) }
	if httpstream.IsUpgradeRequest(c.r) {
		opening := upgrade.New(w, dial, c.RequestTimeout)
		w, dial = opening, opening.Connect
	}
	transport := &http.Transport{
		DialContext: dial, MaxResponseHeaderBytes: upgrade.MaxHeader,
		// Certificates of pods that serve TLS cannot be verified here, as upstream.
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true,
	}
	location := &url.URL{Scheme: t.scheme, Host: t.Address, Path: c.target.rest, RawQuery: c.r.URL.RawQuery}
	if location.Scheme == "" {
		location.Scheme = "http"
	}
	// Links in HTML pages are rewritten to lead through the proxy, and a path without its slash is redirected, as upstream.
	handler := proxy.NewUpgradeAwareHandler(location, transport, true, false, responder{c})
	handler.UseLocationHost = true
	handler.ServeHTTP(w, c.r)
	return nil
}
