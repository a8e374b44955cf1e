package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/cluster/pki"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// JoinWorkerConfig says how a worker joins.
type JoinWorkerConfig struct {
	// Name is the worker's node name; see CheckName.
	Name string
	// Dir keeps the identity across restarts (mode 0700). Where it holds one, Join and Token are not needed.
	Dir string
	// Join are addresses of masters' mTLS ports; Token is a token for the role worker.
	Join  []string
	Token string
	// Addresses are the host's IP addresses, for its serving certificate.
	Addresses []string
	Logger    *slog.Logger
}

// WorkerIdentity is a worker's proof of who it is, and what it needs to find the cluster.
type WorkerIdentity struct {
	Name string
	// Client is what the worker calls masters with, Serving what it serves the kubelet port with. Both have the same
	// key, which was made on this host and never left it.
	Client, Serving tls.Certificate
	// CAPEM is the cluster's CA certificate; clients of the kubelet port have certificates under it.
	CAPEM      []byte
	GossipKeys [][]byte
	// Masters are mTLS addresses and GossipSeeds gossip addresses of masters, as last told.
	Masters, GossipSeeds []string

	pool *x509.CertPool
}

const workerFile = "worker.json"

type workerDocument struct {
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
}

// JoinWorker answers this host's identity as a worker: the one in Dir, or a new one got from a master with the token.
// Certificates of which less than a third of the time is left, or that are for other addresses, are renewed; where no
// master can be reached, those at hand are used for as long as they are valid. Errors: ErrToken, ErrNameTaken.
func JoinWorker(ctx context.Context, cfg JoinWorkerConfig) (*WorkerIdentity, error) {
	if err := CheckName(cfg.Name); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the worker's directory: %w", err)
	}
	doc, err := loadWorker(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if doc == nil {
		if doc, err = newWorker(ctx, cfg); err != nil {
			return nil, err
		}
		return doc.identity()
	}
	if err := doc.matches(cfg); err != nil {
		return nil, err
	}
	identity, err := doc.identity()
	if err != nil {
		return nil, err
	}
	if !doc.stale(cfg.Addresses) {
		return identity, nil
	}
	renewed, err := doc.renew(ctx, identity, cfg)
	if err != nil {
		if left := time.Until(doc.notAfter()); left > 0 {
			cfg.Logger.Warn("the worker's certificates could not be renewed", "valid_for", left.Round(time.Minute), "error", err)
			return identity, nil
		}
		return nil, fmt.Errorf("the worker's certificates have expired, and could not be renewed; remove %s and join again with a token: %w", cfg.Dir, err)
	}
	return renewed.identity()
}

func loadWorker(dir string) (*workerDocument, error) {
	data, err := os.ReadFile(filepath.Join(dir, workerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the worker's identity: %w", err)
	}
	doc := new(workerDocument)
	if err := json.Unmarshal(data, doc); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, workerFile), err)
	}
	return doc, nil
}

func (d *workerDocument) save(dir string) error {
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	return pki.WriteFile(filepath.Join(dir, workerFile), data, 0o600)
}

func newWorker(ctx context.Context, cfg JoinWorkerConfig) (*workerDocument, error) {
	if cfg.Token == "" {
		return nil, fmt.Errorf("this host has not joined a cluster yet: %w: none is given; make one with `kontiki token create --role worker`", ErrToken)
	}
	token, err := parseToken(cfg.Token)
	if err != nil {
		return nil, err
	}
	if err := token.requireRole(pki.RoleWorker); err != nil {
		return nil, err
	}
	key, csr, err := pki.NewRequest(cfg.Name)
	if err != nil {
		return nil, err
	}
	response, err := join(ctx, cfg.Logger, cfg.Join, token, func(ctx context.Context, client clusterv1.JoinServiceClient) (*clusterv1.JoinWorkerResponse, error) {
		return client.JoinWorker(ctx, &clusterv1.JoinWorkerRequest{Token: cfg.Token, Name: cfg.Name, Csr: csr, Addresses: cfg.Addresses})
	})
	if err != nil {
		return nil, fmt.Errorf("join the cluster as a worker: %w", err)
	}
	doc := &workerDocument{Version: 1, Name: cfg.Name, Key: key, Masters: cfg.Join}
	doc.take(response, cfg.Addresses)
	return doc, doc.save(cfg.Dir)
}

// take puts what a master answered into the document.
func (d *workerDocument) take(r *clusterv1.JoinWorkerResponse, addresses []string) {
	d.Addresses = addresses
	d.Client, d.Serving, d.CA, d.GossipKeys = r.ClientCertificate, r.ServingCertificate, r.CaCertificate, r.GossipKeys
	if len(r.Masters) > 0 {
		d.Masters = r.Masters
	}
	if len(r.Gossip) > 0 {
		d.GossipSeeds = r.Gossip
	}
}

// matches says whether a host that is told to join with a configuration is what its directory says.
func (d *workerDocument) matches(cfg JoinWorkerConfig) error {
	if d.Name != cfg.Name {
		return fmt.Errorf("the data in %s is the worker %q's, not %q's: give that name, or another directory", cfg.Dir, d.Name, cfg.Name)
	}
	if cfg.Token == "" {
		return nil
	}
	token, err := parseToken(cfg.Token)
	if err != nil {
		return nil // it is not needed any more
	}
	ca, err := pki.ParseCertificate(d.CA)
	if err != nil {
		return fmt.Errorf("the data in %s: %w", cfg.Dir, err)
	}
	if pin := pki.Pin(ca); pin != token.pin {
		return fmt.Errorf("%w: it is for another cluster (%s...) than the one that this host belongs to (%s...); to move the host, remove %s",
			ErrToken, shortPin(token.pin), shortPin(pin), cfg.Dir)
	}
	return nil
}

func (d *workerDocument) identity() (*WorkerIdentity, error) {
	client, err := tls.X509KeyPair(d.Client, d.Key)
	if err != nil {
		return nil, fmt.Errorf("the worker's client certificate: %w", err)
	}
	serving, err := tls.X509KeyPair(d.Serving, d.Key)
	if err != nil {
		return nil, fmt.Errorf("the worker's serving certificate: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(d.CA) {
		return nil, errors.New("the worker's CA certificate cannot be read")
	}
	return &WorkerIdentity{
		Name: d.Name, Client: client, Serving: serving, CAPEM: d.CA, GossipKeys: d.GossipKeys,
		Masters: d.Masters, GossipSeeds: d.GossipSeeds, pool: pool,
	}, nil
}

func (d *workerDocument) notAfter() time.Time {
	cert, err := pki.ParseCertificate(d.Client)
	if err != nil {
		return time.Time{}
	}
	return cert.NotAfter
}

func (d *workerDocument) stale(addresses []string) bool {
	return time.Until(d.notAfter()) < pki.DefaultTTL/3 || !slices.Equal(d.Addresses, addresses)
}

func (d *workerDocument) renew(ctx context.Context, identity *WorkerIdentity, cfg JoinWorkerConfig) (*workerDocument, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*joinDial)
	defer cancel()
	csr, err := pki.RequestFor(d.Key, d.Name)
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, address := range mergeAddresses(d.Masters, cfg.Join, "") {
		conn, err := identity.Connect(address)
		if err != nil {
			return nil, err
		}
		response, err := clusterv1.NewWorkerServiceClient(conn).Renew(ctx, &clusterv1.RenewRequest{Csr: csr, Addresses: cfg.Addresses})
		conn.Close()
		if err != nil {
			failures = append(failures, err)
			continue
		}
		renewed := *d
		renewed.take(response, cfg.Addresses)
		return &renewed, renewed.save(cfg.Dir)
	}
	return nil, errors.Join(failures...)
}

// Connect makes a gRPC client to the node services of the master at an address. Nothing is dialed before the first call;
// the connection reconnects by itself.
func (w *WorkerIdentity) Connect(address string) (*grpc.ClientConn, error) {
	d := &dialer{authority: w.pool, certificate: func() (*tls.Certificate, error) { return &w.Client, nil }}
	return connect(d, address, protoNode)
}
