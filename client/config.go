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

// Config says which cluster a Client speaks to, and as whom.
type Config struct {
	// Endpoints are the API addresses of the masters, "HOST:PORT", "HOST" (port 6443) or "https://HOST:PORT". Name all of them, or
	// call Client.Discover: the client stays with one as long as it serves, and goes to the next when it does not. Empty stands for
	// the server of the kubeconfig.
	Endpoints []string
	// Kubeconfig is the path of a kubeconfig, KubeconfigData is one's text; at most one may be given. Its current context, or the
	// one named by Context, has the server, its authority and the credentials that are not given otherwise. Credential
	// plugins are not run.
	Kubeconfig     string
	KubeconfigData []byte
	Context        string
	// TLS replaces what the kubeconfig says about certificates.
	TLS *tls.Config
	// Token is a bearer token. TokenSource is asked before every call, for tokens that are renewed; it must be safe for
	// concurrent use.
	Token       string
	TokenSource func(context.Context) (string, error)
	// Name is what the program is called: its user agent, and the manager of the fields that it writes. Empty stands for the
	// name of the executable.
	Name string
	// Patience bounds how long Dial, and a call whose context has no nearer deadline goes from master to master before it fails; 0 stands
	// for 15 s, which is longer than the election of a leader takes. Watches go on for ever.
	Patience time.Duration
	// Warn is told the warnings of writes; nil drops them.
	Warn func(text string)
	// Log is told when the client leaves a master, and why: a Watch without any master goes on in silence otherwise. nil drops it.
	Log *slog.Logger
	// Dialer connects to an address, for tunnels; nil is TCP.
	Dialer func(ctx context.Context, address string) (net.Conn, error)

	plaintext bool          // for tests
	silence   time.Duration // for tests: see Client.silence
}

// Limits of time. A process that dies closes its connections, which is noticed at once. What is below is for machines and networks
// that vanish without a word, and for processes that stand still.
const (
	defaultPatience = 15 * time.Second
	// connectWithin bounds connecting to one master, with the TLS handshake.
	connectWithin = time.Second
	// The kernel asks an idle peer every second if it is there, and gives the connection up when nothing was acknowledged for
	// lostAfter, which it looks at every second, too. So a question or its answer that is lost on the way ends an idle connection; that costs
	// a watch another beginning, which nobody notices. It costs the server's process nothing.
	lostAfter = 1500 * time.Millisecond
	// silence is how long a call waits before the client asks the master's health beside it.
	silence = time.Second
	// pingEvery is how often gRPC itself asks on connections with open streams; it allows no less.
	pingEvery = 10 * time.Second
)

const defaultPort = "6443"

// Dial makes a Client and waits until a master has answered, but no longer than Config.Patience, so that a wrong address or credential is told
// here. The errors name each endpoint. Close the client after use.
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

// New is Dial without waiting: it fails only for what is wrong in the configuration, and connects with the first call.
func New(config Config) (*Client, error) {
	if err := config.complete(); err != nil {
		return nil, fmt.Errorf("client: %w", err)
	}
	c := &Client{name: config.Name, patience: config.Patience, warn: config.Warn, silence: config.silence, options: config.dialOptions(), log: config.Log}
	for _, address := range config.Endpoints {
		c.endpoints = append(c.endpoints, &endpoint{address: address, options: c.options})
	}
	// Many clients with one list of masters shall not all go to the first.
	c.current = rand.N(len(c.endpoints))
	return c, nil
}

// complete puts the kubeconfig and the defaults in.
func (c *Config) complete() error {
	if c.Kubeconfig != "" && c.KubeconfigData != nil {
		return errors.New("both Kubeconfig and KubeconfigData are given: give one")
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
		// A server's answer is as large as what was asked for.
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

// InCluster is the configuration of a program in a pod: its service account, and the API's service address.
func InCluster() (Config, error) {
	const dir = "/var/run/secrets/kubernetes.io/serviceaccount"
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return Config{}, errors.New("client: this is no pod of a cluster: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set")
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

// tokenFile reads a token before every call: the file is small, and replaced when the token is renewed.
func tokenFile(path string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		token, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("client: read the token: %w", err)
		}
		return strings.TrimSpace(string(token)), nil
	}
}
