// Package probe probes a container once, as its spec says: by a command, an HTTP request, a TCP connection or the gRPC health
// protocol. Results and messages are upstream's, since people and tools read them in events.
package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Result is the result of a probe.
type Result string

const (
	Success Result = "success"
	Warning Result = "warning" // a success with a message
	Failure Result = "failure"
	Unknown Result = "unknown" // the probe could not be run; returned with an error
)

// ExecFunc runs a command in the container and returns its exit code.
type ExecFunc func(ctx context.Context, command []string, out io.Writer) (int, error)

// Target is the container to probe.
type Target struct {
	Container *corev1.Container
	PodIP     string
	Exec      ExecFunc
}

const maxBody = 10 << 10

// Run probes once. It obeys the spec's timeout and ctx.
func Run(ctx context.Context, p *corev1.Probe, t Target) (Result, string, error) {
	timeout := time.Duration(p.TimeoutSeconds) * time.Second
	if timeout <= 0 {
		timeout = time.Second
	}
	switch {
	case p.Exec != nil:
		return Exec(ctx, p.Exec.Command, timeout, t.Exec)
	case p.HTTPGet != nil:
		req, err := Request(p.HTTPGet, t, "kube-probe/1.37")
		if err != nil {
			return Unknown, "", err
		}
		return HTTP(ctx, req, timeout)
	case p.TCPSocket != nil:
		port, err := Port(p.TCPSocket.Port, t.Container)
		if err != nil {
			return Unknown, "", err
		}
		host := p.TCPSocket.Host
		if host == "" {
			host = t.PodIP
		}
		return TCP(ctx, net.JoinHostPort(host, strconv.Itoa(port)), timeout)
	case p.GRPC != nil:
		service := ""
		if p.GRPC.Service != nil {
			service = *p.GRPC.Service
		}
		return GRPC(ctx, net.JoinHostPort(t.PodIP, strconv.Itoa(int(p.GRPC.Port))), service, timeout)
	}
	return Unknown, "", fmt.Errorf("missing probe handler for %s", t.Container.Name)
}

// Exec succeeds if the command exits with 0.
func Exec(ctx context.Context, command []string, timeout time.Duration, exec ExecFunc) (Result, string, error) {
	tctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	out := NewLimited(maxBody)
	code, err := exec(tctx, command, out)
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return Failure, fmt.Sprintf("command timed out: %q timed out after %s", join(command), timeout), nil
	case err != nil:
		return Unknown, "", err
	case code != 0:
		return Failure, out.String(), nil
	}
	return Success, out.String(), nil
}

func join(s []string) string {
	var b bytes.Buffer
	for i, v := range s {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(v)
	}
	return b.String()
}

// Limited keeps the first bytes that are written to it and discards the rest without an error. It is safe for concurrent writes.
type Limited struct {
	mu sync.Mutex
	b  []byte
	n  int
}

// NewLimited returns a Limited that keeps n bytes.
func NewLimited(n int) *Limited { return &Limited{n: n} }

func (l *Limited) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, b[:min(len(b), l.n-len(l.b))]...)
	return len(b), nil
}

func (l *Limited) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}

// Port returns the number of a container's port, given by number or name.
func Port(p intstr.IntOrString, c *corev1.Container) (int, error) {
	n := p.IntValue()
	if p.Type == intstr.String {
		n = 0
		for _, cp := range c.Ports {
			if cp.Name == p.StrVal {
				n = int(cp.ContainerPort)
			}
		}
		if n == 0 {
			var err error
			if n, err = strconv.Atoi(p.StrVal); err != nil {
				return 0, fmt.Errorf("couldn't find port: %q in container", p.StrVal)
			}
		}
	}
	if n <= 0 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", n)
	}
	return n, nil
}

// Request returns the HTTP request of a probe or a lifecycle hook.
func Request(a *corev1.HTTPGetAction, t Target, agent string) (*http.Request, error) {
	port, err := Port(a.Port, t.Container)
	if err != nil {
		return nil, err
	}
	host := a.Host
	if host == "" {
		host = t.PodIP
	}
	scheme := "http"
	if a.Scheme == corev1.URISchemeHTTPS {
		scheme = "https"
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		u = &url.URL{Path: a.Path}
	}
	u.Scheme, u.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	req, err := http.NewRequest(http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header = http.Header{}
	for _, h := range a.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
	}
	if v, ok := req.Header["Host"]; ok && len(v) > 0 {
		req.Host = v[0]
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", agent)
	}
	if v, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	} else if len(v) > 0 && v[0] == "" {
		req.Header.Del("Accept")
	}
	return req, nil
}

// HTTP succeeds with a status from 200 to 399; a redirect to another host is a warning.
func HTTP(ctx context.Context, req *http.Request, timeout time.Duration) (Result, string, error) {
	transport := &http.Transport{
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // a probe checks health, not identity, as upstream has it
		DisableKeepAlives:  true,
		DisableCompression: true,
		Proxy:              nil,
		DialContext:        dialer().DialContext,
	}
	client := &http.Client{Timeout: timeout, Transport: transport, CheckRedirect: func(next *http.Request, via []*http.Request) error {
		if next.URL.Hostname() != via[0].URL.Hostname() {
			return http.ErrUseLastResponse
		}
		if len(via) >= 10 {
			return errors.New("stopped after 10 redirects")
		}
		return nil
	}}
	res, err := client.Do(req.WithContext(ctx))
	if err != nil {
		return Failure, err.Error(), nil
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	if err != nil {
		return Failure, "", err
	}
	switch {
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return Warning, fmt.Sprintf("Probe terminated redirects, Response body: %v", string(b)), nil
	case res.StatusCode >= 200 && res.StatusCode < 300:
		return Success, string(b), nil
	}
	return Failure, fmt.Sprintf("HTTP probe failed with statuscode: %d", res.StatusCode), nil
}

// dialer closes probes' connections with a reset, so that thousands of them do not remain in TIME_WAIT.
func dialer() *net.Dialer {
	return &net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) {
			_ = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1, Linger: 1})
		})
	}}
}

// TCP succeeds if a connection can be opened.
func TCP(ctx context.Context, addr string, timeout time.Duration) (Result, string, error) {
	d := dialer()
	d.Timeout = timeout
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return Failure, err.Error(), nil
	}
	conn.Close()
	return Success, "", nil
}

// GRPC succeeds if the health service responds with SERVING.
func GRPC(ctx context.Context, addr, service string, timeout time.Duration) (Result, string, error) {
	tctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithUserAgent("kube-probe/1.37"),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer().DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return Failure, fmt.Sprintf("error: failed to connect service at %q: %+v", addr, err), nil
	}
	defer conn.Close()
	resp, err := grpc_health_v1.NewHealthClient(conn).Check(tctx, &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		st, _ := status.FromError(err)
		switch st.Code() {
		case codes.Unimplemented:
			return Failure, fmt.Sprintf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", st.Message()), nil
		case codes.DeadlineExceeded:
			return Failure, fmt.Sprintf("timeout: health rpc did not complete within %v", timeout), nil
		case codes.Unavailable:
			return Failure, fmt.Sprintf("error: failed to connect service at %q: %+v", addr, err), nil
		}
		return Failure, fmt.Sprintf("error: health rpc probe failed: %+v", err), nil
	}
	if resp.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		return Failure, fmt.Sprintf("service unhealthy (responded with %q)", resp.GetStatus().String()), nil
	}
	return Success, "service healthy", nil
}
