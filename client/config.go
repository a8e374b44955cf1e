package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Config says which cluster a Client connects to, and with which credentials.
type Config struct {
	// Endpoints are the API addresses of the masters: "HOST:PORT", "HOST" (port 6443) or "https://HOST:PORT". Give all of them, or
	// call Client.Discover: the client uses one master until that fails, and then the next. If it is empty, the server of the
	// kubeconfig is used.
	Endpoints []string
	// Kubeconfig is the path of a kubeconfig, KubeconfigData is the content of one; set at most one of them. The server, its CA and
	// the credentials that are not set otherwise are read from its current context, or from the one named by Context. Credential
	// plugins are not supported.
	Kubeconfig     string
	KubeconfigData []byte
	Context        string
	// TLS replaces the certificates in the kubeconfig.
	TLS *tls.Config
	// Token is a bearer token. TokenSource is called before every call, for tokens that are renewed; it must be safe for concurrent
	// use.
	Token       string
	TokenSource func(context.Context) (string, error)
	// Name is the program's name: its user agent, and the manager of the fields that it writes. It defaults to the name of the
	// executable.
	Name string
	// Patience limits how long Dial, and each call whose context has no earlier deadline, tries one master after another before it
	// fails; 0 means 15 s, which is longer than an election takes. Watches are retried forever.
	Patience time.Duration
	// Warn is called with the warnings of writes; if it is nil they are dropped.
	Warn func(text string)
	// Log records when the client leaves a master, and why: a Watch that finds no master reports it nowhere else. nil disables it.
	Log *slog.Logger
	// Dialer connects to an address, for tunnels; nil means TCP.
	Dialer func(ctx context.Context, address string) (net.Conn, error)

	plaintext bool          // for tests
	silence   time.Duration // for tests: see Client.silence
}

// Timeouts. When a process dies its connections are closed, which is noticed at once. The timeouts below are for machines and
// networks that vanish without closing connections, and for processes that are paused.
const (
	defaultPatience = 15 * time.Second
	// connectWithin is the time limit for connecting to one master, including the TLS handshake.
	connectWithin = time.Second
	// The kernel probes an idle peer every second, and closes the connection when nothing was acknowledged for lostAfter, which it
	// also checks every second. So a single lost probe or response closes an idle connection; a watch then resumes on another one,
	// which its reader does not notice. It costs the server's process nothing.
	lostAfter = 1500 * time.Millisecond
	// silence is how long a call waits before the client also checks the master's health.
	silence = time.Second
	// pingEvery is the interval of gRPC's own pings on connections with open streams, the shortest that gRPC allows.
	pingEvery = 10 * time.Second
)

const defaultPort = "6443"

// Dial returns a Client after a master has answered, so that a wrong address or credential is reported here. It waits at most for
// Config.Patience. The errors name each endpoint. Close the client after use.
func Dial(ctx context.Context, config Config) (*Client, error) {
	c, err := New(config)
	if err != nil {
		return nil, err
	}
	if err := c.reach(ctx); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// New is Dial without waiting: it fails only if the configuration is invalid, and connects with the first call.
func New(config Config) (*Client, error) {
	if err := config.complete(); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	c := &Client{name: config.Name, patience: config.Patience, warn: config.Warn, silence: config.silence, options: config.dialOptions(), log: config.Log}
	for _, address := range config.Endpoints {
		c.endpoints = append(c.endpoints, &endpoint{address: address, options: c.options})
	}
	// Start at a random master, so that many clients with the same list do not all use the first.
	c.current = rand.N(len(c.endpoints))
	return c, nil
}

// complete fills in the kubeconfig and the defaults.
func (c *Config) complete() error {
	if c.Kubeconfig != "" && c.KubeconfigData != nil {
		return errors.New("both Kubeconfig and KubeconfigData are set: set only one")
	}
	if c.Kubeconfig != "" || c.KubeconfigData != nil {
		if err := c.addKubeconfig(); err != nil {
			return err
		}
	}
	if len(c.Endpoints) == 0 {
		return errors.New("no endpoints: give the addresses of the masters' API, or a kubeconfig")
	}
	endpoints := make([]string, len(c.Endpoints))
	for i, text := range c.Endpoints {
		var err error
		if endpoints[i], err = parseEndpoint(text); err != nil {
			return err
		}
	}
	c.Endpoints = endpoints
	if c.Token != "" && c.TokenSource == nil {
		token := c.Token
		c.TokenSource = func(context.Context) (string, error) { return token, nil }
	}
	if c.TLS == nil {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if c.Name == "" {
		c.Name = filepath.Base(os.Args[0])
	}
	if c.Patience == 0 {
		c.Patience = defaultPatience
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.silence == 0 {
		c.silence = silence
	}
	return nil
}

func parseEndpoint(text string) (string, error) {
	address := text
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			return "", fmt.Errorf("endpoint %q: must be https://HOST:PORT or HOST:PORT", text)
		}
		address = u.Host
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), defaultPort)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" || port == "" || strings.ContainsAny(host, "/ ") {
		return "", fmt.Errorf("endpoint %q: must be https://HOST:PORT or HOST:PORT", text)
	}
	return address, nil
}

func (c *Config) dialOptions() []grpc.DialOption {
	dial := c.Dialer
	if dial == nil {
		dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	dialer := func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := dial(ctx, address)
		if tcp, ok := conn.(*net.TCPConn); ok && err == nil {
			err = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2})
		}
		return conn, err
	}
	transport := credentials.NewTLS(c.TLS)
	if c.plaintext {
		transport = insecure.NewCredentials()
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithContextDialer(dialer),
		grpc.WithUserAgent(c.Name),
		grpc.WithDisableServiceConfig(),
		grpc.WithStatsHandler(sentHandler{}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: connectWithin,
		}),
		// On Linux, Timeout also bounds how long the kernel waits for acknowledgements.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: lostAfter}),
		// A response is as large as what was requested.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
	}
	if c.TokenSource != nil {
		options = append(options, grpc.WithPerRPCCredentials(bearer{c.TokenSource, !c.plaintext}))
	}
	return options
}

// bearer sends a token with each call.
type bearer struct {
	source func(context.Context) (string, error)
	secure bool
}

func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := b.source(ctx)
	if err != nil {
		return nil, err
	}
	return map[string]string{"authorization": "Bearer " + token}, nil
}

func (b bearer) RequireTransportSecurity() bool { return b.secure }

// InCluster returns the configuration for a program in a pod: its service account, and the API's service address.
func InCluster() (Config, error) {
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount"
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return Config{}, errors.New("client: not in a pod of a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
	}
	authority, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return Config{}, fmt.Errorf("client: the pod has no service account: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authority) {
		return Config{}, fmt.Errorf("client: %s/ca.crt has no certificate", dir)
	}
	return Config{
		Endpoints:   []string{net.JoinHostPort(host, port)},
		TLS:         &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TokenSource: tokenFile(filepath.Join(dir, "token")),
	}, nil
}

// tokenFile returns a function that reads a token from a file. The file is small, and replaced when the token is renewed.
func tokenFile(path string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		token, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("client: read the token: %w", err)
		}
		return strings.TrimSpace(string(token)), nil
	}
}
