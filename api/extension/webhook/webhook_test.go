package webhook

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func target(t *testing.T, handler http.HandlerFunc) Target {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	return Target{URL: server.URL, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})}
}

// TestOwnAddressesAreRefused: a URL that leads to this host is refused, whatever its name.
func TestOwnAddressesAreRefused(t *testing.T) {
	to := target(t, func(http.ResponseWriter, *http.Request) { t.Error("the webhook was called") })
	for _, url := range []string{to.URL, strings.Replace(to.URL, "127.0.0.1", "localhost", 1), strings.Replace(to.URL, "127.0.0.1", "[::ffff:127.0.0.1]", 1), "https://169.254.169.254/"} {
		c, err := New(Target{URL: url, CABundle: to.CABundle}, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Post(context.Background(), nil); !errors.Is(err, errOwn) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

// TestResponsesAreBounded: large responses, redirections and other codes than 200 are errors.
func TestResponsesAreBounded(t *testing.T) {
	for want, handler := range map[string]http.HandlerFunc{
		"is larger than": func(w http.ResponseWriter, _ *http.Request) {
			for range MaxResponse/(1<<20) + 1 {
				w.Write(make([]byte, 1<<20))
			}
		},
		"302 Found": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://example.com/", http.StatusFound)
		},
		"404 Not Found": func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) },
		"EOF":           func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		c, err := New(target(t, handler), nil, true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Post(context.Background(), []byte("{}")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
		c.Close()
	}
}

// TestTheCertificateIsVerified: the webhook's certificate must come from its CAs.
func TestTheCertificateIsVerified(t *testing.T) {
	to := target(t, func(http.ResponseWriter, *http.Request) { t.Error("the webhook was called") })
	to.CABundle = nil
	c, err := New(to, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	var unknown x509.UnknownAuthorityError
	if _, err := c.Post(context.Background(), nil); !errors.As(err, &unknown) {
		t.Error(err)
	}
	if _, err := New(Target{URL: "http://example.com"}, nil, true); err == nil {
		t.Error("a webhook without TLS was accepted")
	}
	if _, err := New(Target{URL: "https://example.com", CABundle: []byte("x")}, nil, true); err == nil {
		t.Error("CAs that cannot be read were accepted")
	}
}
