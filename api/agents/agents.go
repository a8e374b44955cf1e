// Package agents connects to the nodes' agents, which serve the kubelet's API, for all fronts of the API.
package agents

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/objects"
)

// Credentials are what the master presents to the agents.
type Credentials interface {
	// TLS returns the configuration for the next connection to an agent: the master's client certificate and the CAs to trust. It
	// returns the same pointer until one of them changes.
	TLS() *tls.Config
}

// Agents connects to the agents of all nodes. It is safe for concurrent use. Its errors are API errors.
type Agents struct {
	objects     *objects.Service
	credentials Credentials

	mu  sync.Mutex // guards the two fields below
	tls *tls.Config
	via map[string]*via // by node
}

// via is the transport to one node's agent.
type via struct {
	*http.Transport
	used time.Time
}

// idleTime is how long an unused connection stays open, and an unused transport is kept: nodes come and go.
const idleTime = 90 * time.Second

// New creates an Agents; without credentials everything that needs an agent fails with 503.
func New(service *objects.Service, credentials Credentials) *Agents {
	a := &Agents{}
	a.Open(service, credentials)
	return a
}

// Open makes an empty Agents what New returns, for what the service itself needs of it. Nothing may use it before.
func (a *Agents) Open(service *objects.Service, credentials Credentials) {
	a.objects, a.credentials = service, credentials
}

// TLS returns a configuration that accepts only the agent of one node: otherwise any node's certificate would be accepted for the
// address that the node claims.
func (a *Agents) TLS(node string) (*tls.Config, error) {
	if a.credentials == nil {
		return nil, apierrors.NewServiceUnavailable("this server cannot reach the nodes' agents")
	}
	return Restricted(a.credentials.TLS(), node), nil
}

// Restricted returns a copy of config that accepts only the agent of one node. An address may have moved to another node, whose
// agent must not be mistaken for this one's.
func Restricted(config *tls.Config, node string) *tls.Config {
	config = config.Clone()
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if name := state.PeerCertificates[0].Subject.CommonName; name != "system:node:"+node {
			return fmt.Errorf("the agent at the address of node %q is that of %q", node, name)
		}
		return nil
	}
	return config
}

// Transport returns the transport to a node's agent, which is created on first use and again when the CAs change.
func (a *Agents) Transport(node string) (*http.Transport, error) {
	if a.credentials == nil {
		return nil, apierrors.NewServiceUnavailable("this server cannot reach the nodes' agents")
	}
	config := a.credentials.TLS()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.tls != config {
		for _, transport := range a.via {
			transport.CloseIdleConnections() // connections in use stay open
		}
		a.tls, a.via = config, map[string]*via{}
	}
	now := time.Now()
	if a.via[node] == nil {
		maps.DeleteFunc(a.via, func(_ string, v *via) bool { return now.Sub(v.used) > idleTime }) // connections in use stay open
		a.via[node] = &via{Transport: &http.Transport{
			TLSClientConfig:     Restricted(config, node),
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 4, IdleConnTimeout: idleTime, TLSHandshakeTimeout: 10 * time.Second,
		}}
	}
	a.via[node].used = now
	return a.via[node].Transport, nil
}

// URL returns the base URL of a node's agent.
func (a *Agents) URL(ctx context.Context, nodeName string) (*url.URL, error) {
	kind, _ := a.objects.Kinds().ByGroupResource("", "nodes")
	v, err := a.objects.Get(ctx, &objects.Request{Kind: kind, Name: nodeName}, "0")
	if err != nil {
		return nil, err
	}
	obj, err := a.objects.Decode(kind, v)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	node := obj.(*corev1.Node)
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = 10250
	}
	for _, wanted := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName} {
		for _, address := range node.Status.Addresses {
			if address.Type == wanted {
				return &url.URL{Scheme: "https", Host: net.JoinHostPort(address.Address, strconv.Itoa(port))}, nil
			}
		}
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %q has no address yet", nodeName))
}
