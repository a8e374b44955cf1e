// Package agents reaches the nodes' agents, whose ports speak the kubelet's protocol, for every front of the API.
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

// Credentials are what the master shows the agents.
type Credentials interface {
	// TLS is the configuration for the next connection to an agent: the master's client certificate and the CAs to
	// trust. It is the same one for as long as it holds.
	TLS() *tls.Config
}

// Agents reaches the agents of all nodes. It is safe for concurrent use. Its errors are API errors.
type Agents struct {
	objects     *objects.Service
	credentials Credentials

	mu  sync.Mutex // guards the two below
	tls *tls.Config
	via map[string]*via // by node
}

// via is the transport to one node's agent.
type via struct {
	*http.Transport
	used time.Time
}

// idleTime is how long a connection that nobody uses stays open, and a transport is kept: nodes come and go.
const idleTime = 90 * time.Second

// New makes an Agents; without credentials it answers 503 to everything that needs an agent.
func New(service *objects.Service, credentials Credentials) *Agents {
	return &Agents{objects: service, credentials: credentials}
}

// TLS is a configuration that accepts one node's agent alone: any node's certificate would be good for the address that it
// claims.
func (a *Agents) TLS(node string) (*tls.Config, error) {
	if a.credentials == nil {
		return nil, apierrors.NewServiceUnavailable("this server cannot reach the nodes' agents")
	}
	return Restricted(a.credentials.TLS(), node), nil
}

// Restricted is a configuration that accepts the agent of one node alone. Addresses move: another node's agent would answer in
// its place.
func Restricted(config *tls.Config, node string) *tls.Config {
	config = config.Clone()
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if name := state.PeerCertificates[0].Subject.CommonName; name != "system:node:"+node {
			return fmt.Errorf("the agent of node %q is expected, %q answers at its address", node, name)
		}
		return nil
	}
	return config
}

// Transport is the transport to a node's agent, made on first use and again when the CAs change.
func (a *Agents) Transport(node string) (*http.Transport, error) {
	if a.credentials == nil {
		return nil, apierrors.NewServiceUnavailable("this server cannot reach the nodes' agents")
	}
	config := a.credentials.TLS()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.tls != config {
		for _, transport := range a.via {
			transport.CloseIdleConnections() // those in use go on
		}
		a.tls, a.via = config, map[string]*via{}
	}
	now := time.Now()
	if a.via[node] == nil {
		maps.DeleteFunc(a.via, func(_ string, v *via) bool { return now.Sub(v.used) > idleTime }) // what is in use goes on
		a.via[node] = &via{Transport: &http.Transport{
			TLSClientConfig:     Restricted(config, node),
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 4, IdleConnTimeout: idleTime, TLSHandshakeTimeout: 10 * time.Second,
		}}
	}
	a.via[node].used = now
	return a.via[node].Transport, nil
}

// URL is the base of a node's agent.
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
