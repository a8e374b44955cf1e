package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/cluster/worker"
	"github.com/kontiki/kontiki/node/runtime/fake"
	"github.com/kontiki/kontiki/node/server"
	"github.com/kontiki/kontiki/node/wire"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/await"
)

// TestWhatAStolenWorkerCertificateOpens tries everything that worker-1's real certificate could be used for.
func TestWhatAStolenWorkerCertificateOpens(t *testing.T) {
	m := startMaster(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	thief, victim := m.joinTestWorker(t, "worker-1"), m.joinTestWorker(t, "worker-2")
	of2, err := openSession(t, m, victim, "worker-2", nodeObject("worker-2", nil))
	if err != nil {
		t.Fatal(err)
	}
	pods := map[string]*corev1.Pod{}
	for i, node := range map[int]string{1: "worker-1", 2: "worker-2"} {
		secret, configMap := fmt.Sprintf("secret-%d", i), fmt.Sprintf("config-%d", i)
		if _, err := m.admin.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secret}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := m.admin.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: configMap}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		pod, err := m.admin.CoreV1().Pods("default").Create(ctx, podNaming("pod-"+strconv.Itoa(i), node, secret, configMap), metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pods[node] = pod
	}
	foreign := pods["worker-2"]

	t.Run("sessions", func(t *testing.T) {
		if _, err := openSession(t, m, thief, "worker-2", nodeObject("worker-2", nil)); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a session as another worker: %v", err)
		}
		if _, err := openSession(t, m, thief, "worker-1", nodeObject("worker-2", nil)); err == nil {
			t.Error("a session that registers another node")
		}
		wish := nodeObject("worker-1", map[string]string{
			"node-restriction.kubernetes.io/vault": "yes", "node-role.kubernetes.io/control-plane": "", "example.com/disk": "ssd", corev1.LabelHostname: "worker-1",
		})
		wish.Annotations = map[string]string{"example.com/note": "x"}
		wish.Finalizers = []string{"example.com/stay"}
		wish.Spec.PodCIDR = "10.244.77.0/24"
		s, err := openSession(t, m, thief, "worker-1", wish)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"pods/default/pod-1", "secrets/default/secret-1", "configmaps/default/config-1"} {
			if !s.told[want] {
				t.Errorf("the worker was not told of its own %s", want)
			}
		}
		node, err := m.admin.CoreV1().Nodes().Get(ctx, "worker-1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if node.Labels["node-restriction.kubernetes.io/vault"] != "" || node.Labels["example.com/disk"] != "ssd" || len(node.Annotations)+len(node.Finalizers) > 0 || node.Spec.PodCIDR == "10.244.77.0/24" {
			t.Errorf("the worker made its node %+v, %+v", node.ObjectMeta, node.Spec)
		}
		if _, ok := node.Labels["node-role.kubernetes.io/control-plane"]; ok {
			t.Error("the worker gave itself a role")
		}

		// Reports about other workers' objects.
		failed := foreign.DeepCopy()
		failed.Status.Phase = corev1.PodFailed
		podData, err := wire.Encode("v1", "Pod", failed)
		if err != nil {
			t.Fatal(err)
		}
		s.report(&nodev1.StatusBatch{Pods: []*nodev1.PodStatus{{Namespace: "default", Name: foreign.Name, Uid: string(foreign.UID), Status: podData, Terminated: true}}})
		if now, err := m.admin.CoreV1().Pods("default").Get(ctx, foreign.Name, metav1.GetOptions{}); err != nil || now.Status.Phase == corev1.PodFailed {
			t.Errorf("a worker changed another's pod: %v, %v", now.Status.Phase, err)
		}
		other := nodeObject("worker-2", nil)
		other.Status.Addresses[0].Address = "192.0.2.66"
		nodeData, err := wire.Encode("v1", "Node", other)
		if err != nil {
			t.Fatal(err)
		}
		s.report(&nodev1.StatusBatch{NodeStatus: nodeData})
		if now, err := m.admin.CoreV1().Nodes().Get(ctx, "worker-2", metav1.GetOptions{}); err != nil || now.Status.Addresses[0].Address != "192.0.2.1" {
			t.Errorf("a worker changed another's node: %+v, %v", now.Status.Addresses, err)
		}
		event := func(name, host string, about corev1.ObjectReference) []byte {
			now := metav1.Now()
			data, err := wire.Encode("v1", "Event", &corev1.Event{
				ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, InvolvedObject: about, Source: corev1.EventSource{Component: "kubelet", Host: host},
				Reason: "Test", Type: corev1.EventTypeNormal, FirstTimestamp: now, LastTimestamp: now, Count: 1,
			})
			if err != nil {
				t.Fatal(err)
			}
			return data
		}
		aboutOwn := corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "pod-1", UID: pods["worker-1"].UID}
		aboutForeign := corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "pod-2", UID: foreign.UID}
		if refused := of2.report(&nodev1.StatusBatch{Events: [][]byte{event("of-worker-2", "worker-2", aboutForeign)}}); len(refused) > 0 {
			t.Fatalf("worker-2's own event: %v", refused)
		}
		for name, data := range map[string][]byte{
			"as another host":         event("forged-1", "worker-2", aboutOwn),
			"about another's pod":     event("forged-2", "worker-1", aboutForeign),
			"about another node":      event("forged-3", "worker-1", corev1.ObjectReference{Kind: "Node", Name: "worker-2"}),
			"about a Secret":          event("forged-4", "worker-1", corev1.ObjectReference{Kind: "Secret", Namespace: "default", Name: "secret-2"}),
			"in place of another's":   event("of-worker-2", "worker-1", aboutOwn),
			"about a pod far from it": event("forged-5", "worker-1", corev1.ObjectReference{Kind: "Pod", Namespace: "kube-system", Name: "pod-1"}),
		} {
			if refused := s.report(&nodev1.StatusBatch{Events: [][]byte{data}}); len(refused) != 1 {
				t.Errorf("an event %s was refused with %v", name, refused)
			}
		}
		if refused := s.report(&nodev1.StatusBatch{Events: [][]byte{event("own", "worker-1", aboutOwn)}}); len(refused) > 0 {
			t.Errorf("the worker's own event: %v", refused)
		}
		// Tokens are only for the worker's own pods.
		ask := func(pod *corev1.Pod, account string) error {
			_, err := s.client.CreateToken(ctx, &nodev1.CreateTokenRequest{Namespace: "default", ServiceAccount: account, PodName: pod.Name, PodUid: string(pod.UID)})
			return err
		}
		if err := ask(foreign, "default"); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a token of another's pod: %v", err)
		}
		if err := ask(pods["worker-1"], "admin"); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a token of an account that the pod does not run as: %v", err)
		}
		if err := ask(pods["worker-1"], "default"); err != nil {
			t.Errorf("a token of its own pod: %v", err)
		}
		// Nothing in all the responses belonged to another worker.
		for what := range s.told {
			if strings.HasSuffix(what, "-2") && !strings.HasPrefix(what, "nodes/") {
				t.Errorf("the thief was told of %s", what)
			}
		}
		// A certificate with more names than the worker's.
		_, csr, err := pki.NewRequest("worker-2")
		if err != nil {
			t.Fatal(err)
		}
		renew := func(address string) (*clusterv1.JoinWorkerResponse, error) {
			return clusterv1.NewWorkerServiceClient(s.conn).Renew(ctx, &clusterv1.RenewRequest{Csr: csr, Addresses: []string{address}})
		}
		for _, address := range []string{"worker-2", "kubernetes.default.svc", "10.96.0.1", "0.0.0.0", "224.0.0.1"} {
			if _, err := renew(address); status.Code(err) != codes.InvalidArgument {
				t.Errorf("a certificate to serve at %s: %v", address, err)
			}
		}
		renewed, err := renew("127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		if cert, err := pki.ParseCertificate(renewed.ClientCertificate); err != nil || cert.Subject.CommonName != "system:node:worker-1" {
			t.Errorf("a certificate of %v, %v", cert.Subject, err)
		}
	})

	t.Run("the masters' protocols", func(t *testing.T) {
		for _, proto := range []string{"kontiki-raft/1", "kontiki-cluster/1", "kontiki-node/1"} {
			for which, cert := range map[string]*tls.Certificate{"client": thief.Client(), "serving": thief.Serving()} {
				err := speaks(ctx, m.cluster.Address(), proto, cert)
				if may := proto == "kontiki-node/1" && which == "client"; (err == nil) != may {
					t.Errorf("%s with the %s certificate: %v", proto, which, err)
				}
			}
		}
	})

	t.Run("the API", func(t *testing.T) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: thief.Roots(), Certificates: []tls.Certificate{*thief.Client()}}}}
		for _, request := range []string{
			"GET /api/v1/secrets", "GET /api/v1/namespaces/default/secrets/secret-1", "GET /api/v1/namespaces/default/secrets/secret-2", "GET /api/v1/configmaps",
			"GET /api/v1/namespaces/default/configmaps/config-2", "GET /api/v1/pods?watch=1", "GET /api/v1/nodes/worker-2/proxy/pods", "POST /api/v1/namespaces/default/pods",
			"DELETE /api/v1/namespaces/default/pods/pod-2", "PUT /api/v1/nodes/worker-2/status", "GET /api/v1/namespaces/default/pods/pod-2/log",
			"POST /api/v1/namespaces/default/pods/pod-2/exec?command=id&stdout=1", "POST /api/v1/namespaces/default/serviceaccounts/default/token",
			"GET /kontiki/v1/cluster", "GET /kontiki/v1/certs", "POST /kontiki/v1/certs", "GET /metrics",
		} {
			method, path, _ := strings.Cut(request, " ")
			sent := "{}"
			if method == http.MethodPut {
				sent = `{"metadata":{"name":"worker-2"}}`
			}
			r, err := http.NewRequestWithContext(ctx, method, m.api+path, strings.NewReader(sent))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			response, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			want := http.StatusForbidden
			if strings.HasSuffix(path, "/secret-1") {
				want = http.StatusOK // its own pod's, which it gets by its session, too
			}
			if response.StatusCode != want || want == http.StatusForbidden && !strings.Contains(string(body), "node") {
				t.Errorf("%s: %s: %s", request, response.Status, body)
			}
		}
		if _, err := m.admin.CoreV1().Pods("default").Get(ctx, "pod-2", metav1.GetOptions{}); apierrors.IsNotFound(err) {
			t.Error("the thief deleted a pod")
		}
	})

	t.Run("another agent", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		agent := server.New(server.Config{Pods: noPods{}, Runtime: fake.New(), Node: func() *corev1.Node { return nodeObject("worker-2", nil) }, TLS: victim.ServerTLS, Verify: server.AllowMasters(),
			Authorize: func(_ context.Context, r *nodev1.AuthorizeCallerRequest) (*nodev1.AuthorizeCallerResponse, error) {
				name, err := m.workerOf(r.WorkerCertificate)
				if err != nil {
					return &nodev1.AuthorizeCallerResponse{Reason: err.Error()}, nil
				}
				return &nodev1.AuthorizeCallerResponse{User: "system:node:" + name, Allowed: true}, nil
			},
			Peers: func(caller func(*http.Request) string) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if caller(r) != "worker-1" || !strings.HasPrefix(r.URL.Path, "/kontiki/peers/") {
						http.Error(w, "caller "+caller(r), http.StatusTeapot)
					}
				})
			}})
		serving, stop := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- agent.Serve(serving, listener) }()
		defer func() { stop(); <-served }()
		base := "https://" + listener.Addr().String()
		get := func(config *tls.Config, path string) (int, error) {
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
			response, err := client.Get(base + path)
			if err != nil {
				return 0, err
			}
			return response.StatusCode, response.Body.Close()
		}
		for _, path := range []string{"/pods", "/healthz", "/metrics", "/stats/summary", "/containerLogs/default/pod-2/c", "/exec/default/pod-2/c?command=id", "/portForward/default/pod-2"} {
			if code, err := get(&tls.Config{RootCAs: thief.Roots(), Certificates: []tls.Certificate{*thief.Client()}}, path); err != nil || code != http.StatusForbidden {
				t.Errorf("the thief at %s: %d, %v", path, code, err)
			}
		}
		// Images are for all workers.
		if code, err := get(&tls.Config{RootCAs: thief.Roots(), Certificates: []tls.Certificate{*thief.Client()}}, "/kontiki/peers/blobs/x"); err != nil || code != http.StatusOK {
			t.Errorf("another worker asks for an image: %d, %v", code, err)
		}
		if code, err := get(m.agents.TLS(), "/kontiki/peers/blobs/x"); err != nil || code != http.StatusNotFound {
			t.Errorf("a master asks as a peer: %d, %v", code, err)
		}
		if code, err := get(&tls.Config{RootCAs: thief.Roots()}, "/kontiki/peers/blobs/x"); err != nil || code != http.StatusUnauthorized {
			t.Errorf("nobody asks for an image: %d, %v", code, err)
		}
		if code, err := get(&tls.Config{RootCAs: thief.Roots()}, "/pods"); err != nil || code != http.StatusUnauthorized {
			t.Errorf("with no certificate: %d, %v", code, err)
		}
		if code, err := get(&tls.Config{RootCAs: thief.Roots(), Certificates: []tls.Certificate{*thief.Serving()}}, "/pods"); err == nil {
			t.Errorf("with a serving certificate: %d", code)
		}
		if code, err := get(m.agents.TLS(), "/pods"); err != nil || code != http.StatusOK {
			t.Errorf("the API itself: %d, %v", code, err)
		}
		// Posing as another agent: the address is right, the node's name is not.
		node, err := m.admin.CoreV1().Nodes().Get(ctx, "worker-1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
		node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(listener.Addr().(*net.TCPAddr).Port)
		if _, err := m.admin.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		err = m.admin.CoreV1().RESTClient().Get().Resource("nodes").Name("worker-1").SubResource("proxy").Suffix("pods").Do(ctx).Error()
		if err == nil || !strings.Contains(err.Error(), `is that of "system:node:worker-2"`) {
			t.Errorf("worker-2's agent was taken for worker-1's: %v", err)
		}
	})

	t.Run("gossip", func(t *testing.T) {
		evil, err := gossip.Start(gossip.Config{
			Name: "master-9", Role: mtls.RoleMaster, Address: "192.0.2.66:6444", APIAddress: "192.0.2.66:6443", BindAddress: "127.0.0.1:0", Keys: m.cluster.Identity().GossipKeys,
			Seeds: func() []string { return []string{m.cluster.GossipAddress()} }, Timings: gossip.Local, Logger: m.log,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer evil.Close()
		await.That(t, "the false master to be heard", func() error {
			if slices.ContainsFunc(m.cluster.Members(), func(member gossip.Member) bool { return member.Name == "master-9" }) {
				return nil
			}
			return errors.New("not heard")
		})
		if addresses := fmt.Sprint(m.apiAddresses(), m.cluster.MasterAddresses()); strings.Contains(addresses, "192.0.2.66") || !strings.Contains(addresses, m.cluster.Address()) {
			t.Errorf("clients are sent to %s", addresses)
		}
	})
}

// TestARevokedCertificateIsRefusedByTheAPI revokes a worker by `kontiki cluster certs revoke`.
func TestARevokedCertificateIsRefusedByTheAPI(t *testing.T) {
	m := startMaster(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	thief, other := m.joinTestWorker(t, "worker-1"), m.joinTestWorker(t, "worker-2")
	discover := func(w *worker.Identity) int {
		t.Helper()
		code, _, _, err := ask(ctx, apiClient(w.Roots(), *w.Client()), http.MethodGet, m.api+"/livez", "")
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	if code := discover(thief); code != http.StatusOK {
		t.Fatalf("before: %d", code)
	}
	root := administration()
	root.SetArgs([]string{"cluster", "certs", "revoke", "worker-1", "--kubeconfig", filepath.Join(m.options.dataDir, "admin.kubeconfig")})
	if out := captureStdout(t, func() {
		if err := root.ExecuteContext(ctx); err != nil {
			t.Error(err)
		}
	}); !strings.Contains(out, "revoked") {
		t.Errorf("printed %q", out)
	}
	await.That(t, "the API to refuse it", func() error {
		if code := discover(thief); code != http.StatusUnauthorized {
			return fmt.Errorf("status %d", code)
		}
		return nil
	})
	if code := discover(other); code != http.StatusOK {
		t.Errorf("another worker: %d", code)
	}
	// Other workers are told so too.
	if name, err := m.workerOf(thief.Client().Certificate[0]); err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("other workers are told that the revoked certificate is %q's: %v", name, err)
	}
	if name, err := m.workerOf(other.Client().Certificate[0]); err != nil || name != "worker-2" {
		t.Errorf("other workers are told that a certificate is %q's: %v", name, err)
	}
	for what, der := range map[string][]byte{"a serving certificate": other.Serving().Certificate[0], "nonsense": []byte("x")} {
		if name, err := m.workerOf(der); err == nil {
			t.Errorf("%s is taken for %q", what, name)
		}
	}
}

// speaks reports whether a master's port allows the holder of a certificate to use a protocol.
func speaks(ctx context.Context, address, proto string, cert *tls.Certificate) error {
	dialer := &tls.Dialer{Config: &tls.Config{
		InsecureSkipVerify: true, NextProtos: []string{proto},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
	}}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	if _, err = conn.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return nil // it waits for us to speak
	}
	return err
}

// noPods is an agent without pods.
type noPods struct{}

func (noPods) Pods() []*corev1.Pod                               { return nil }
func (noPods) Pod(string, string, types.UID) (*corev1.Pod, bool) { return nil, false }
