package volume

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/internal/durable"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// tokensAttribute has the tokens of the pod's service account that a driver asks for (CSIDriver.spec.tokenRequests).
const tokensAttribute = "csi.storage.k8s.io/serviceAccount.tokens"

// driverToken is a token for a driver. It is used until a fifth of its life is left.
type driverToken struct {
	authenticationv1.TokenRequestStatus
	renew time.Time
}

// csiTokens returns the tokens for a driver, in JSON; "" if it asks for none.
func (m *Manager) csiTokens(ctx context.Context, r *request, driver *storagev1.CSIDriver) (string, error) {
	if len(driver.Spec.TokenRequests) == 0 {
		return "", nil
	}
	out := map[string]authenticationv1.TokenRequestStatus{}
	for i := range driver.Spec.TokenRequests {
		asked := &driver.Spec.TokenRequests[i]
		k := tokenKey{string(r.pod.UID), r.volume.Name, "csi " + asked.Audience}
		m.mu.Lock()
		t := m.driverTokens[k]
		m.mu.Unlock()
		if t == nil || !time.Now().Before(t.renew) {
			request := &nodev1.CreateTokenRequest{Namespace: r.pod.Namespace, ServiceAccount: r.pod.Spec.ServiceAccountName, PodName: r.pod.Name, PodUid: string(r.pod.UID),
				ExpirationSeconds: ptr.Deref(asked.ExpirationSeconds, 3600)}
			if asked.Audience != "" {
				request.Audiences = []string{asked.Audience}
			}
			now := time.Now()
			response, err := m.c.Token(ctx, request)
			if err != nil {
				return "", fmt.Errorf("kubernetes.io/csi: mounter.SetUpAt failed to get service account token attributes: %w", err)
			}
			expires := time.Unix(response.ExpiresAt, 0)
			t = &driverToken{authenticationv1.TokenRequestStatus{Token: response.Token, ExpirationTimestamp: metav1.NewTime(expires)}, renewAt(now, expires)}
			m.mu.Lock()
			m.driverTokens[k] = t
			m.mu.Unlock()
		}
		out[asked.Audience] = t.TokenRequestStatus
	}
	text, err := json.Marshal(out)
	return string(text), err
}

// writeData writes the kubelet's file beside a mount.
func (m *Manager) writeData(dir string, data map[string]string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	return durable.Save(filepath.Join(dir, volumeData), &data)
}
