package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/pki"
)

// clusterAgents provides the credentials for the nodes' agents: the present certificate and CAs.
type clusterAgents struct {
	cluster *cluster.Cluster

	mu      sync.Mutex
	config  *tls.Config
	changed <-chan struct{}
}

// TLS implements agents.Credentials.
func (a *clusterAgents) TLS() *tls.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case <-a.changed:
		a.config = nil
	default:
	}
	if a.config == nil {
		a.changed = a.cluster.IdentityChanged()
		a.config = &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: a.cluster.Roots(),
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return a.cluster.AgentClientCertificate() },
		}
	}
	return a.config
}

// apiConns tracks the connections to the API, so that those of clients that are no longer trusted can be closed. Hijacked ones
// (exec, port-forward) are not tracked any more.
type apiConns struct {
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

// state is the server's ConnState hook.
func (a *apiConns) state(conn net.Conn, state http.ConnState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch state {
	case http.StateNew:
		if a.open == nil {
			a.open = map[net.Conn]struct{}{}
		}
		a.open[conn] = struct{}{}
	case http.StateHijacked, http.StateClosed:
		delete(a.open, conn)
	}
}

// answerTime is how long requests on a connection that is to be closed may take. The request that drops a CA may itself come from a
// client of that CA.
const answerTime = time.Second

// recheck closes, after answerTime, the connections whose client certificate is not under the roots: every new request on them is
// checked and refused from now on. Expired certificates are left to the check of the next request.
func (a *apiConns) recheck(roots *x509.CertPool) {
	a.mu.Lock()
	var cut []net.Conn
	for conn := range a.open {
		secured, ok := conn.(*tls.Conn)
		if !ok {
			continue
		}
		state := secured.ConnectionState()
		if !state.HandshakeComplete || len(state.PeerCertificates) == 0 {
			continue
		}
		leaf := state.PeerCertificates[0]
		valid := pki.IssuedAt(leaf)
		if valid.After(leaf.NotAfter) { // a short one that somebody requested by a CertificateSigningRequest
			valid = leaf.NotAfter
		}
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: pki.Pool(state.PeerCertificates[1:]...), CurrentTime: valid, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if err != nil {
			cut = append(cut, conn)
		}
	}
	a.mu.Unlock()
	if len(cut) == 0 {
		return
	}
	time.AfterFunc(answerTime, func() {
		for _, conn := range cut {
			conn.Close() // it may already be closed
		}
	})
}

// bundle returns the CAs that pods should trust, and a channel that is closed when they change.
func (m *master) bundle() ([]byte, <-chan struct{}) {
	changed := m.cluster.IdentityChanged()
	return m.cluster.Identity().RootsPEM(), changed
}

// workerOf returns the worker that a certificate was issued to, or why the certificate is not valid.
func (m *master) workerOf(der []byte) (string, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return "", err
	}
	peer, err := pki.ParsePeer(cert)
	if err != nil {
		return "", err
	}
	if peer.Role != pki.RoleWorker {
		return "", fmt.Errorf("the certificate of %q is not a worker's", cert.Subject.CommonName)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: m.cluster.Roots(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return "", err
	}
	return peer.Name, m.cluster.Admits(cert)
}

// clientsCA is the CA of controller/certificates.
type clientsCA struct{ *cluster.Cluster }

// Reserved implements certificates.CA.
func (clientsCA) Reserved(err error) bool { return errors.Is(err, pki.ErrReserved) }

// kubeconfigAgain is when a kubeconfig that could not be written is tried again.
const kubeconfigAgain = time.Minute

// useKeys passes the present keys to the API.
func (m *master) useKeys() error {
	m.usingKeys.Lock()
	defer m.usingKeys.Unlock()
	identity := m.cluster.Identity()
	m.keyring.useWrapped(identity)
	keys, missing := m.keyring.Keys()
	maps.Copy(keys, identity.SecretKeys)
	if err := m.api.Sealer.Use(identity.SealingKey(), keys, missing); err != nil {
		return fmt.Errorf("keys that encrypt Secrets: %w", err)
	}
	return m.api.Tokens.Use(identity.ServiceAccountKey, identity.OtherTokenKeys()...)
}

// followIdentity updates what this process derives from the cluster's identity whenever that changes, and renews the
// administrator's kubeconfig in time.
func (m *master) followIdentity(ctx context.Context) error {
	ready := m.cluster.Ready()
	for {
		changed := m.cluster.IdentityChanged()
		if err := m.useKeys(); err != nil {
			return err
		}
		m.apiConns.recheck(m.cluster.ClientRoots())
		lifetime := m.options.timings.Certificate
		wait := lifetime*2/3 + rand.N(max(lifetime/20, 1))
		if ready != nil {
			wait = kubeconfigAgain
		} else if err := m.writeKubeconfig(); err != nil {
			m.log.Warn("the administrator's kubeconfig could not be written", "error", err)
			wait = kubeconfigAgain
		}
		timer := time.NewTimer(wait)
		select {
		case <-ready:
			ready = nil // from now on there is a kubeconfig
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// writeKubeconfig writes the administrator's kubeconfig to the data directory.
func (m *master) writeKubeconfig() error {
	server := "https://" + net.JoinHostPort(m.options.nodeIP, strconv.Itoa(m.options.apiPort))
	return WriteKubeconfig(filepath.Join(m.options.dataDir, "admin.kubeconfig"), server, m.cluster.Issuer(), m.cluster.Identity().RootsPEM())
}

// knownWorkers returns the nodes that run Kontiki's agent, connected or not.
func (m *master) knownWorkers() (names []string) {
	c := client.New(m.api.Objects, "system:kontiki:certs", "kontiki")
	client.Each(c.View(), "", func(n *corev1.Node) bool {
		if strings.Contains(n.Status.NodeInfo.KubeletVersion, "kontiki") {
			names = append(names, n.Name)
		}
		return true
	})
	return names
}
