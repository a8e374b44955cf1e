package server

import (
	"crypto/tls"
	"crypto/x509"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/controller/apiservices"
)

// frontProxy has the certificate by which extension API servers know this master. It is safe for concurrent use.
type frontProxy struct {
	// authority returns the present CA of the front proxy.
	authority func() *pki.Authority

	mu   sync.Mutex
	ca   *x509.Certificate // which signed cert
	cert *tls.Certificate
}

// Certificate returns one of the present CA that is not to be renewed yet.
func (f *frontProxy) Certificate() (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ca := f.authority()
	if f.cert != nil && f.ca.Equal(ca.Certificate()) && time.Now().Before(pki.RenewAt(f.cert.Leaf)) {
		return f.cert, nil
	}
	pair, err := ca.IssueFrontProxy()
	if err != nil {
		return nil, err
	}
	cert, err := pair.TLS()
	if err != nil {
		return nil, err
	}
	f.ca, f.cert = ca.Certificate(), &cert
	return f.cert, nil
}

// served returns the group versions of the table of kinds, and a channel that is closed when it has changed.
func (m *master) served() (served []apiservices.GroupVersion, changed <-chan struct{}) {
	changed = m.api.Catalog.Changed()
	at := map[schema.GroupVersion]int{}
	for _, kind := range m.api.Catalog.Table().Kinds() {
		gv := kind.GroupVersion()
		i, known := at[gv]
		if !known {
			i = len(served)
			at[gv] = i
			served = append(served, apiservices.GroupVersion{Group: gv.Group, Version: gv.Version, Custom: true})
		}
		served[i].Custom = served[i].Custom && kind.Life != nil
	}
	return served, changed
}

// extensionAuthentication returns what extension API servers have to know of the API, in the form of upstream's ConfigMap
// extension-apiserver-authentication, and a channel that is closed when it has changed.
func (m *master) extensionAuthentication() (map[string]string, <-chan struct{}) {
	changed := m.cluster.IdentityChanged()
	identity := m.cluster.Identity()
	return map[string]string{
		"client-ca-file":                     string(identity.ClientRootsPEM()),
		"requestheader-client-ca-file":       string(identity.FrontProxyRootsPEM()),
		"requestheader-allowed-names":        `["` + pki.FrontProxyName + `"]`,
		"requestheader-username-headers":     `["X-Remote-User"]`,
		"requestheader-uid-headers":          `["X-Remote-Uid"]`,
		"requestheader-group-headers":        `["X-Remote-Group"]`,
		"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	}, changed
}
