package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// healthPort serves a service's healthCheckNodePort, at which load balancers ask whether this node has ready endpoints of the
// service.
type healthPort struct {
	service types.NamespacedName
	ready   atomic.Int64 // the number of this node's ready endpoints
	server  *http.Server
	done    sync.WaitGroup
}

// A load balancer sends a request every few seconds and reads a few bytes, but everybody who reaches the node can use the port.
const (
	healthTimeout     = 5 * time.Second
	healthConnections = 64
	healthRetry       = 10 * time.Second // how often a port that is in use is tried again
)

// serveHealth opens, updates and closes health check ports for the services. The caller holds syncing.
func (p *Proxy) serveHealth(services []*corev1.Service, slices []*discoveryv1.EndpointSlice, node string) error {
	wanted := map[int32]types.NamespacedName{}
	for _, s := range services {
		if port := s.Spec.HealthCheckNodePort; port != 0 {
			wanted[port] = types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
		}
	}
	for port, h := range p.health {
		if wanted[port] != h.service {
			h.close()
			delete(p.health, port)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	ready := readyHere(slices, node)
	var failed []error
	for port, service := range wanted {
		h := p.health[port]
		if h == nil {
			var err error
			if h, err = p.openHealth(port, service); err != nil {
				failed = append(failed, fmt.Errorf("health check of service %s: %w", service, err))
				continue
			}
			p.health[port] = h
		}
		h.ready.Store(int64(len(ready[service])))
	}
	return errors.Join(failed...)
}

// readyHere returns the addresses of a node's ready endpoints, by service.
func readyHere(slices []*discoveryv1.EndpointSlice, node string) map[types.NamespacedName]map[netip.Addr]bool {
	out := map[types.NamespacedName]map[netip.Addr]bool{}
	for _, s := range slices {
		service := types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if e.NodeName == nil || *e.NodeName != node || (e.Conditions.Ready != nil && !*e.Conditions.Ready) {
				continue
			}
			for _, a := range e.Addresses {
				if ip, err := netip.ParseAddr(a); err == nil && ip.Is4() {
					if out[service] == nil {
						out[service] = map[netip.Addr]bool{}
					}
					out[service][ip] = true
				}
			}
		}
	}
	return out
}

func (p *Proxy) openHealth(port int32, service types.NamespacedName) (*healthPort, error) {
	var listener net.Listener
	err := p.inside(func() (err error) {
		listener, err = net.Listen("tcp4", net.JoinHostPort("0.0.0.0", strconv.Itoa(int(port))))
		return err
	})
	if err != nil {
		return nil, err
	}
	h := &healthPort{service: service}
	h.server = &http.Server{Handler: h, ReadTimeout: healthTimeout, WriteTimeout: healthTimeout, MaxHeaderBytes: 4 << 10}
	h.server.SetKeepAlivesEnabled(false) // the number of connections is limited, so nobody keeps one
	h.done.Go(func() {
		if err := h.server.Serve(netutil.LimitListener(listener, healthConnections)); !errors.Is(err, http.ErrServerClosed) {
			p.log.Error("a service's health check ended", "service", service, "port", port, "err", err)
		}
	})
	return h, nil
}

func (h *healthPort) close() {
	h.server.Close()
	h.done.Wait()
}

// closeHealth closes all health check ports.
func (p *Proxy) closeHealth() {
	p.syncing.Lock()
	defer p.syncing.Unlock()
	for port, h := range p.health {
		h.close()
		delete(p.health, port)
	}
}

// ServeHTTP responds as kube-proxy does, on any path: 200 if the node has ready endpoints, else 503.
func (h *healthPort) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	var answer struct {
		Service struct {
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"service"`
		LocalEndpoints      int64 `json:"localEndpoints"`
		ServiceProxyHealthy bool  `json:"serviceProxyHealthy"`
	}
	answer.Service.Namespace, answer.Service.Name = h.service.Namespace, h.service.Name
	answer.LocalEndpoints, answer.ServiceProxyHealthy = h.ready.Load(), true
	body, _ := json.Marshal(answer) // a struct of plain fields always encodes
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(answer.LocalEndpoints, 10))
	if answer.LocalEndpoints == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	w.Write(body)
}
