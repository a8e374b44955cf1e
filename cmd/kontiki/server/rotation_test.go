package server

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cmd/kontiki/admin"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/test/await"
)

// apiClient is a client of the API with one HTTP/2 connection.
func apiClient(roots *x509.CertPool, cert tls.Certificate) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}, ForceAttemptHTTP2: true}}
}

func adminCertificate(t *testing.T, ca *pki.Authority) tls.Certificate {
	t.Helper()
	pair, err := ca.WithLifetime(time.Hour).IssueClient("somebody", []string{"system:masters"})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// ask returns the status of a request and whether it used an existing connection.
func ask(ctx context.Context, client *http.Client, method, url, body string) (code int, answer []byte, reused bool, err error) {
	trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }}
	r, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), method, url, strings.NewReader(body))
	if err != nil {
		return 0, nil, false, err
	}
	r.Header.Set("Content-Type", "application/json")
	response, err := client.Do(r)
	if err != nil {
		return 0, nil, reused, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(response.Body)
	return response.StatusCode, answer, reused, err
}

// TestTheAPIGoesOnThroughRenewalsAndRotations keeps one connection with a watch open through several renewals of the serving
// certificate and a rotation of the CA, of the secret key, and of all other keys.
func TestTheAPIGoesOnThroughRenewalsAndRotations(t *testing.T) {
	m := startMaster(t, func(o *serverOptions, _ *cluster.Config) { o.timings.Certificate = 4 * time.Second })
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	before := m.cluster.Identity()
	client := apiClient(before.Roots(), adminCertificate(t, before.CA))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, m.api+"/api/v1/namespaces?watch=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	watch, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Body.Close()
	if watch.ProtoMajor != 2 || watch.StatusCode != http.StatusOK {
		t.Fatalf("the watch is %s by %s", watch.Status, watch.Proto)
	}
	lines := bufio.NewReader(watch.Body)
	// goesOn creates a namespace over the same connection, and sees it in the watch.
	goesOn := func(name string) {
		t.Helper()
		code, answer, reused, err := ask(ctx, client, http.MethodPost, m.api+"/api/v1/namespaces", `{"metadata":{"name":"`+name+`"}}`)
		if err != nil || code != http.StatusCreated || !reused {
			t.Fatalf("over the connection of the beginning: %d, reused %v, %v: %s", code, reused, err, answer)
		}
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				t.Fatalf("the watch of the beginning: %v", err)
			}
			if bytes.Contains(line, []byte(`"name":"`+name+`"`)) {
				return
			}
		}
	}
	goesOn("at-first")
	secretOf := func(name string) { // its value is read back through the sealer
		t.Helper()
		code, answer, _, err := ask(ctx, client, http.MethodGet, m.api+"/api/v1/namespaces/default/secrets/"+name, "")
		if err != nil || code != http.StatusOK || !bytes.Contains(answer, []byte("cGFzc3dvcmQ=")) {
			t.Fatalf("the secret %s: %d, %v: %s", name, code, err, answer)
		}
	}
	putSecret := func(name string) {
		t.Helper()
		code, answer, _, err := ask(ctx, client, http.MethodPost, m.api+"/api/v1/namespaces/default/secrets", `{"metadata":{"name":"`+name+`"},"data":{"x":"cGFzc3dvcmQ="}}`)
		if err != nil || code != http.StatusCreated {
			t.Fatalf("make a secret: %d, %v: %s", code, err, answer)
		}
		if v, ok := m.cluster.View().Get("/core/secrets/default/" + name); !ok || !bytes.Contains(v.Value, []byte(":"+m.cluster.Identity().CurrentSecretKey+":")) {
			t.Errorf("the secret %s is not sealed with the current key", name)
		}
	}
	putSecret("old")

	serials := map[string]bool{}
	await.That(t, "three renewals of the serving certificate", func() error {
		conn, err := tls.Dial("tcp", strings.TrimPrefix(m.api, "https://"), &tls.Config{RootCAs: before.Roots()})
		if err != nil {
			return err
		}
		defer conn.Close()
		serials[conn.ConnectionState().PeerCertificates[0].SerialNumber.String()] = true
		if len(serials) < 4 {
			return fmt.Errorf("%d certificates seen", len(serials))
		}
		return nil
	})
	goesOn("after-renewals")
	kubeconfig := filepath.Join(m.options.dataDir, "admin.kubeconfig")
	asAdmin := func() error { // with what is in the file now
		config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return err
		}
		set, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		_, err = set.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		return err
	}
	if err := asAdmin(); err != nil { // the first one's certificate has long expired
		t.Errorf("the kubeconfig was not renewed: %v", err)
	}

	change := func(action string) (int, string) {
		t.Helper()
		code, answer, _, err := ask(ctx, client, http.MethodPost, m.api+admin.CertsPath, `{"action":"`+action+`"}`)
		if err != nil {
			t.Fatal(err)
		}
		return code, string(answer)
	}
	if code, answer := change("finish-ca"); code != http.StatusConflict || !strings.Contains(answer, "rotate-ca") {
		t.Errorf("finished what was not begun: %d %s", code, answer)
	}
	if code, answer := change("make-coffee"); code != http.StatusBadRequest || !strings.Contains(answer, "rotate-gossip-key") {
		t.Errorf("an unknown change: %d %s", code, answer)
	}
	podToken := func() string {
		t.Helper()
		code, answer, _, err := ask(ctx, client, http.MethodPost, m.api+"/api/v1/namespaces/default/serviceaccounts/default/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}}`)
		var made struct{ Status struct{ Token string } }
		if err != nil || code != http.StatusCreated || json.Unmarshal(answer, &made) != nil {
			t.Fatalf("a service account's token: %d, %v: %s", code, err, answer)
		}
		return made.Status.Token
	}
	tokenHolds := func(token string) bool {
		t.Helper()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, m.api+"/api", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+token)
		bare := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: m.cluster.Roots()}, DisableKeepAlives: true}}
		response, err := bare.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode == http.StatusOK
	}
	oldToken := podToken()
	for _, action := range []string{"rotate-ca", "rotate-secret-key", "rotate-gossip-key", "rotate-token-key"} {
		if code, answer := change(action); code != http.StatusOK {
			t.Fatalf("%s: %d %s", action, code, answer)
		}
	}
	var now *identity.Identity
	await.That(t, "the new keys to be used", func() error {
		if now = m.cluster.Identity(); now.PreviousCA == nil || now.CurrentSecretKey == before.CurrentSecretKey || now.GossipStep != "" || now.PreviousTokenKey == nil {
			return errors.New("not yet")
		}
		return nil
	})
	goesOn("after-rotation")
	await.That(t, "the kubeconfig with both CAs", func() error {
		config, err := clientcmd.LoadFromFile(kubeconfig)
		if err != nil {
			return err
		}
		if n := bytes.Count(config.Clusters["kontiki"].CertificateAuthorityData, []byte("BEGIN CERTIFICATE")); n != 2 {
			return fmt.Errorf("%d CAs", n)
		}
		cert, err := pki.ParseCertificate(config.AuthInfos["admin"].ClientCertificateData)
		if err != nil {
			return err
		}
		return cert.CheckSignatureFrom(now.CA.Certificate())
	})
	await.That(t, "both CAs in every namespace", func() error {
		cm := corev1.ConfigMap{}
		code, answer, _, err := ask(ctx, client, http.MethodGet, m.api+"/api/v1/namespaces/after-rotation/configmaps/kube-root-ca.crt", "")
		if err != nil || code != http.StatusOK {
			return fmt.Errorf("%d, %v", code, err)
		}
		if err := json.Unmarshal(answer, &cm); err != nil {
			return err
		}
		if n := strings.Count(cm.Data["ca.crt"], "BEGIN CERTIFICATE"); n != 2 {
			return fmt.Errorf("%d CAs", n)
		}
		return nil
	})
	// A client that trusts only the old CA connects again: the certificate of the new CA comes with a cross-signature of the old
	// one.
	code, answer, reused, err := ask(ctx, apiClient(before.Roots(), adminCertificate(t, before.CA)), http.MethodGet, m.api+"/api/v1/namespaces/default", "")
	if err != nil || code != http.StatusOK || reused {
		t.Errorf("a client that trusts the old CA alone: %d, %v: %s", code, err, answer)
	}
	secretOf("old")
	newToken := ""
	await.That(t, "tokens to be signed with the new key", func() error {
		newToken = podToken()
		parsed, err := jwt.ParseSigned(newToken, []jose.SignatureAlgorithm{jose.ES256})
		if err != nil {
			return err
		}
		return parsed.Claims(now.ServiceAccountKey.Public(), &jwt.Claims{})
	})
	if !tokenHolds(oldToken) || !tokenHolds(newToken) {
		t.Errorf("while the key of tokens changes: old %v, new %v", tokenHolds(oldToken), tokenHolds(newToken))
	}
	if code, answer := change("finish-token-key"); code != http.StatusOK {
		t.Errorf("the end of the old key of tokens: %d %s", code, answer)
	}
	await.That(t, "tokens of the old key to be void", func() error {
		if tokenHolds(oldToken) {
			return errors.New("it holds")
		}
		return nil
	})
	if !tokenHolds(newToken) {
		t.Error("a token of the new key is void")
	}
	await.That(t, "new secrets to be sealed with the new key", func() error {
		sealed, err := m.master.api.Sealer.Seal("/x", nil)
		if err == nil && !bytes.Contains(sealed, []byte(":"+now.CurrentSecretKey+":")) {
			err = errors.New("the old key")
		}
		return err
	})
	putSecret("new")
	secretOf("new")
	// A write without changes encrypts old Secrets with the new key.
	code, answer, _, err = ask(ctx, client, http.MethodGet, m.api+"/api/v1/namespaces/default/secrets/old", "")
	if err != nil || code != http.StatusOK {
		t.Fatal(code, err)
	}
	if code, answer, _, err := ask(ctx, client, http.MethodPut, m.api+"/api/v1/namespaces/default/secrets/old", string(answer)); err != nil || code != http.StatusOK {
		t.Fatalf("write a secret again: %d, %v: %s", code, err, answer)
	}
	if v, ok := m.cluster.View().Get("/core/secrets/default/old"); !ok || !bytes.Contains(v.Value, []byte(":"+now.CurrentSecretKey+":")) {
		t.Error("a secret that was written again is sealed with the old key")
	}
	secretOf("old")

	out := captureStdout(t, func() {
		root := administration()
		root.SetArgs([]string{"cluster", "certs", "--kubeconfig", kubeconfig})
		if err := root.ExecuteContext(ctx); err != nil {
			t.Error(err)
		}
	})
	for _, want := range []string{"CA, issuing", "CA, previous", "master", "agent-client", now.CA.Pin()[:12], before.CA.Pin()[:12], "--finish"} {
		if !strings.Contains(out, want) {
			t.Errorf("`kontiki cluster certs` does not show %q:\n%s", want, out)
		}
	}
	finish := administration()
	finish.SetArgs([]string{"cluster", "certs", "rotate-ca", "--finish", "--kubeconfig", kubeconfig, "-o", "json"})
	if out := captureStdout(t, func() {
		if err := finish.ExecuteContext(ctx); err != nil {
			t.Error(err)
		}
	}); !strings.Contains(out, `"generation":`) {
		t.Errorf("the end of the rotation prints %q", out)
	}
	await.That(t, "the watch of a client with the old CA's certificate to be cut", func() error {
		for {
			if _, err := lines.ReadBytes('\n'); err != nil {
				return nil
			}
		}
	})
	if code, _, _, err := ask(ctx, apiClient(m.cluster.Roots(), adminCertificate(t, before.CA)), http.MethodGet, m.api+"/api/v1/secrets", ""); err != nil || code != http.StatusUnauthorized {
		t.Errorf("a certificate of the dropped CA: %d, %v", code, err)
	}
	var unknown x509.UnknownAuthorityError
	if _, _, _, err := ask(ctx, apiClient(before.Roots(), adminCertificate(t, before.CA)), http.MethodGet, m.api+"/version", ""); !errors.As(err, &unknown) {
		t.Errorf("whoever trusts the dropped CA alone is served: %v", err)
	}
	await.That(t, "the kubeconfig of the new CA", asAdmin)
}

// TestARequestIsAnsweredBeforeItsConnectionIsCut removes the CA of a client during that client's request, as `kontiki cluster certs
// rotate-ca --finish` may with a kubeconfig of the old CA.
func TestARequestIsAnsweredBeforeItsConnectionIsCut(t *testing.T) {
	ca, err := pki.NewAuthority("old")
	if err != nil {
		t.Fatal(err)
	}
	for _, http2 := range []bool{false, true} {
		var conns apiConns
		cut := make(chan struct{})
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			conns.recheck(x509.NewCertPool())
			io.WriteString(w, "done")
		}))
		server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
		server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
			conns.state(conn, state)
			if state == http.StateClosed {
				close(cut)
			}
		}
		server.EnableHTTP2 = http2
		server.StartTLS()
		defer server.Close()
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		client := apiClient(roots, adminCertificate(t, ca))
		if !http2 {
			client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
		}
		code, answer, _, err := ask(t.Context(), client, http.MethodPost, server.URL, "")
		if err != nil || code != http.StatusOK || string(answer) != "done" {
			t.Errorf("HTTP/2 %v: the request under way: %d %q, %v", http2, code, answer, err)
		}
		select {
		case <-cut:
		case <-time.After(time.Minute):
			t.Fatalf("HTTP/2 %v: the connection stays", http2)
		}
	}
}

// captureStdout returns the output of f.
func captureStdout(t *testing.T, f func()) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = stdout }()
	printed := make(chan string)
	go func() {
		data, _ := io.ReadAll(r)
		printed <- string(data)
	}()
	f()
	w.Close()
	return <-printed
}
