package nodes_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// TestCertificatesAreForPodsOfTheCallingNode: what is requested is what the pod's volume says, and the call waits for the decision.
func TestCertificatesAreForPodsOfTheCallingNode(t *testing.T) {
	h, c := serve(t)
	ctx := metadata.AppendToOutgoingContext(context.Background(), "node", "w1")
	create(t, h, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w1"}})
	asking := podNaming("a", "s")
	asking.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
		{PodCertificate: &corev1.PodCertificateProjection{SignerName: "a.io/x", KeyType: "ED25519", CredentialBundlePath: "b", UserAnnotations: map[string]string{"a.io/k": "v"}}},
	}}}}}
	pod := create(t, h, asking)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	pkcs10, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	ask := func() *nodev1.CertifyPodRequest {
		return &nodev1.CertifyPodRequest{Namespace: "default", PodName: "a", PodUid: string(pod.UID), Volume: "v", Source: 1, Pkcs10: pkcs10}
	}
	refused := func(what string, r *nodev1.CertifyPodRequest, want codes.Code) {
		t.Helper()
		if _, err := c.CertifyPod(ctx, r); status.Code(err) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("a pod that is on no node", ask(), codes.PermissionDenied)
	if err := h.Client.Bind(context.Background(), pod, "w1"); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*nodev1.CertifyPodRequest){
		"another uid": func(r *nodev1.CertifyPodRequest) { r.PodUid = "x" }, "another source": func(r *nodev1.CertifyPodRequest) { r.Source = 0 },
		"no source": func(r *nodev1.CertifyPodRequest) { r.Source = 9 }, "another volume": func(r *nodev1.CertifyPodRequest) { r.Volume = "w" },
	} {
		r := ask()
		change(r)
		refused(what, r, codes.PermissionDenied)
	}
	r := ask()
	r.Pkcs10 = []byte("garbage")
	refused("garbage", r, codes.InvalidArgument)
	r = ask()
	r.Request = "missing"
	refused("a request that is gone", r, codes.NotFound)

	// The signer decides while the call waits.
	ended := make(chan error, 1)
	signing, stop := context.WithCancel(context.Background())
	defer stop()
	go func() {
		sign := func(request *certificatesv1.PodCertificateRequest) error {
			if len(request.Status.Conditions) > 0 {
				return nil
			}
			if s := request.Spec; s.SignerName != "a.io/x" || s.NodeName != "w1" || s.ServiceAccountName != "default" || s.UnverifiedUserAnnotations["a.io/k"] != "v" || s.PodUID != pod.UID {
				t.Errorf("requested: %+v", s)
			}
			changed := request.DeepCopy()
			changed.Status.Conditions = []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeDenied, Status: metav1.ConditionTrue,
				Reason: "NotToday", Message: "come tomorrow", LastTransitionTime: metav1.NewTime(time.Now())}}
			_, err := client.UpdateStatus(signing, h.Client, changed)
			return err
		}
		ended <- h.Client.ViewAndWatch(signing, []client.Object{&certificatesv1.PodCertificateRequest{}}, func(v client.View) error {
			for _, request := range client.List[*certificatesv1.PodCertificateRequest](v, "", nil) {
				if err := sign(request); err != nil {
					return err
				}
			}
			return nil
		}, func(events []client.Event) error {
			for _, e := range events {
				if e.New != nil {
					if err := sign(e.New.(*certificatesv1.PodCertificateRequest)); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}()
	answer, err := c.CertifyPod(ctx, ask())
	if err != nil {
		t.Fatal(err)
	}
	if answer.Decision != nodev1.CertifyPodResponse_DECISION_DENIED || answer.Reason != "NotToday" || answer.Message != "come tomorrow" || !strings.HasPrefix(answer.Request, "req-") {
		t.Errorf("answer: %+v", answer)
	}
	stop()
	if err := <-ended; err != context.Canceled {
		t.Error(err)
	}
}
