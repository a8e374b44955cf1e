package eviction

import (
	"strings"
	"testing"
)

func TestThresholdsAreParsed(t *testing.T) {
	for _, c := range []struct{ hard, soft, grace, problem string }{
		{"memory.available<100Mi", "", "", ""},
		{"", "nodefs.available<12.5%", "nodefs.available=1m30s", ""},
		{"memory.available>100Mi", "", "", "invalid eviction threshold syntax"},
		{"disk.available<1Gi", "", "", "unsupported eviction signal disk.available"},
		{"memory.available<150%", "", "", "must be between 0% and 100%"},
		{"memory.available<-1", "", "", "not negative"},
		{"", "memory.available<1Gi", "", "grace period must be specified for the soft eviction threshold memory.available"},
		{"", "memory.available<1Gi", "memory.available=soon", "invalid eviction grace period"},
	} {
		_, err := ParseThresholds(c.hard, c.soft, c.grace)
		if c.problem == "" && err != nil || c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
