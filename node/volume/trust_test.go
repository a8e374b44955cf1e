package volume

import (
	"context"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func bundle(name, signer string, labels map[string]string, certificates ...string) *certificatesv1.ClusterTrustBundle {
	b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: signer}}
	for _, c := range certificates {
		b.Spec.TrustBundle += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(c)}))
	}
	return b
}

// TestTrustBundlesAreProjected: one by its name, or all of a signer that match, each certificate once; what is missing holds the pod
// unless it is optional.
func TestTrustBundlesAreProjected(t *testing.T) {
	s := &shelf{bundles: []*certificatesv1.ClusterTrustBundle{
		bundle("plain", "", nil, "root"),
		bundle("a.io:x:1", "a.io/x", map[string]string{"live": "yes"}, "one", "both"),
		bundle("a.io:x:2", "a.io/x", map[string]string{"live": "yes"}, "two", "both"),
		bundle("a.io:x:3", "a.io/x", map[string]string{"live": "no"}, "old"),
		bundle("b.io:y:1", "b.io/y", map[string]string{"live": "yes"}, "other"),
	}}
	yes, name, missing, signer := true, "plain", "missing", "a.io/x"
	live := &metav1.LabelSelector{MatchLabels: map[string]string{"live": "yes"}}
	for what, test := range map[string]struct {
		source corev1.ClusterTrustBundleProjection
		want   []string
		fails  string
	}{
		"by name":          {source: corev1.ClusterTrustBundleProjection{Name: &name}, want: []string{"root"}},
		"a missing name":   {source: corev1.ClusterTrustBundleProjection{Name: &missing}, fails: `clustertrustbundle "missing" not found`},
		"optional":         {source: corev1.ClusterTrustBundleProjection{Name: &missing, Optional: &yes}},
		"by signer":        {source: corev1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: live}, want: []string{"both", "one", "two"}},
		"all of a signer":  {source: corev1.ClusterTrustBundleProjection{SignerName: &signer, LabelSelector: &metav1.LabelSelector{}}, want: []string{"both", "old", "one", "two"}},
		"without selector": {source: corev1.ClusterTrustBundleProjection{SignerName: &signer}, fails: "matched zero ClusterTrustBundles"},
	} {
		test.source.Path = "tls/ca.pem"
		pod := podWith(vol("v", corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ClusterTrustBundle: &test.source}}}}))
		paths, err := manager(t, s).Setup(context.Background(), pod, "", nil)
		if test.fails != "" {
			if err == nil || !strings.Contains(err.Error(), test.fails) {
				t.Errorf("%s: %v", what, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		data, err := os.ReadFile(filepath.Join(paths["v"], "tls", "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			got = append(got, string(block.Bytes))
		}
		if strings.Join(got, " ") != strings.Join(test.want, " ") {
			t.Errorf("%s: %v, want %v", what, got, test.want)
		}
	}
}
