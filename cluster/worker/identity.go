package worker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/durable"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// Config says how a worker joins.
type Config struct {
	// Name is the worker's node name; see CheckName.
	Name string
	// Dir stores the identity across restarts (mode 0700). If it contains one, Join and Token are not needed.
	Dir string
	// Join are addresses of masters' mTLS ports; Token is a token for the role worker.
	Join  []string
	Token string
	// Addresses are the host's IP addresses, for its serving certificate.
	Addresses []string
	Logger    *slog.Logger
}

// Identity is a worker's certificates, and what it needs to find the cluster. It changes while Run runs: get a value where you need
// it, and do not keep it. Safe for concurrent use.
type Identity struct {
	Name string

	cfg Config
	// mu serializes changes of the identity.
	mu    sync.Mutex
	state atomic.Pointer[workerState]

	once  sync.Once
	heard chan struct{} // closed once a master has sent its state
}

// workerState is a document and the values derived from it.
type workerState struct {
	*Document
	client, serving tls.Certificate
	cas             []*x509.Certificate
	roots           *x509.CertPool
	changed         chan struct{}
}

// Client returns the certificate for calls to masters, Serving that of the kubelet port. Both have the same key, which was
// generated on this host and never left it.
func (w *Identity) Client() *tls.Certificate  { return &w.state.Load().client }
func (w *Identity) Serving() *tls.Certificate { return &w.state.Load().serving }

// Document returns the document as it is now on disk; it is read-only.
func (w *Identity) Document() *Document { return w.state.Load().Document }

// Issuer returns the pin of the CA that issued the certificates, or "" if that CA is no longer trusted.
func (w *Identity) Issuer() string { return w.state.Load().issuer() }

// Roots returns the cluster's CAs; clients of the kubelet port have certificates under them.
func (w *Identity) Roots() *x509.CertPool { return w.state.Load().roots }

// Masters returns the mTLS addresses of masters, as last sent by one.
func (w *Identity) Masters() []string { return w.state.Load().Masters }

// ServerTLS returns the configuration for the kubelet port's next handshake.
func (w *Identity) ServerTLS() *tls.Config {
	state := w.state.Load()
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{state.serving}, ClientCAs: state.roots, SessionTicketsDisabled: true}
}

const workerFile = "worker.json"

type Document struct {
	Version     int      `json:"version"`
	Name        string   `json:"name"`
	Addresses   []string `json:"addresses"`
	Key         []byte   `json:"key"`
	Client      []byte   `json:"clientCertificate"`
	Serving     []byte   `json:"servingCertificate"`
	CA          []byte   `json:"caCertificate"`
	GossipKeys  [][]byte `json:"gossipKeys"`
	Masters     []string `json:"masters"`
	GossipSeeds []string `json:"gossipSeeds"`

	// Generation is that of the identity that this is from, Renewal the number of the renewal that the certificates are from.
	Generation uint64 `json:"generation,omitempty"`
	Renewal    uint64 `json:"renewal,omitempty"`
	// MastersGossip means that only masters gossip.
	MastersGossip bool `json:"mastersGossip,omitempty"`
	// PastPins are pins of CAs that the cluster had: tokens with them do not belong to another cluster.
	PastPins []string `json:"pastPins,omitempty"`
}

// Join returns this host's identity as a worker: the one in Dir, or a new one from a master, authorized by the token. Certificates
// past two thirds of their lifetime, or for other addresses, are renewed; if no master can be reached, the old ones are used while
// they are valid. Errors: ErrToken, ErrNameTaken.
func Join(ctx context.Context, cfg Config) (*Identity, error) {
	if err := join.CheckName(cfg.Name); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the worker's directory: %w", err)
	}
	w := &Identity{Name: cfg.Name, cfg: cfg, heard: make(chan struct{})}
	doc, err := Load(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if doc == nil {
		if doc, err = newWorker(ctx, cfg); err != nil {
			return nil, err
		}
		return w, w.use(doc)
	}
	if err := doc.matches(cfg); err != nil {
		return nil, err
	}
	if err := w.use(doc); err != nil {
		return nil, err
	}
	if !doc.stale(cfg.Addresses) {
		return w, nil
	}
	if err := w.RenewAnywhere(ctx); err != nil {
		if left := time.Until(doc.notAfter()); left > 0 {
			cfg.Logger.Warn("the worker's certificates could not be renewed", "valid_for", left.Round(time.Minute), "error", err)
			return w, nil
		}
		return nil, fmt.Errorf("the worker's certificates have expired, and could not be renewed; remove %s and join again with a token: %w", cfg.Dir, err)
	}
	return w, nil
}

// Load returns the document in a directory, or nil if there is none.
func Load(dir string) (*Document, error) {
	doc, err := durable.Load[Document](filepath.Join(dir, workerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return doc, err
}

func (d *Document) save(dir string) error {
	return durable.Save(filepath.Join(dir, workerFile), d)
}

func newWorker(ctx context.Context, cfg Config) (*Document, error) {
	if cfg.Token == "" {
		return nil, fmt.Errorf("this host has not joined a cluster yet: %w: none is given; make one with `kontiki token create --role worker`", errclass.ErrToken)
	}
	token, err := join.ParseToken(cfg.Token)
	if err != nil {
		return nil, err
	}
	if err := token.RequireRole(pki.RoleWorker); err != nil {
		return nil, err
	}
	key, csr, err := pki.NewRequest(cfg.Name)
	if err != nil {
		return nil, err
	}
	response, err := join.Ask(ctx, mtls.Machine{}, cfg.Logger, cfg.Join, token, func(ctx context.Context, client clusterv1.JoinServiceClient) (*clusterv1.JoinWorkerResponse, error) {
		return client.JoinWorker(ctx, &clusterv1.JoinWorkerRequest{Token: cfg.Token, Name: cfg.Name, Csr: csr, Addresses: cfg.Addresses})
	})
	if err != nil {
		return nil, fmt.Errorf("join the cluster as a worker: %w", err)
	}
	doc := &Document{Version: 1, Name: cfg.Name, Key: key, Masters: cfg.Join}
	doc.take(response, cfg.Addresses)
	return doc, doc.save(cfg.Dir)
}

// take copies a master's response into the document.
func (d *Document) take(r *clusterv1.JoinWorkerResponse, addresses []string) {
	d.Addresses = addresses
	d.Client, d.Serving = r.ClientCertificate, r.ServingCertificate
	d.trust(r.CaCertificate, r.GossipKeys)
	if len(r.Masters) > 0 {
		d.Masters = r.Masters
	}
	if len(r.Gossip) > 0 {
		d.GossipSeeds = r.Gossip
	}
}

// matches returns an error if the document does not fit the configuration with which the host should join.
func (d *Document) matches(cfg Config) error {
	if d.Name != cfg.Name {
		return fmt.Errorf("the data in %s is the worker %q's, not %q's: give that name, or another directory", cfg.Dir, d.Name, cfg.Name)
	}
	if cfg.Token == "" {
		return nil
	}
	token, err := join.ParseToken(cfg.Token)
	if err != nil {
		return nil // the token is no longer needed
	}
	pins := d.pins()
	if len(pins) == 0 {
		return fmt.Errorf("the CA certificate in %s cannot be read", cfg.Dir)
	}
	if pin := pins[0]; !slices.Contains(append(pins, d.PastPins...), token.Pin) {
		return fmt.Errorf("%w: it is for another cluster (%s...) than the one that this host belongs to (%s...); to move the host, remove %s",
			errclass.ErrToken, join.ShortPin(token.Pin), join.ShortPin(pin), cfg.Dir)
	}
	return nil
}

// pins returns the pins of the trusted CAs.
func (d *Document) pins() (pins []string) {
	cas, err := pki.ParseCertificates(d.CA)
	if err != nil {
		return nil
	}
	for _, ca := range cas {
		pins = append(pins, pki.Pin(ca))
	}
	return pins
}

// trust replaces the trusted CAs and the gossip keys.
func (d *Document) trust(ca []byte, gossipKeys [][]byte) {
	before := append(d.pins(), d.PastPins...)
	d.CA, d.GossipKeys = ca, gossipKeys
	now := d.pins()
	d.PastPins = slices.DeleteFunc(before, func(pin string) bool { return slices.Contains(now, pin) })
}

// use takes a document into use, which must be on disk already.
func (w *Identity) use(d *Document) error {
	state := &workerState{Document: d, changed: make(chan struct{})}
	var err error
	if state.client, err = tls.X509KeyPair(d.Client, d.Key); err != nil {
		return fmt.Errorf("the worker's client certificate: %w", err)
	}
	if state.serving, err = tls.X509KeyPair(d.Serving, d.Key); err != nil {
		return fmt.Errorf("the worker's serving certificate: %w", err)
	}
	if state.cas, err = pki.ParseCertificates(d.CA); err != nil {
		return fmt.Errorf("the cluster's CAs: %w", err)
	}
	state.roots = pki.Pool(state.cas...)
	if before := w.state.Swap(state); before != nil {
		close(before.changed)
	}
	return nil
}

// issuer returns the pin of the CA that issued the certificates, or "" if that CA is no longer trusted.
func (s *workerState) issuer() string {
	for _, ca := range s.cas {
		if s.client.Leaf.CheckSignatureFrom(ca) == nil {
			return pki.Pin(ca)
		}
	}
	return ""
}

func (d *Document) notAfter() time.Time {
	cert, err := pki.ParseCertificate(d.Client)
	if err != nil {
		return time.Time{}
	}
	return cert.NotAfter
}

func (d *Document) stale(addresses []string) bool {
	cert, err := pki.ParseCertificate(d.Client)
	return err != nil || time.Now().After(pki.RenewAt(cert)) || !slices.Equal(d.Addresses, addresses)
}

// Connect creates a gRPC client for the node services of the master at an address. It does not dial before the first call; it
// reconnects by itself, with the certificate and the CAs of that time.
func (w *Identity) Connect(address string) (*grpc.ClientConn, error) {
	return mtls.Connect(w.Dialer(), address, mtls.ProtoNode)
}

func (w *Identity) Dialer() *mtls.Dialer {
	return &mtls.Dialer{Roots: w.Roots, Certificate: func() (*tls.Certificate, error) { return w.Client(), nil }}
}
