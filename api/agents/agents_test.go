package agents

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/cluster/pki"
)

func TestContainerOf(t *testing.T) {
	one := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		InitContainers:      []corev1.Container{{Name: "first"}},
		Containers:          []corev1.Container{{Name: "web"}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug"}}},
	}}
	two := one.DeepCopy()
	two.Spec.Containers = append(two.Spec.Containers, corev1.Container{Name: "side"})
	for _, c := range []struct {
		pod              *corev1.Pod
		asked, got, fail string
	}{
		{one, "", "web", ""},
		{one, "first", "first", ""},
		{one, "debug", "debug", ""},
		{two, "side", "side", ""},
		{two, "", "", "a container name must be specified for pod p, choose one of: [first web side debug]"},
		{one, "none", "", "container none is not valid for pod p"},
	} {
		got, err := ContainerOf(c.pod, c.asked)
		if c.fail == "" && (err != nil || got != c.got) {
			t.Errorf("%q: %q, %v; want %q", c.asked, got, err, c.got)
		}
		if c.fail != "" && (!apierrors.IsBadRequest(err) || err.Error() != c.fail) {
			t.Errorf("%q: %v; want %q", c.asked, err, c.fail)
		}
	}
}

// fixed are credentials that change only when the test changes them.
type fixed struct{ config *tls.Config }

func (f *fixed) TLS() *tls.Config { return f.config }

// TestAnotherNodesCertificateIsRefused serves one node's certificate at the address of another node.
func TestAnotherNodesCertificateIsRefused(t *testing.T) {
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueClient("system:node:worker-1", []string{"system:nodes"})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := leaf.TLS()
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	defer server.Close()
	// The test is about the name in the certificate, not about its CA.
	shown := &fixed{&tls.Config{InsecureSkipVerify: true}}
	a := New(nil, shown)
	for node, refused := range map[string]bool{"worker-1": false, "worker-2": true} {
		transport, err := a.Transport(node)
		if err != nil {
			t.Fatal(err)
		}
		response, err := (&http.Client{Transport: transport}).Get(server.URL)
		if err == nil {
			response.Body.Close()
		}
		if refused != (err != nil) || refused && !strings.Contains(err.Error(), `the address of node "worker-2"`) {
			t.Errorf("%s: %v", node, err)
		}
	}
}

func TestTransportsChangeWithTheCAs(t *testing.T) {
	shown := &fixed{&tls.Config{RootCAs: x509.NewCertPool()}}
	a := New(nil, shown)
	var seen []*http.Transport
	for range 2 {
		for range 2 {
			transport, err := a.Transport("w")
			if err != nil {
				t.Fatal(err)
			}
			seen = append(seen, transport)
		}
		shown.config = shown.config.Clone()
	}
	if seen[0] != seen[1] || seen[1] == seen[2] || seen[2] != seen[3] {
		t.Errorf("transports %p, with new CAs between the second and the third", seen)
	}
	if _, err := New(nil, nil).Transport("w"); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("without credentials: %v", err)
	}
}

func TestTransportsOfNodesThatAreGoneAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(nil, &fixed{&tls.Config{}})
		to := func(node string) *http.Transport {
			transport, err := a.Transport(node)
			if err != nil {
				t.Fatal(err)
			}
			return transport
		}
		to("gone")
		stays := to("stays")
		for range 3 { // virtual
			time.Sleep(idleTime / 2) // virtual: one node is used, the other is not
			to("stays")
		}
		to("new")
		if len(a.via) != 2 || to("stays") != stays {
			t.Errorf("there are %d transports; stays has changed: %v", len(a.via), to("stays") != stays)
		}
	})
}

func TestLogOptionsAreChecked(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	now := metav1.Now()
	for want, o := range map[string]*corev1.PodLogOptions{
		"": {TailLines: n(0), LimitBytes: n(1), SinceSeconds: n(1)},
		"tailLines: Invalid value: -1: must be greater than or equal to 0": {TailLines: n(-1), LimitBytes: n(0), SinceSeconds: n(0)},
		"limitBytes: Invalid value: 0: must be greater than 0":             {LimitBytes: n(0), SinceSeconds: n(0)},
		"sinceSeconds: Invalid value: -5: must be greater than 0":          {SinceSeconds: n(-5)},
		"at most one of `sinceTime` or `sinceSeconds` may be specified":    {SinceSeconds: n(5), SinceTime: &now},
	} {
		err := CheckLogOptions(o)
		if (want == "") != (err == nil) || err != nil && (!apierrors.IsBadRequest(err) || err.Error() != want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestWhatAnAgentRefusesIsAnsweredInItsWords(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	const text = `previous terminated container "c" in pod "p" not found`
	if err := refusal(http.StatusBadRequest, pod, text); !apierrors.IsBadRequest(err) || err.Error() != text {
		t.Errorf("%v", err)
	}
	if err := refusal(http.StatusInternalServerError, pod, text); !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), text) {
		t.Errorf("%v", err)
	}
	if err := refusal(http.StatusNotFound, pod, text); !apierrors.IsNotFound(err) {
		t.Errorf("%v", err)
	}
}
