package webhook

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	upstream "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/transport"
)

// Credentials say by what masters identify themselves to webhooks, by the host and port of each.
type Credentials = upstream.AuthenticationInfoResolver

// OpenCredentials reads the credentials of a kubeconfig file (kubeConfigFile of a WebhookAdmissionConfiguration). A user of it is named after the
// webhook that gets its token, password or client certificate: "NAME.NAMESPACE.svc" or "HOST:PORT", "*.SUFFIX", or "*" for all. Files of tokens and
// certificates that it names are read again when they change; the kubeconfig file itself is not. Programs that make credentials (exec,
// auth-provider) are refused.
func OpenCredentials(file string) (Credentials, error) {
	loaded, err := clientcmd.LoadFromFile(file)
	if err != nil {
		return nil, err
	}
	for name, user := range loaded.AuthInfos {
		if err := checkUser(user); err != nil {
			return nil, fmt.Errorf("users[%q]: %w", name, err)
		}
	}
	return upstream.NewDefaultAuthenticationInfoResolver(file)
}

func checkUser(user *clientcmdapi.AuthInfo) error {
	switch {
	case user.Exec != nil:
		return fmt.Errorf("exec is not supported: use a token, tokenFile or a client certificate")
	case user.AuthProvider != nil:
		return fmt.Errorf("auth-provider is not supported: use a token, tokenFile or a client certificate")
	case (user.ClientCertificate != "" || len(user.ClientCertificateData) > 0) != (user.ClientKey != "" || len(user.ClientKeyData) > 0):
		return fmt.Errorf("a client certificate needs a key, and a key needs a certificate")
	}
	return nil
}

// identify makes a transport identify itself to the target by its credentials.
func (t *Target) identify(base *http.Transport, config *tls.Config) (http.RoundTripper, error) {
	if t.Credentials == nil {
		return base, nil
	}
	by, err := t.credentials()
	if err != nil {
		return nil, fmt.Errorf("the credentials for the webhook: %w", err)
	}
	c, err := by.TransportConfig()
	if err != nil {
		return nil, err
	}
	own, err := transport.TLSConfigFor(c)
	if err != nil {
		return nil, err
	}
	if own != nil {
		config.Certificates, config.GetClientCertificate = own.Certificates, own.GetClientCertificate
	}
	return transport.HTTPWrappersForConfig(c, base)
}

func (t *Target) credentials() (*rest.Config, error) {
	if s := t.Service; s != nil {
		return t.Credentials.ClientConfigForService(s.Name, s.Namespace, int(s.Port))
	}
	to, err := url.Parse(t.URL)
	if err != nil {
		return nil, err
	}
	host := to.Host
	if to.Port() == "" {
		host = net.JoinHostPort(strings.Trim(to.Host, "[]"), "443")
	}
	return t.Credentials.ClientConfigFor(host)
}
