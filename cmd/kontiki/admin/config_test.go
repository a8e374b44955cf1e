package admin

import (
	"os"
	"path/filepath"
	"testing"
)

// TestKubeconfigLists: KUBECONFIG may name several files, also some that do not exist, as for kubectl.
func TestKubeconfigLists(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	one := file("one", `{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: c, user: u, namespace: shop}}]}`)
	two := file("two", `{apiVersion: v1, kind: Config, current-context: b, clusters: [{name: c, cluster: {server: "https://192.0.2.1:6443"}}], users: [{name: u, user: {token: t}}]}`)
	t.Setenv("KUBECONFIG", filepath.Join(dir, "missing")+":"+one+":"+two)
	var namespace string
	config, err := configIn("", &namespace)
	if err != nil || config.Host != "https://192.0.2.1:6443" || config.BearerToken != "t" || namespace != "shop" {
		t.Errorf("%v: %+v, namespace %q", err, config, namespace)
	}
	if _, err := Config(two); err == nil {
		t.Error("--kubeconfig does not take precedence: the second file alone has no context b")
	}
}
