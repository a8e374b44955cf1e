package trustbundle_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/trustbundle"
	"github.com/kontiki/kontiki/test/harness"
)

func newCA(t *testing.T) string {
	t.Helper()
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	return string(ca.CertPEM())
}

// TestTheServingBundleIsPublished under a name of its content, restored when somebody changes or deletes it, and replaced when the CAs
// change; bundles of others stay.
func TestTheServingBundleIsPublished(t *testing.T) {
	h := harness.New(t)
	first, second := newCA(t), newCA(t)
	foreign := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "foreign"}, Spec: certificatesv1.ClusterTrustBundleSpec{TrustBundle: second}}
	controllertest.Create(t, h.Client, foreign)
	controllertest.Create(t, h.Client, &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: "kubernetes.io:kube-apiserver-serving:old"}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: trustbundle.Signer, TrustBundle: second},
	})
	var mu sync.Mutex
	now, changed := first, make(chan struct{})
	controllertest.Run(t, h.Client, trustbundle.New(h.Client, func() ([]byte, <-chan struct{}) {
		mu.Lock()
		defer mu.Unlock()
		return []byte(now), changed
	}))
	only := func(content string) *certificatesv1.ClusterTrustBundle {
		t.Helper()
		var found *certificatesv1.ClusterTrustBundle
		controllertest.AwaitView(t, h.Client, []client.Object{&certificatesv1.ClusterTrustBundle{}}, func(v client.View) string {
			if _, ok := client.Get[*certificatesv1.ClusterTrustBundle](v, "", "foreign"); !ok {
				t.Fatal("a bundle of others was deleted")
			}
			var names []string
			client.Each(v, "", func(b *certificatesv1.ClusterTrustBundle) bool {
				if b.Name != "foreign" {
					names, found = append(names, b.Name), b
				}
				return true
			})
			if len(names) != 1 || found.Spec.TrustBundle != content || found.Spec.SignerName != trustbundle.Signer || !strings.HasPrefix(found.Name, "kubernetes.io:kube-apiserver-serving:") {
				return fmt.Sprint("bundles ", names)
			}
			return ""
		})
		return found
	}
	b := only(first)
	controllertest.Change(t, h.Client, "", b.Name, func(b *certificatesv1.ClusterTrustBundle) { b.Spec.TrustBundle = second })
	only(first)
	if err := h.Client.Delete(context.Background(), b); err != nil {
		t.Fatal(err)
	}
	only(first)
	mu.Lock()
	close(changed)
	now, changed = first+second, make(chan struct{})
	mu.Unlock()
	if after := only(first + second); after.Name == b.Name {
		t.Error("another content has the same name")
	}
}
