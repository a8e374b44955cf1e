package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/fake"
)

const image = "docker.io/test/image:1"

// authority is the test's CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert, key}
}

// issue creates a certificate and its key, in PEM.
func (a *authority) issue(t *testing.T, cn string, orgs ...string) (cert, key []byte) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn, Organization: orgs}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	kb, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kb})
}

func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// podSet is Pods over a runtime, with one container per pod.
type podSet struct {
	mu   sync.Mutex
	pods []*corev1.Pod
}

func (p *podSet) Pods() []*corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pods
}

func (p *podSet) Pod(namespace, name string, uid types.UID) (*corev1.Pod, bool) {
	for _, o := range p.Pods() {
		if o.Namespace == namespace && o.Name == name && (uid == "" || o.UID == uid) {
			return o, true
		}
	}
	return nil, false
}

type rig struct {
	t    *testing.T
	ca   *authority
	rt   *fake.Runtime
	pods *podSet
	base string
	rest *rest.Config
	dir  string
}

func newRig(t *testing.T) *rig { return newRigWith(t, func(*Config) {}) }

func newRigWith(t *testing.T, change func(*Config)) *rig {
	r := &rig{t: t, ca: newAuthority(t), rt: fake.New(image), pods: &podSet{}, dir: t.TempDir()}
	cert, key := r.ca.issue(t, "node-1")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(r.ca.cert)
	config := Config{Pods: r.pods, Runtime: r.rt, Verify: AllowMasters("master-1"), TLS: func() *tls.Config { return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool} }}
	change(&config)
	s := New(config)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	r.base = "https://" + l.Addr().String()
	r.rest = r.as("master-1")
	return r
}

// as returns a client with a certificate.
func (r *rig) as(cn string, orgs ...string) *rest.Config {
	cert, key := r.ca.issue(r.t, cn, orgs...)
	return &rest.Config{Host: r.base, TLSClientConfig: rest.TLSClientConfig{CAData: r.ca.pem(), CertData: cert, KeyData: key}}
}

// run creates a pod with one running container, and returns the container's id.
func (r *rig) run(name string, stdin bool, command ...string) string {
	r.t.Helper()
	ctx := context.Background()
	box := runtime.SandboxConfig{UID: "uid-" + name, Namespace: "ns", Name: name, Net: runtime.NamespaceHost}
	if _, err := r.rt.EnsureSandbox(ctx, box); err != nil {
		r.t.Fatal(err)
	}
	log := filepath.Join(r.dir, name, "0.log")
	if err := os.MkdirAll(filepath.Dir(log), 0o755); err != nil {
		r.t.Fatal(err)
	}
	id, err := r.rt.CreateContainer(ctx, runtime.ContainerConfig{Sandbox: box, Name: "c", Image: image, Command: command, LogPath: log, Stdin: stdin, StdinOnce: stdin})
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.rt.StartContainer(ctx, id); err != nil {
		r.t.Fatal(err)
	}
	p := &corev1.Pod{}
	p.Namespace, p.Name, p.UID = "ns", name, types.UID("uid-"+name)
	p.Spec.Containers = []corev1.Container{{Name: "c"}}
	p.Status.Phase = corev1.PodRunning
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", ContainerID: "containerd://" + id, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	r.pods.mu.Lock()
	r.pods.pods = append(r.pods.pods, p)
	r.pods.mu.Unlock()
	return id
}

func (r *rig) get(c *rest.Config, path string) (int, string) {
	r.t.Helper()
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		r.t.Fatal(err)
	}
	resp, err := client.Get(r.base + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestOnlyMastersMayCall(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		who  *rest.Config
		want int
	}{{r.rest, 200}, {r.as("root", "system:masters"), 200}, {r.as("system:node:node-2", "system:nodes"), 403}, {r.as("someone"), 403}} {
		if code, body := r.get(c.who, "/healthz"); code != c.want {
			t.Errorf("%d %s, want %d", code, body, c.want)
		}
	}
	if code, body := r.get(r.bearer(""), "/healthz"); code != http.StatusUnauthorized {
		t.Errorf("without a certificate: %d %s", code, body)
	}
	stranger := newAuthority(t)
	cert, key := stranger.issue(t, "master-1")
	c := &rest.Config{Host: r.base, TLSClientConfig: rest.TLSClientConfig{CAData: r.ca.pem(), CertData: cert, KeyData: key}}
	client, err := rest.HTTPClientFor(c)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := client.Get(r.base + "/healthz"); err == nil {
		resp.Body.Close()
		t.Errorf("with a stranger's certificate: %s", resp.Status)
	}
}

// executor streams as an API server does.
func (r *rig) executor(path string) remotecommand.Executor {
	r.t.Helper()
	u, err := url.Parse(r.base + path)
	if err != nil {
		r.t.Fatal(err)
	}
	e, err := remotecommand.NewSPDYExecutor(r.rest, "POST", u)
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}

// webSocket runs a command over WebSocket with the kubelet's channel protocol, and returns its output and the final status.
func (r *rig) webSocket(path string) (stdout, status string) {
	r.t.Helper()
	c, err := rest.TLSConfigFor(r.rest)
	if err != nil {
		r.t.Fatal(err)
	}
	d := websocket.Dialer{TLSClientConfig: c, Subprotocols: []string{"v4.channel.k8s.io"}}
	conn, _, err := d.Dial("wss"+strings.TrimPrefix(r.base, "https")+path, http.Header{"Origin": {r.base}})
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		_, b, err := conn.ReadMessage()
		if err != nil {
			return stdout, status
		}
		switch {
		case len(b) > 0 && b[0] == 1:
			stdout += string(b[1:])
		case len(b) > 0 && b[0] == 3:
			status += string(b[1:])
		}
	}
}

func TestExec(t *testing.T) {
	r := newRig(t)
	r.run("p", false, "sleep", "1000")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	e := r.executor("/exec/ns/p/c?command=cat&input=1&output=1&error=1")
	if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("through"), Stdout: &out, Stderr: io.Discard}); err != nil || out.String() != "through" {
		t.Errorf("%v, %q", err, out.String())
	}
	if out, status := r.webSocket("/exec/ns/p/c?command=echo&command=hello&output=1"); out != "hello\n" || !strings.Contains(status, "Success") {
		t.Errorf("over WebSocket: %q, %q", out, status)
	}
	// The API's names for the streams are accepted, too.
	err := r.executor("/exec/ns/p/c?command=sh&command=-c&command=exit+7&stdout=true&stderr=true").
		StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: io.Discard, Stderr: io.Discard})
	if code, ok := err.(utilexec.CodeExitError); !ok || code.Code != 7 {
		t.Errorf("%v, want exit code 7", err)
	}
	for path, want := range map[string]int{"/exec/ns/none/c?command=true&output=1": 404, "/exec/ns/p/none?command=true&output=1": 404, "/exec/ns/p/c?command=true": 400} {
		if code, body := r.get(r.rest, path); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
}

func TestAttach(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	r.run("p", true, "cat")
	var out bytes.Buffer
	e := r.executor("/attach/ns/p/c?input=1&output=1&error=1")
	if err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader("attached"), Stdout: &out, Stderr: io.Discard}); err != nil || out.String() != "attached" {
		t.Errorf("%v, %q", err, out.String())
	}
}

func TestPortForward(t *testing.T) {
	r := newRig(t)
	r.run("p", false, "sleep", "1000")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); b := make([]byte, 4); io.ReadFull(c, b); fmt.Fprintf(c, "pod got %s", b) }()
		}
	}()
	transport, upgrader, err := spdy.RoundTripperFor(r.rest)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(r.base + "/portForward/ns/p")
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	var errs bytes.Buffer
	pf, err := portforward.New(spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), []string{fmt.Sprintf("0:%d", l.Addr().(*net.TCPAddr).Port)}, stop, ready, io.Discard, &errs)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- pf.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	case <-time.After(10 * time.Second):
		t.Fatal("not ready")
	}
	ports, err := pf.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "ping")
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	b, err := io.ReadAll(conn)
	if err != nil || string(b) != "pod got ping" {
		t.Errorf("%q, %v; %s", b, err, errs.String())
	}
	close(stop)
	<-done
}

func logLine(at int, stream, tag, text string) string {
	return time.Unix(int64(at), 0).UTC().Format(time.RFC3339Nano) + " " + stream + " " + tag + " " + text + "\n"
}

func TestLogs(t *testing.T) {
	r := newRig(t)
	id := r.run("p", false, "sleep", "1000")
	c, err := r.rt.Container(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	log := logLine(1, "stdout", "F", "one") + logLine(2, "stderr", "F", "two") + logLine(3, "stdout", "P", "thr") + logLine(4, "stdout", "F", "ee") + logLine(5, "stdout", "F", "four")
	if err := os.WriteFile(c.LogPath, []byte(log), 0o644); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"":                                "one\ntwo\nthree\nfour\n",
		"?tailLines=1":                    "four\n",
		"?tailLines=0":                    "",
		"?tailLines=100":                  "one\ntwo\nthree\nfour\n",
		"?limitBytes=6":                   "one\ntw",
		"?stream=Stderr":                  "two\n",
		"?sinceTime=1970-01-01T00:00:05Z": "four\n",
		"?timestamps=true&tailLines=1":    "1970-01-01T00:00:05Z four\n",
	} {
		if code, body := r.get(r.rest, "/containerLogs/ns/p/c"+query); code != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", query, code, body, want)
		}
	}
	for path, want := range map[string]string{
		"/containerLogs/ns/p/c?previous=true": `previous terminated container "c" in pod "p" not found`,
		"/containerLogs/ns/p/none":            `container "none" not found in pod "p"`,
		"/containerLogs/ns/none/c":            `pod "none" does not exist`,
		"/containerLogs/ns/p/c?tailLines=x":   "Unable to decode query",
	} {
		if code, body := r.get(r.rest, path); code < 400 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %q, want %q", path, code, body, want)
		}
	}
}

func TestLogsFollowAcrossRotation(t *testing.T) {
	r := newRig(t)
	id := r.run("p", false, "sleep", "1000")
	c, err := r.rt.Container(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	appendTo := func(s string) {
		f, err := os.OpenFile(c.LogPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	client, err := rest.HTTPClientFor(r.rest)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", r.base+"/containerLogs/ns/p/c?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	appendTo(logLine(1, "stdout", "F", "one"))
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	expect := func(want string) {
		t.Helper()
		b := make([]byte, len(want))
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != want {
			t.Fatalf("%q, %v; want %q", b, err, want)
		}
	}
	expect("one\n")
	appendTo(logLine(2, "stdout", "F", "two"))
	expect("two\n")
	appendTo(logLine(3, "stdout", "F", "three"))
	if err := os.Rename(c.LogPath, c.LogPath+".1"); err != nil {
		t.Fatal(err)
	}
	appendTo(logLine(4, "stdout", "F", "four"))
	expect("three\nfour\n")
	appendTo(logLine(5, "stdout", "F", "last"))
	r.rt.Exit(id, 0, false)
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "last\n" {
		t.Errorf("the end: %q, %v", b, err)
	}
}

func TestImagesAndStats(t *testing.T) {
	r := newRig(t)
	r.run("p", false, "sleep", "1000")
	client, err := rest.HTTPClientFor(r.rest)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Post(r.base+"/kontiki/images", "application/x-tar", strings.NewReader("docker.io/test/new:1"))
	if err != nil {
		t.Fatal(err)
	}
	var got []ImportedImage
	err = json.NewDecoder(resp.Body).Decode(&got)
	resp.Body.Close()
	if err != nil || len(got) != 1 || got[0].Tags[0] != "docker.io/test/new:1" {
		t.Errorf("%+v, %v", got, err)
	}
	resp, err = client.Post(r.base+"/kontiki/images", "application/x-tar", strings.NewReader("NO IMAGE"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 400 {
		t.Errorf("garbage: %s", resp.Status)
	}
	for path, want := range map[string]string{
		"/stats/summary":    `"podRef":{"name":"p","namespace":"ns","uid":"uid-p"}`,
		"/metrics":          `kontiki_node_pods{phase="Running"} 1`,
		"/metrics/resource": `container_memory_working_set_bytes{container="c",namespace="ns",pod="p"}`,
		"/pods":             `"name":"p"`,
	} {
		if code, body := r.get(r.rest, path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s, want %s in it", path, code, body, want)
		}
	}
}
