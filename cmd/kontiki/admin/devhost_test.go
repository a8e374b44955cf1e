package admin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNamespacesOfDevelopmentHosts(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dev.json"), []byte(`{"dir": "`+dir+`", "id": "abc123", "hosts": [{"name": "master-1", "role": "master"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	bad := t.TempDir()
	if err := os.WriteFile(filepath.Join(bad, "dev.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "hosts", "master-1"):         "kontiki-abc123-master-1",
		filepath.Join(dir, "hosts", "master-1") + "/":   "kontiki-abc123-master-1",
		filepath.Join(dir, "hosts", "master-2"):         "",
		filepath.Join(t.TempDir(), "hosts", "master-1"): "",
		"/var/lib/kontiki/server":                       "",
	} {
		if got, err := devNamespace(path); err != nil || got != want {
			t.Errorf("%s: %q %v, not %q", path, got, err, want)
		}
	}
	if _, err := devNamespace(filepath.Join(bad, "hosts", "master-1")); err == nil {
		t.Error("a damaged file is not reported")
	}
	if err := enterHost(filepath.Join(dir, "hosts", "master-1")); err == nil || !strings.Contains(err.Error(), "not running") {
		t.Errorf("a cluster that does not run: %v", err)
	}
	if err := enterHost("/var/lib/kontiki/server"); err != nil {
		t.Errorf("not of a development cluster: %v", err)
	}
}
