// Package webhook calls the webhooks of extensions: by URL, or the pods of a service, which any master reaches through the agents of their
// nodes.
//
// What a webhook's configuration names may not be the cluster itself: addresses of this host, of the loopback and of links are refused when a
// connection is opened, after names have been resolved (CVE-2020-8562, CVE-2025-13281), and redirections are not followed. Responses are
// bounded in size and time.
package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/agents"
)

// MaxResponse limits the bytes of a response.
const MaxResponse = 16 << 20

// Pods reaches the pods of services.
type Pods interface {
	Service(namespace, name string) (*corev1.Service, error)
	EndpointsOf(service *corev1.Service, portName string) []agents.Endpoint
	Dial(ctx context.Context, to agents.Endpoint) (net.Conn, error)
}

// Target is a webhook: a URL, or a service in the cluster.
type Target struct {
	URL     string // "" for a service
	Service *Service
	// CABundle has the CAs of the webhook's certificate in PEM; empty means those of the system.
	CABundle []byte
	// Credentials are by what masters identify themselves; nil means by nothing.
	Credentials Credentials
}

// Service is a service that serves a webhook.
type Service struct {
	Namespace, Name, Path string
	Port                  int32
}

// Client calls one webhook. It is safe for concurrent use.
type Client struct {
	http *http.Client
	url  string
}

// idleTime is how long a connection that is not used stays open.
const idleTime = 30 * time.Second

// New returns a client of a webhook. local permits addresses of this host; it is for tests.
func New(t Target, pods Pods, local bool) (*Client, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(t.CABundle) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(t.CABundle) {
			return nil, errors.New("caBundle: no certificate can be read")
		}
	}
	c := &Client{url: t.URL}
	dialer := &net.Dialer{Timeout: 10 * time.Second, Control: refuseOwn}
	if local {
		dialer.Control = nil
	}
	dial := dialer.DialContext
	switch s := t.Service; {
	case s != nil:
		host := s.Name + "." + s.Namespace + ".svc"
		config.ServerName = host
		c.url = (&url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(s.Port))), Path: s.Path}).String()
		dial = func(ctx context.Context, _, _ string) (net.Conn, error) { return Dial(ctx, pods, s) }
	default:
		parsed, err := url.Parse(t.URL)
		if err != nil {
			return nil, err
		}
		if parsed.Scheme != "https" {
			return nil, fmt.Errorf("url: the scheme of %q must be https", t.URL)
		}
	}
	identified, err := t.identify(&http.Transport{DialContext: dial, TLSClientConfig: config, IdleConnTimeout: idleTime, MaxIdleConnsPerHost: 4,
		TLSHandshakeTimeout: 10 * time.Second, ForceAttemptHTTP2: true}, config)
	if err != nil {
		return nil, err
	}
	c.http = &http.Client{Transport: identified, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return c, nil
}

// Dial opens a connection to one of the pods of a service.
func Dial(ctx context.Context, pods Pods, s *Service) (net.Conn, error) {
	service, err := pods.Service(s.Namespace, s.Name)
	if err != nil {
		return nil, err
	}
	for _, port := range service.Spec.Ports {
		if port.Port != s.Port {
			continue
		}
		endpoints := pods.EndpointsOf(service, port.Name)
		if len(endpoints) == 0 {
			return nil, fmt.Errorf("no endpoints available for service %q", s.Namespace+"/"+s.Name)
		}
		return pods.Dial(ctx, endpoints[rand.IntN(len(endpoints))])
	}
	return nil, fmt.Errorf("service %q has no port %d", s.Namespace+"/"+s.Name, s.Port)
}

var errOwn = errors.New("webhooks may not be at addresses of the cluster's own hosts")

// refuseOwn refuses connections to this host, to the loopback, and to addresses that only mean something on a link.
func refuseOwn(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := at.Addr().Unmap()
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return errOwn
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Unmap() == ip {
			return errOwn
		}
	}
	return nil
}

// Post sends a JSON document and returns the response to it.
func (c *Client) Post(ctx context.Context, body []byte) ([]byte, error) {
	return c.post(ctx, c.url, body)
}

// Review is Post for an AdmissionReview: it tells the webhook how much time there is, in the parameter timeout, as upstream does.
func (c *Client) Review(ctx context.Context, body []byte) ([]byte, error) {
	deadline, ok := ctx.Deadline()
	left := time.Until(deadline)
	to, err := url.Parse(c.url)
	if !ok || left <= 0 || err != nil {
		return c.post(ctx, c.url, body)
	}
	if whole := left.Truncate(time.Second); whole != left {
		left = whole + time.Second
	}
	query := to.Query()
	query.Set("timeout", left.String())
	to.RawQuery = query.Encode()
	return c.post(ctx, to.String(), body)
}

func (c *Client) post(ctx context.Context, to string, body []byte) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, */*")
	request.Header.Set("User-Agent", "kube-apiserver-webhook")
	response, err := c.http.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, MaxResponse+1))
	if err != nil {
		return nil, err
	}
	if len(answer) > MaxResponse {
		return nil, fmt.Errorf("the response of %s is larger than %d bytes", c.url, MaxResponse)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s responded with %s", c.url, response.Status)
	}
	return answer, nil
}

// Close closes the connections that are not used.
func (c *Client) Close() { c.http.CloseIdleConnections() }
