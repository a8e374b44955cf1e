package expiry_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/expiry"
	"github.com/kontiki/kontiki/test/harness"
)

// TestWhatHasExpiredIsDeleted: each object is deleted when it is due, and reconciled again then if it is not due yet.
func TestWhatHasExpiredIsDeleted(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr := func(name string) *certificatesv1.CertificateSigningRequest {
		return &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: certificatesv1.CertificateSigningRequestSpec{
			SignerName: "a.io/x", Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}}}
	}
	begun := time.Now()
	pending, err := client.Create(ctx, h.Client, csr("pending"))
	if err != nil {
		t.Fatal(err)
	}
	decided, err := client.Create(ctx, h.Client, csr("decided"))
	if err != nil {
		t.Fatal(err)
	}
	decided.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Reason: "Test"}}
	if _, err := client.UpdateSubresource(ctx, h.Client, decided, "approval"); err != nil {
		t.Fatal(err)
	}
	approved, err := client.Create(ctx, h.Client, csr("approved"))
	if err != nil {
		t.Fatal(err)
	}
	approved.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
	if _, err := client.UpdateSubresource(ctx, h.Client, approved, "approval"); err != nil {
		t.Fatal(err)
	}
	token := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"}, Type: corev1.SecretTypeBootstrapToken,
		Data: map[string][]byte{"expiration": []byte(begun.Add(2 * time.Hour).Format(time.RFC3339))}}
	if token, err = client.Create(ctx, h.Client, token); err != nil {
		t.Fatal(err)
	}
	other, err := client.Create(ctx, h.Client, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "other"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after   time.Duration
		obj     client.Object
		deleted bool
	}{
		{30 * time.Minute, decided, false}, {30 * time.Minute, pending, false}, {30 * time.Minute, token, false}, {30 * time.Minute, other, false},
		{61 * time.Minute, decided, true}, {61 * time.Minute, pending, false}, {61 * time.Minute, token, false},
		{23 * time.Hour, approved, false}, {25 * time.Hour, approved, true},
		{121 * time.Minute, token, true}, {121 * time.Minute, other, false}, {25 * time.Hour, pending, true},
	} {
		limited := false
		for _, ctl := range expiry.New(h.Client, func(s *corev1.Secret) (time.Time, bool) {
			at, err := time.Parse(time.RFC3339, string(s.Data["expiration"]))
			return at, err == nil
		}, func() time.Time { return begun.Add(c.after) }) {
			if h.Client.KindOf(ctl.Watches[0]) != h.Client.KindOf(c.obj) {
				continue
			}
			ctl.Start(h.Client.View(), func(k controller.Key) { limited = limited || k == controller.KeyOf(c.obj) })
			result, err := ctl.Reconcile(ctx, h.Client.View(), controller.KeyOf(c.obj))
			if err != nil {
				t.Fatal(err)
			}
			if _, there := h.Client.View().GetOf(h.Client.KindOf(c.obj), c.obj.GetNamespace(), c.obj.GetName()); there == c.deleted {
				t.Errorf("%s after %s: there: %v", c.obj.GetName(), c.after, there)
			}
			if c.obj != client.Object(other) && !c.deleted && result.After <= 0 {
				t.Errorf("%s after %s is not looked at again", c.obj.GetName(), c.after)
			}
		}
		if limited == (c.obj == client.Object(other)) {
			t.Errorf("%s after %s: limited: %v", c.obj.GetName(), c.after, limited)
		}
	}
}
