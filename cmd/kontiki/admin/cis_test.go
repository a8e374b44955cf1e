package admin

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestWeakHandshakesAreFound: a server that agrees to one is named, one that refuses by an alert passes, and one that cannot be asked does neither.
func TestWeakHandshakesAreFound(t *testing.T) {
	serve := func(config *tls.Config) string {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.TLS = config
		s.Config.ErrorLog = nil
		s.StartTLS()
		t.Cleanup(s.Close)
		return s.URL
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for what, c := range map[string]struct {
		config *tls.Config
		want   string
	}{
		"as masters serve": {&tls.Config{MinVersion: tls.VersionTLS12}, ""},
		"TLS 1.3 only":     {&tls.Config{MinVersion: tls.VersionTLS13}, ""},
		"TLS 1.0":          {&tls.Config{MinVersion: tls.VersionTLS10}, "TLS 1.1"},
		"no forward secrecy": {&tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}},
			"a cipher suite that is not secure"},
	} {
		if got, err := weakHandshake(ctx, serve(c.config)); err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", what, got, err, c.want)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	for _, host := range []string{"https://" + listener.Addr().String(), "no url"} {
		if got, err := weakHandshake(ctx, host); err == nil {
			t.Errorf("%s: %q, want an error", host, got)
		}
	}
}

func TestCISFlags(t *testing.T) {
	cmd := cisCommand()
	cmd.SetArgs([]string{"-o", "table"})
	cmd.SilenceUsage, cmd.SilenceErrors = true, true
	if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), `"table" is neither json nor yaml`) {
		t.Error(err)
	}
}
