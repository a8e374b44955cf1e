package server

import (
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/internal/httplimit"
)

const (
	// lookAgain is how often clients of the master's own API are made anew, with a new certificate.
	lookAgain = time.Minute
	// maxAnswer limits the bytes of an answer, which an extension API server may have written.
	maxAnswer = 16 << 20
)

// loopback returns how a component reaches this master's API as a user.
func (m *master) loopback(user, component string, timeout time.Duration) (*rest.Config, error) {
	pair, err := m.cluster.Issuer().IssueClient(user, []string{"system:serviceaccounts", "system:serviceaccounts:kube-system"})
	if err != nil {
		return nil, err
	}
	return &rest.Config{
		Host: "https://" + net.JoinHostPort(m.options.nodeIP, strconv.Itoa(m.options.apiPort)), Timeout: timeout, UserAgent: "kontiki/" + component,
		TLSClientConfig: rest.TLSClientConfig{CAData: m.cluster.Identity().RootsPEM(), CertData: pair.CertPEM, KeyData: pair.KeyPEM},
	}, nil
}

// renewed makes clients of an API anew each minute. It is safe for concurrent use.
type renewed[T any] struct {
	connect func() (*rest.Config, error)
	build   func(*rest.Config) (T, error)

	mu     sync.Mutex
	made   time.Time
	client T
	close  func() // the idle connections of the client; nil before there is one
}

// get returns the present client. Those that it returned before can be used on; their connections are closed when they have nothing to do.
func (r *renewed[T]) get() (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var none T
	if r.close != nil && time.Since(r.made) < lookAgain {
		return r.client, nil
	}
	config, err := r.connect()
	if err != nil {
		return none, err
	}
	secured, err := rest.TLSConfigFor(config)
	if err != nil {
		return none, err
	}
	// client-go would keep the transports that it makes, with their connections.
	transport := &http.Transport{TLSClientConfig: secured, ForceAttemptHTTP2: true, IdleConnTimeout: lookAgain}
	made, err := r.build(&rest.Config{Host: config.Host, Timeout: config.Timeout, UserAgent: config.UserAgent, Transport: httplimit.Transport{RoundTripper: transport, Most: maxAnswer}})
	if err != nil {
		return none, err
	}
	if r.close != nil {
		r.close()
	}
	r.client, r.made, r.close = made, time.Now(), transport.CloseIdleConnections
	return made, nil
}
