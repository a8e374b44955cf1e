package rest_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/test/harness"
)

// notServed are resources of upstream's stable group versions that are not built, and subresources that are served only if a feature
// is on that is off by default.
var notServed = []string{
	"authentication.k8s.io/v1", "authorization.k8s.io/v1",
	"apiextensions.k8s.io/v1",
	"storage.k8s.io/v1 csinodes/status",
}

// TestDiscoveryEqualsUpstreams compares what is served with what upstream publishes: every resource of every stable group version,
// its kind, scope, verbs, short names and categories.
func TestDiscoveryEqualsUpstreams(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		t.Fatal(err)
	}
	h := harness.New(t)
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "api", "discovery", "*__v[0-9].json"))
	if err != nil || len(files) < 20 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var want, got metav1.APIResourceList
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatal(file, err)
		}
		if slices.Contains(notServed, want.GroupVersion) {
			continue
		}
		path := "/apis/" + want.GroupVersion
		if want.GroupVersion == "v1" {
			path = "/api/v1"
		}
		response := do(t, h, "GET", path, "", nil, "").Body.Bytes()
		if err := json.Unmarshal(response, &got); err != nil {
			t.Errorf("%s: %v: %s", path, err, response)
			continue
		}
		served := map[string]metav1.APIResource{}
		for _, r := range got.APIResources {
			served[r.Name] = r
		}
		for _, w := range want.APIResources {
			w.StorageVersionHash = ""
			have, ok := served[w.Name]
			delete(served, w.Name)
			switch {
			case slices.Contains(notServed, want.GroupVersion+" "+w.Name):
			case !ok:
				t.Errorf("%s: %s is not served", want.GroupVersion, w.Name)
			default:
				have.StorageVersionHash = ""
				a, _ := json.Marshal(have)
				b, _ := json.Marshal(w)
				if string(a) != string(b) {
					t.Errorf("%s:\n%s\nupstream:\n%s", want.GroupVersion, a, b)
				}
			}
		}
		for name := range served {
			t.Errorf("%s: %s is not upstream's", want.GroupVersion, name)
		}
	}
}
