// Package harness runs an API server in one process without raft or network: the real object service, admission, REST and gRPC
// fronts and in-process clients over an fsm.Local. Unit tests of components that use the API use it.
package harness

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/admission"
	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/keepalive"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/controller/rbac"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/test/await"
)

// Harness is a running API.
type Harness struct {
	*apiserver.API
	Store *fsm.Local
	// Client acts as a member of system:masters, in process.
	Client *client.Client
	t      testing.TB
	server *httptest.Server
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey

	adminOnce sync.Once
	admin     *tls.ConnectionState
}

// New creates an API with the namespaces default and kube-system and their service accounts; it ends with the test.
func New(t testing.TB) *Harness {
	t.Helper()
	return NewWith(t, fsm.Options{})
}

// NewWith is New with options for the store (a short history, a small cache).
func NewWith(t testing.TB, options fsm.Options) *Harness {
	t.Helper()
	return newOver(t, options, func(*apiserver.Config) {})
}

// NewOver is New with a wrapper between the API and its store.
func NewOver(t testing.TB, between func(objects.Store) objects.Store) *Harness {
	t.Helper()
	return newOver(t, fsm.Options{}, func(c *apiserver.Config) { c.Store = between(c.Store) })
}

// NewConfigured is New with changes of the API's configuration.
func NewConfigured(t testing.TB, change func(*apiserver.Config)) *Harness {
	t.Helper()
	return newOver(t, fsm.Options{}, change)
}

func newOver(t testing.TB, options fsm.Options, change func(*apiserver.Config)) *Harness {
	t.Helper()
	h := &Harness{t: t, Store: fsm.NewLocal(options)}
	h.ca, h.caKey = newCA(t)
	roots := x509.NewCertPool()
	roots.AddCert(h.ca)
	tokenKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	h.must(err)
	config := apiserver.Config{
		Store: h.Store, SealKeys: map[string][]byte{"k1": make([]byte, 32)}, SealWith: "k1",
		ServiceAccountKey: tokenKey, ServiceRange: netip.MustParsePrefix("10.96.0.0/16"), PodRange: netip.MustParsePrefix("10.244.0.0/16"),
		Roots:   func() *x509.CertPool { return roots },
		Version: version.Info{Major: "1", Minor: "37", GitVersion: "v1.37.2+kontiki.test"},
		Log:     slog.New(slog.DiscardHandler),
		// No node controller runs here that would remove the taint of new nodes once they are ready.
		Admission: admission.Config{Disable: []string{"TaintNodesByCondition"}},
	}
	change(&config)
	h.API, err = apiserver.New(config)
	h.must(err)
	h.Client = client.New(h.Objects, "system:harness", "harness")
	ctx := context.Background()
	running, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.API.Run(running)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	for _, name := range []string{"default", "kube-system"} {
		_, err := client.Create(ctx, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
		h.must(err)
		_, err = client.Create(ctx, h.Client, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: name}})
		h.must(err)
	}
	return h
}

func (h *Harness) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// Roles creates the default roles and bindings, and the namespace kube-public that some of them are in, so that others than members of system:masters may do something.
func (h *Harness) Roles() {
	h.t.Helper()
	c := client.New(h.Objects, "system:apiserver", "kube-apiserver")
	_, err := client.Create(context.Background(), c, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: metav1.NamespacePublic}})
	h.must(err)
	for _, obj := range rbac.Defaults() {
		h.must(rbac.Reconcile(context.Background(), c, obj))
	}
}

// AsAdmin returns the REST front without a network, which treats requests as a cluster administrator's.
func (h *Harness) AsAdmin() http.Handler { return h.asAdmin(h.REST) }

// AsAdminRPC is AsAdmin for the gRPC front.
func (h *Harness) AsAdminRPC() http.Handler { return h.asAdmin(h.RPC) }

func (h *Harness) asAdmin(front http.Handler) http.Handler {
	h.adminOnce.Do(func() {
		cert, _ := h.issue("admin", []string{"system:masters"})
		block, _ := pem.Decode(cert)
		parsed, err := x509.ParseCertificate(block.Bytes)
		h.must(err)
		h.admin = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{parsed}}
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = h.admin
		front.ServeHTTP(w, r)
	})
}

// Serve starts both fronts on loopback with TLS.
func (h *Harness) Serve() {
	if h.server != nil {
		return
	}
	var serving atomic.Int64
	h.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serving.Add(1)
		defer serving.Add(-1)
		h.API.ServeHTTP(w, r)
	}))
	h.must(keepalive.Enforce(h.server.Config, keepalive.Policy{}))
	h.server.TLS = h.server.Config.TLSConfig
	h.server.TLS.ClientAuth = tls.RequestClientCert
	h.server.EnableHTTP2 = true
	h.server.StartTLS()
	h.t.Cleanup(func() {
		h.server.CloseClientConnections()
		h.server.Close()
		// Handlers outlive their connections. What they still do, as to record an audit event in a test's folder, must be over before the folder is removed.
		await.That(h.t, "handlers return", func() error {
			if n := serving.Load(); n != 0 {
				return fmt.Errorf("%d requests are being served", n)
			}
			return nil
		})
	})
}

// Config returns a client-go configuration with a client certificate for a user of the groups.
func (h *Harness) Config(user string, groups ...string) *rest.Config {
	h.t.Helper()
	h.Serve()
	cert, key := h.issue(user, groups)
	return &rest.Config{
		Host: h.server.URL, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true, CertData: cert, KeyData: key},
	}
}

// Clientset returns a client-go client for a cluster administrator.
func (h *Harness) Clientset() *kubernetes.Clientset {
	h.t.Helper()
	set, err := kubernetes.NewForConfig(h.Config("admin", "system:masters"))
	h.must(err)
	return set
}

func newCA(t testing.TB) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test-ca"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return ca, key
}
