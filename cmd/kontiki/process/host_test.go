package process

import (
	"os"
	"strings"
	"testing"
)

func TestHostAddress(t *testing.T) {
	if got, err := HostAddress("192.0.2.7"); err != nil || got != "192.0.2.7" {
		t.Errorf("given: %q, %v", got, err)
	}
	for _, bad := range []string{"master-1", "10.0.0.300", "10.0.0.1:6444", "10.0.0.0/8",
		"127.0.0.1", "::1", "0.0.0.0", "169.254.3.4", "fe80::1", "224.0.0.1"} {
		if got, err := HostAddress(bad); err == nil || !strings.Contains(err.Error(), "--node-ip") || !strings.Contains(err.Error(), bad) {
			t.Errorf("%s: %q, %v", bad, got, err)
		}
	}
}

func TestHostName(t *testing.T) {
	if got, err := HostName("given"); err != nil || got != "given" {
		t.Errorf("given: %q, %v", got, err)
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := HostName(""); err != nil || got != strings.ToLower(name) {
		t.Errorf("default: %q, %v; this host is %q", got, err, name)
	}
}
