package volume

import (
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/node/volume/fsgroup"
)

// trustBundle writes the certificates of the ClusterTrustBundles that a projection selects: of one by its name, or of all of a signer
// that match a selector (KEP-3257).
func (p *projector) trustBundle(s *corev1.ClusterTrustBundleProjection) error {
	bundles, err := selectBundles(p.m.c.Objects.TrustBundles(), s)
	if err != nil {
		return err
	}
	if len(bundles) == 0 && !optional(s.Optional) {
		if s.Name != nil {
			return fmt.Errorf("clustertrustbundle %q not found", *s.Name)
		}
		return fmt.Errorf("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	if err := p.put(s.Path, certificates(bundles), nil); err != nil {
		return err
	}
	p.own(s.Path)
	return nil
}

func selectBundles(all []*certificatesv1.ClusterTrustBundle, s *corev1.ClusterTrustBundleProjection) (out []*certificatesv1.ClusterTrustBundle, err error) {
	switch {
	case s.Name != nil:
		for _, b := range all {
			if b.Name == *s.Name {
				out = append(out, b)
			}
		}
		return out, nil
	case s.SignerName == nil:
		return nil, fmt.Errorf("ClusterTrustBundle projection requires either name or signerName to be set")
	}
	selector := labels.Nothing() // an absent selector matches nothing, an empty one everything
	if s.LabelSelector != nil {
		if selector, err = metav1.LabelSelectorAsSelector(s.LabelSelector); err != nil {
			return nil, fmt.Errorf("labelSelector: %w", err)
		}
	}
	for _, b := range all {
		if b.Spec.SignerName == *s.SignerName && selector.Matches(labels.Set(b.Labels)) {
			out = append(out, b)
		}
	}
	return out, nil
}

// certificates returns the certificates of bundles as PEM, each once, in an order that depends on nothing else.
func certificates(bundles []*certificatesv1.ClusterTrustBundle) []byte {
	var found []string
	for _, b := range bundles {
		for rest := []byte(b.Spec.TrustBundle); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			found = append(found, string(block.Bytes))
		}
	}
	slices.SortFunc(found, strings.Compare)
	var out []byte
	for _, der := range slices.Compact(found) {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(der)})...)
	}
	return out
}

// own makes a file readable only for the pod's user, if all containers run as the same one, or for the pod's group.
func (p *projector) own(path string) {
	path = filepath.Clean(path)
	f := p.files[path]
	if uid := commonUser(p.pod); uid >= 0 || fsgroup.Of(p.pod) >= 0 {
		f.mode, f.uid = 0o600, uid
	}
	p.files[path] = f
}
