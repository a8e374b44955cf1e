package cluster

import (
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/test/gathered"
)

func TestCertificatesInMetrics(t *testing.T) {
	m := startMasters(t, 1)
	uses := 0
	for key, value := range gathered.Values(t, m.nodes[0].c.Collector()) {
		if !strings.HasPrefix(key, "kontiki_certificate_expiry_timestamp_seconds{") {
			continue
		}
		if left := time.Until(time.Unix(int64(value), 0)); left < 360*24*time.Hour || left > 366*24*time.Hour {
			t.Errorf("%s expires in %s", key, left)
		}
		uses++
	}
	if uses != 3 {
		t.Errorf("%d certificates are shown", uses)
	}
}
