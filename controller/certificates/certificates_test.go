package certificates_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/certificates"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/test/harness"
)

// ca is a CA of package pki.
type ca struct{ *pki.Authority }

func newCA(t *testing.T) ca {
	t.Helper()
	authority, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca{authority}
}

func (c ca) SignClient(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	return c.Clients().SignClient(template, public, func(string) uint64 { return 0 })
}

func (ca) Reserved(err error) bool { return errors.Is(err, pki.ErrReserved) }

func request(t *testing.T, template *x509.CertificateRequest) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func encode(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func approve(t *testing.T, set kubernetes.Interface, r *certificatesv1.CertificateSigningRequest) {
	t.Helper()
	r = r.DeepCopy()
	r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"})
	if _, err := set.CertificatesV1().CertificateSigningRequests().UpdateApproval(context.Background(), r.Name, r, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// await waits until holds is true for a request.
func await(t *testing.T, h *harness.Harness, name string, holds func(*certificatesv1.CertificateSigningRequest) bool) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	var found *certificatesv1.CertificateSigningRequest
	controllertest.AwaitView(t, h.Client, []client.Object{&certificatesv1.CertificateSigningRequest{}}, func(v client.View) string {
		r, ok := client.Get[*certificatesv1.CertificateSigningRequest](v, "", name)
		if !ok || !holds(r) {
			return fmt.Sprintf("the request %s is %+v", name, r)
		}
		found = r
		return ""
	})
	return found
}

func decided(r *certificatesv1.CertificateSigningRequest) bool {
	return len(r.Status.Certificate) > 0 || failed(r) != ""
}

func failed(r *certificatesv1.CertificateSigningRequest) string {
	for _, c := range r.Status.Conditions {
		if c.Type == certificatesv1.CertificateFailed {
			return c.Reason + ": " + c.Message
		}
	}
	return ""
}

const (
	clientSigner  = certificatesv1.KubeAPIServerClientSignerName
	kubeletSigner = certificatesv1.KubeAPIServerClientKubeletSignerName
	servingSigner = certificatesv1.KubeletServingSignerName
)

func node(change func(*x509.CertificateRequest)) *x509.CertificateRequest {
	r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}}
	if change != nil {
		change(r)
	}
	return r
}

// TestTheSignersRules: what each signer signs when it was approved, and what fails.
func TestTheSignersRules(t *testing.T) {
	h := harness.New(t)
	authority := newCA(t)
	controllertest.Run(t, h.Client, certificates.NewSigner(h.Client, authority, 24*time.Hour))
	set := h.Clientset()
	jane := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane", Organization: []string{"devs", "ops"}}, DNSNames: []string{"jane.example"}}
	clientUsages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	serverUsages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth}
	names := func(r *x509.CertificateRequest) { r.DNSNames, r.IPAddresses = []string{"n1"}, []net.IP{{10, 0, 0, 1}} }
	for name, c := range map[string]struct {
		signer   string
		request  *x509.CertificateRequest
		usages   []certificatesv1.KeyUsage
		seconds  *int32
		lifetime time.Duration
		fails    string
	}{
		"user":                  {signer: clientSigner, request: jane, usages: clientUsages, lifetime: 24*time.Hour - 5*time.Minute},
		"user-short":            {signer: clientSigner, request: jane, usages: clientUsages, seconds: ptr.To[int32](600), lifetime: 10 * time.Minute},
		"user-long":             {signer: clientSigner, request: jane, usages: clientUsages, seconds: ptr.To[int32](1 << 30), lifetime: 24*time.Hour - 5*time.Minute},
		"user-server":           {signer: clientSigner, request: jane, usages: serverUsages, fails: "invalid usage for client certificate: server auth"},
		"user-no-client":        {signer: clientSigner, request: jane, usages: clientUsages[:1], fails: "missing required usage for client certificate: client auth"},
		"master":                {signer: clientSigner, request: &x509.CertificateRequest{Subject: pkix.Name{CommonName: "kontiki:master:m1", Organization: []string{"kontiki:masters"}}}, usages: clientUsages, fails: "reserved subject"},
		"node":                  {signer: kubeletSigner, request: node(nil), usages: clientUsages, lifetime: 24*time.Hour - 5*time.Minute},
		"node-encipherment":     {signer: kubeletSigner, request: node(nil), usages: append([]certificatesv1.KeyUsage{certificatesv1.UsageKeyEncipherment}, clientUsages...), lifetime: 24*time.Hour - 5*time.Minute},
		"node-organization":     {signer: kubeletSigner, request: node(func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:nodes", "x"} }), usages: clientUsages, fails: "subject organization is not system:nodes"},
		"node-name":             {signer: kubeletSigner, request: node(func(r *x509.CertificateRequest) { r.Subject.CommonName = "n1" }), usages: clientUsages, fails: "subject common name does not begin with system:node:"},
		"node-dns":              {signer: kubeletSigner, request: node(names), usages: clientUsages, fails: "DNS subjectAltNames are not allowed"},
		"node-uri":              {signer: kubeletSigner, request: node(func(r *x509.CertificateRequest) { r.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }), usages: clientUsages, fails: "URI subjectAltNames are not allowed"},
		"node-usages":           {signer: kubeletSigner, request: node(nil), usages: serverUsages, fails: "usages did not match"},
		"serving":               {signer: servingSigner, request: node(names), usages: serverUsages, lifetime: 24*time.Hour - 5*time.Minute},
		"serving-without-names": {signer: servingSigner, request: node(nil), usages: serverUsages, fails: "DNS or IP subjectAltName is required"},
		"serving-client":        {signer: servingSigner, request: node(names), usages: clientUsages, fails: "usages did not match"},
		"serving-somebody":      {signer: servingSigner, request: &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x"}, DNSNames: []string{"kubernetes.default.svc"}}, usages: serverUsages, fails: "subject organization is not system:nodes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			created, err := set.CertificatesV1().CertificateSigningRequests().Create(t.Context(), &certificatesv1.CertificateSigningRequest{
				ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{Request: encode(request(t, c.request)), SignerName: c.signer, Usages: c.usages, ExpirationSeconds: c.seconds},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			begun := time.Now()
			approve(t, set, created)
			r := await(t, h, name, decided)
			if c.fails != "" {
				if got := failed(r); !strings.HasPrefix(got, "SignerValidationFailure: ") || !strings.Contains(got, c.fails) || len(r.Status.Certificate) > 0 {
					t.Errorf("failed with %q, want %q", got, c.fails)
				}
				return
			}
			cert, err := pki.ParseCertificate(r.Status.Certificate)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := cert.Verify(x509.VerifyOptions{Roots: authority.Clients().Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
				t.Error(err)
			}
			if cert.Subject.CommonName != c.request.Subject.CommonName || !slices.Equal(slices.Sorted(slices.Values(cert.Subject.Organization)), c.request.Subject.Organization) || !slices.Equal(cert.DNSNames, c.request.DNSNames) || len(cert.IPAddresses) != len(c.request.IPAddresses) {
				t.Errorf("signed for %s, %v, %v", cert.Subject, cert.DNSNames, cert.IPAddresses)
			}
			wantUsage := x509.ExtKeyUsageClientAuth
			if c.signer == servingSigner {
				wantUsage = x509.ExtKeyUsageServerAuth
			}
			if !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{wantUsage}) || cert.KeyUsage&x509.KeyUsageDigitalSignature == 0 || cert.IsCA {
				t.Errorf("usages %v, %v", cert.ExtKeyUsage, cert.KeyUsage)
			}
			begun = begun.Truncate(time.Second)
			if until := cert.NotAfter; until.Before(begun.Add(c.lifetime)) || until.After(time.Now().Add(c.lifetime)) {
				t.Errorf("valid until %s, want %s after %s", until, c.lifetime, begun)
			}
		})
	}
}

// TestWhatIsNotSigned: requests that nobody approved, that were denied, and those of other signers.
func TestWhatIsNotSigned(t *testing.T) {
	h := harness.New(t)
	signer := certificates.NewSigner(h.Client, newCA(t), time.Hour)
	set := h.Clientset()
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}
	for name, c := range map[string]struct {
		signer    string
		condition certificatesv1.RequestConditionType
	}{"pending": {clientSigner, ""}, "denied": {clientSigner, certificatesv1.CertificateDenied}, "foreign": {"example.com/signer", certificatesv1.CertificateApproved}} {
		r, err := set.CertificatesV1().CertificateSigningRequests().Create(t.Context(), &certificatesv1.CertificateSigningRequest{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{Request: encode(request(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "jane"}})), SignerName: c.signer, Usages: usages},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if c.condition != "" {
			r.Status.Conditions = append(r.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: c.condition, Status: corev1.ConditionTrue, Reason: "Test"})
			if _, err = set.CertificatesV1().CertificateSigningRequests().UpdateApproval(t.Context(), name, r, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := signer.Reconcile(t.Context(), h.Client.View(), controller.Key{Name: name}); err != nil {
			t.Error(err)
		}
		if now, err := set.CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{}); err != nil || decided(now) {
			t.Errorf("%s: %+v, %v", name, now.Status, err)
		}
	}
	_, err := set.CertificatesV1().CertificateSigningRequests().Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "legacy"}, Spec: certificatesv1.CertificateSigningRequestSpec{Request: encode(request(t, node(nil))), SignerName: "kubernetes.io/legacy-unknown", Usages: usages},
	}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("a request for kubernetes.io/legacy-unknown, which v1 does not have: %v", err)
	}
	_, err = set.CertificatesV1().CertificateSigningRequests().Create(t.Context(), &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "masters"}, Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: encode(request(t, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x", Organization: []string{"system:masters"}}})), SignerName: clientSigner, Usages: usages},
	}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("a request for system:masters: %v", err)
	}
}

// TestNodesRequestsAreApproved if their requester may create selfnodeclient (for the node that it is) or nodeclient.
func TestNodesRequestsAreApproved(t *testing.T) {
	h := harness.New(t)
	h.Roles()
	admin := h.Clientset()
	bind := func(name, role string, subject rbacv1.Subject) {
		t.Helper()
		if _, err := admin.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{subject},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	const selfRole, nodeRole = "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:certificates.k8s.io:certificatesigningrequests:nodeclient"
	group := func(name string) rbacv1.Subject {
		return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: name}
	}
	bind("renewal", selfRole, group("system:nodes"))
	bind("bootstrap", nodeRole, group("system:bootstrappers"))
	bind("bootstrap-create", "system:node-bootstrapper", group("system:bootstrappers"))
	bind("selves", selfRole, group("selves"))
	bind("selves-create", "system:node-bootstrapper", group("selves"))
	bind("others-create", "system:node-bootstrapper", group("others"))
	approver := certificates.NewApprover(h.Client)
	usages := []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	for name, c := range map[string]struct {
		user, group string
		signer      string
		request     *x509.CertificateRequest
		message     string // of the approval; "" is none
		again       bool
	}{
		"renewal":      {"system:node:n1", "system:nodes", kubeletSigner, node(nil), "Auto approving self kubelet client certificate after SubjectAccessReview.", false},
		"another-node": {"system:node:n2", "selves", kubeletSigner, node(nil), "", true},
		"bootstrap":    {"system:bootstrap:abcdef", "system:bootstrappers", kubeletSigner, node(nil), "Auto approving kubelet client certificate after SubjectAccessReview.", false},
		"nobody":       {"jane", "others", kubeletSigner, node(nil), "", true},
		"not-a-node":   {"system:bootstrap:abcdef", "system:bootstrappers", kubeletSigner, node(func(r *x509.CertificateRequest) { r.Subject.Organization = []string{"system:masters"} }), "", false},
		"other-signer": {"system:bootstrap:abcdef", "system:bootstrappers", clientSigner, node(nil), "", false},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := kubernetes.NewForConfig(h.Config(c.user, c.group))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := set.CertificatesV1().CertificateSigningRequests().Create(t.Context(), &certificatesv1.CertificateSigningRequest{
				ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{Request: encode(request(t, c.request)), SignerName: c.signer, Usages: usages},
			}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			result, err := approver.Reconcile(t.Context(), h.Client.View(), controller.Key{Name: name})
			if err != nil {
				t.Fatal(err)
			}
			r, err := admin.CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			message := ""
			if len(r.Status.Conditions) == 1 && r.Status.Conditions[0].Type == certificatesv1.CertificateApproved && r.Status.Conditions[0].Reason == "AutoApproved" {
				message = r.Status.Conditions[0].Message
			}
			if message != c.message || len(r.Status.Conditions) > 1 {
				t.Errorf("%+v, want the message %q", r.Status.Conditions, c.message)
			}
			if (result.After > 0) != c.again {
				t.Errorf("looked at again: %v, want %v", result.After > 0, c.again)
			}
		})
	}
}
