package csimount

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// tokensAttribute has the tokens of the pod's service account that a driver asks for (CSIDriver.spec.tokenRequests).
const tokensAttribute = "csi.storage.k8s.io/serviceAccount.tokens"

// token is a token for a driver. It is used until it is to be renewed.
type token struct {
	authenticationv1.TokenRequestStatus
	renew time.Time
}

type tokenKey struct {
	Key
	audience string
}

// driverTokens returns the tokens for a driver, in JSON; "" if it asks for none.
func (m *Mounter) driverTokens(ctx context.Context, r *Request, driver *storagev1.CSIDriver) (string, error) {
	if len(driver.Spec.TokenRequests) == 0 {
		return "", nil
	}
	out := map[string]authenticationv1.TokenRequestStatus{}
	for i := range driver.Spec.TokenRequests {
		asked := &driver.Spec.TokenRequests[i]
		k := tokenKey{r.key(), asked.Audience}
		m.mu.Lock()
		t := m.tokens[k]
		m.mu.Unlock()
		if t == nil || !time.Now().Before(t.renew) {
			status, renew, err := m.c.Token(ctx, r.Pod, asked)
			if err != nil {
				return "", fmt.Errorf("kubernetes.io/csi: mounter.SetUpAt failed to get service account token attributes: %w", err)
			}
			t = &token{status, renew}
			m.mu.Lock()
			m.tokens[k] = t
			m.mu.Unlock()
		}
		out[asked.Audience] = t.TokenRequestStatus
	}
	text, err := json.Marshal(out)
	return string(text), err
}
