package admission_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/test/harness"
)

// TestSignersNeedTheirVerb: approving, signing and attesting need the verb for the signer or its domain.
func TestSignersNeedTheirVerb(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	all := rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{certificatesv1.GroupName},
		Resources: []string{"certificatesigningrequests", "certificatesigningrequests/approval", "certificatesigningrequests/status", "clustertrustbundles"}}
	signer := func(verb, name string) rbacv1.PolicyRule {
		return rbacv1.PolicyRule{Verbs: []string{verb}, APIGroups: []string{certificatesv1.GroupName}, Resources: []string{"signers"}, ResourceNames: []string{name}}
	}
	without := grantRules(t, h, "without", all)
	with := map[string]*kubernetes.Clientset{}
	for _, verb := range []string{"approve", "sign", "attest"} {
		with[verb] = grantRules(t, h, verb, all, signer(verb, "a.io/*"))
	}

	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request := func(organization ...string) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x", Organization: organization}}, key)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	}
	csr := &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		SignerName: "a.io/x", Request: request(), Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}}}
	requests := without.CertificatesV1().CertificateSigningRequests()
	csr, err = requests.Create(ctx, csr, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if csr.Spec.Username != "without" {
		t.Errorf("the request is of %q", csr.Spec.Username)
	}
	forbidden := func(what, says string, err error) {
		t.Helper()
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	masters := csr.DeepCopy()
	masters.ObjectMeta, masters.Spec.SignerName, masters.Spec.Request = metav1.ObjectMeta{Name: "m"}, certificatesv1.KubeAPIServerClientSignerName, request("system:masters")
	_, err = requests.Create(ctx, masters, metav1.CreateOptions{})
	forbidden("a certificate of a master", "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed", err)

	csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
	_, err = requests.UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
	forbidden("approval", `user not permitted to approve requests with signerName "a.io/x"`, err)
	if csr, err = with["approve"].CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	csr.Status.Certificate = certificate
	_, err = requests.UpdateStatus(ctx, csr, metav1.UpdateOptions{})
	forbidden("signing", `user not permitted to sign requests with signerName "a.io/x"`, err)
	if csr, err = with["sign"].CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{}); err != nil || len(csr.Status.Certificate) == 0 {
		t.Fatal(err)
	}

	authority := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	if der, err = x509.CreateCertificate(rand.Reader, authority, authority, key.Public(), key); err != nil {
		t.Fatal(err)
	}
	bundle := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "a.io:x:1"}, Spec: certificatesv1.ClusterTrustBundleSpec{
		SignerName: "a.io/x", TrustBundle: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))}}
	_, err = without.CertificatesV1().ClusterTrustBundles().Create(ctx, bundle, metav1.CreateOptions{})
	forbidden("attesting", `user not permitted to attest for signerName "a.io/x"`, err)
	if bundle, err = with["attest"].CertificatesV1().ClusterTrustBundles().Create(ctx, bundle, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	bundle.Finalizers = []string{"a.io/f"}
	if bundle, err = without.CertificatesV1().ClusterTrustBundles().Update(ctx, bundle, metav1.UpdateOptions{}); err != nil {
		t.Errorf("a finalizer is no attestation: %v", err)
	}
	bundle.Labels = map[string]string{"live": "yes"}
	_, err = without.CertificatesV1().ClusterTrustBundles().Update(ctx, bundle, metav1.UpdateOptions{})
	forbidden("a label that selects it", "not permitted to attest", err)
}
