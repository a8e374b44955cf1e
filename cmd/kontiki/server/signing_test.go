package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/await"
)

// obtain requests a certificate, approves the request as an administrator, and returns what was signed, or why nothing was.
func (m *testMaster) obtain(t *testing.T, signer string, template *x509.CertificateRequest, usages ...certificatesv1.KeyUsage) (*tls.Certificate, error) {
	t.Helper()
	ctx := t.Context()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	requests := m.admin.CertificatesV1().CertificateSigningRequests()
	r, err := requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}, Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer, Usages: usages,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	r.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
	if _, err := requests.UpdateApproval(ctx, r.Name, r, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) { // the approver may be faster
		return nil, err
	}
	var failed error
	await.That(t, "the signer", func() error {
		if r, err = requests.Get(ctx, r.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		for _, c := range r.Status.Conditions {
			if c.Type == certificatesv1.CertificateFailed {
				failed = errors.New(c.Message)
				return nil
			}
		}
		if len(r.Status.Certificate) == 0 {
			return errors.New("not signed")
		}
		return nil
	})
	if failed != nil {
		return nil, failed
	}
	cert, err := pki.ParseCertificate(r.Status.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}, nil
}

var clientUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}

// namespaces lists namespaces by REST, and by gRPC.
func (m *testMaster) namespaces(t *testing.T, cert *tls.Certificate) (rest int, rpc codes.Code) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	rest, _, _, err := ask(ctx, apiClient(m.cluster.Roots(), *cert), http.MethodGet, m.api+"/api/v1/namespaces", "")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(strings.TrimPrefix(m.api, "https://"), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: m.cluster.Roots(), Certificates: []tls.Certificate{*cert}})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	list, err := kontikiv1.NewObjectsClient(conn).List(ctx, &kontikiv1.ListRequest{Kind: &kontikiv1.Kind{Version: "v1", Kind: "Namespace"}})
	if err == nil {
		_, err = list.Recv()
	}
	return rest, status.Code(err)
}

// TestASignedCertificateIsForTheAPIAlone: a certificate that was signed for a request authenticates at the API, as whom its subject says,
// and opens nothing on the masters' port, whatever its subject says. A serving certificate is trusted by nobody.
func TestASignedCertificateIsForTheAPIAlone(t *testing.T) {
	m := startMaster(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	worker1 := m.joinTestWorker(t, "worker-1")
	if err := speaks(ctx, m.cluster.Address(), mtls.ProtoNode, worker1.Client()); err != nil {
		t.Fatalf("the worker itself: %v", err) // so the refusals below are not for another reason
	}
	jane, err := m.obtain(t, certificatesv1.KubeAPIServerClientSignerName, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane", Organization: []string{"readers"}}}, clientUsages...)
	if err != nil {
		t.Fatal(err)
	}
	if rest, rpc := m.namespaces(t, jane); rest != http.StatusForbidden || rpc != codes.PermissionDenied {
		t.Errorf("before she may do anything: %d, %s", rest, rpc)
	}
	if _, err := m.admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "readers"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "readers"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await.That(t, "what a reader may do", func() error { // the role is an aggregated one
		if rest, rpc := m.namespaces(t, jane); rest != http.StatusOK || rpc != codes.OK {
			return fmt.Errorf("%d, %s", rest, rpc)
		}
		return nil
	})
	for name, c := range map[string]struct {
		signer  string
		subject pkix.Name
		refused string // why it is not signed
	}{
		"a worker's":                       {certificatesv1.KubeAPIServerClientKubeletSignerName, pkix.Name{CommonName: "system:node:worker-1", Organization: []string{"system:nodes"}}, ""},
		"a worker's, by the users' signer": {certificatesv1.KubeAPIServerClientSignerName, pkix.Name{CommonName: "system:node:worker-1", Organization: []string{"system:nodes"}, SerialNumber: "9"}, ""},
		"a user's":                         {certificatesv1.KubeAPIServerClientSignerName, pkix.Name{CommonName: "jane"}, ""},
		"a master's":                       {certificatesv1.KubeAPIServerClientSignerName, pkix.Name{CommonName: "kontiki:master:master-1", Organization: []string{"kontiki:masters"}}, "reserved subject"},
		"an administrator's":               {certificatesv1.KubeAPIServerClientSignerName, pkix.Name{CommonName: "jane", Organization: []string{"system:masters"}}, "system:masters"},
	} {
		t.Run(name, func(t *testing.T) {
			cert, err := m.obtain(t, c.signer, &x509.CertificateRequest{Subject: c.subject}, clientUsages...)
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("signed, or %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			issuer := m.cluster.Identity().CA
			cert.Certificate = append(cert.Certificate, issuer.Clients().Certificate().Raw, issuer.Certificate().Raw) // whatever chain the thief shows
			for _, proto := range []string{mtls.ProtoNode, mtls.ProtoCluster, mtls.ProtoRaft} {
				if err := speaks(ctx, m.cluster.Address(), proto, cert); err == nil {
					t.Errorf("it opens %s", proto)
				}
			}
			if code, _, _, err := ask(ctx, apiClient(m.cluster.Roots(), *cert), http.MethodGet, m.api+"/apis", ""); err != nil || code != http.StatusOK {
				t.Errorf("the API: %d, %v", code, err)
			}
		})
	}
	serving, err := m.obtain(t, certificatesv1.KubeletServingSignerName, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:worker-1", Organization: []string{"system:nodes"}}, DNSNames: []string{"kubernetes.default.svc", "worker-1"},
	}, certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := serving.Leaf.Verify(x509.VerifyOptions{Roots: m.cluster.Roots(), Intermediates: m.cluster.ClientRoots(), DNSName: "kubernetes.default.svc"}); err == nil {
		t.Error("clients would take its holder for the API")
	}
	if code, _, _, err := ask(ctx, apiClient(m.cluster.Roots(), *serving), http.MethodGet, m.api+"/apis", ""); err != nil || code != http.StatusUnauthorized {
		t.Errorf("a serving certificate as a client's: %d, %v", code, err)
	}
}

// TestSignedCertificatesFollowTheCA: they are valid until the CA is dropped under which they were signed, whichever master is asked and
// after any restart, and those of a node end when its worker is revoked.
func TestSignedCertificatesFollowTheCA(t *testing.T) {
	m := startMaster(t)
	m.joinTestWorker(t, "worker-1")
	jane, err := m.obtain(t, certificatesv1.KubeAPIServerClientSignerName, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}}, clientUsages...)
	if err != nil {
		t.Fatal(err)
	}
	asNode := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:worker-1", Organization: []string{"system:nodes"}, SerialNumber: "9"}}
	node, err := m.obtain(t, certificatesv1.KubeAPIServerClientSignerName, asNode, clientUsages...)
	if err != nil {
		t.Fatal(err)
	}
	is := func(cert *tls.Certificate, want int) {
		t.Helper()
		await.That(t, fmt.Sprint("status ", want), func() error {
			code, _, _, err := ask(t.Context(), apiClient(m.cluster.Roots(), *cert), http.MethodGet, m.api+"/apis", "")
			if err == nil && code != want {
				err = fmt.Errorf("status %d", code)
			}
			return err
		})
	}
	is(jane, http.StatusOK)
	is(node, http.StatusOK)
	if err := m.cluster.RevokeWorker(t.Context(), "worker-1"); err != nil {
		t.Fatal(err)
	}
	is(node, http.StatusUnauthorized)
	if node, err = m.obtain(t, certificatesv1.KubeAPIServerClientSignerName, asNode, clientUsages...); err != nil {
		t.Fatal(err)
	}
	is(node, http.StatusOK) // it is the node's since then

	saved, err := identity.Load(filepath.Clean(m.options.dataDir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := jane.Leaf.Verify(x509.VerifyOptions{Roots: saved.ClientRoots(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("a master that reads the identity from its disk, or joins: %v", err)
	}
	before := m.cluster.Identity().CA.Pin()
	if _, err := m.cluster.ChangeIdentity(t.Context(), cluster.RotateCA, false); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the new CA to issue", func() error {
		if m.cluster.Identity().CA.Pin() == before {
			return errors.New("the old CA issues")
		}
		return nil
	})
	is(jane, http.StatusOK)
	next, err := m.obtain(t, certificatesv1.KubeAPIServerClientSignerName, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "joe"}}, clientUsages...)
	if err != nil {
		t.Fatal(err)
	}
	is(next, http.StatusOK)
	await.That(t, "the old CA to be dropped", func() error {
		_, err := m.cluster.ChangeIdentity(t.Context(), cluster.FinishCA, true)
		return err
	})
	is(jane, http.StatusUnauthorized)
	is(next, http.StatusOK)
}

// TestEveryMasterAcceptsAndSigns: a certificate that one master signed is valid on all, and the next leader signs with the same CA.
func TestEveryMasterAcceptsAndSigns(t *testing.T) {
	masters := startThree(t, func(*serverOptions, *cluster.Config) {})
	obtain := func(name string) *tls.Certificate {
		t.Helper()
		cert, err := masters[0].obtain(t, certificatesv1.KubeAPIServerClientSignerName, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, clientUsages...)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range masters {
			if code, _, _, err := ask(t.Context(), apiClient(m.cluster.Roots(), *cert), http.MethodGet, m.api+"/apis", ""); err != nil || code != http.StatusOK {
				t.Errorf("%s on %s: %d, %v", name, m.options.name, code, err)
			}
		}
		return cert
	}
	first := obtain("jane")
	if _, err := masters[0].cluster.TransferLeadership(t.Context(), "master-2"); err != nil {
		t.Fatal(err)
	}
	if next := obtain("joe"); next.Leaf.Issuer.String() != first.Leaf.Issuer.String() || next.Leaf.CheckSignatureFrom(masters[0].cluster.Identity().CA.Clients().Certificate()) != nil {
		t.Error("the next leader signs with another CA")
	}
}
