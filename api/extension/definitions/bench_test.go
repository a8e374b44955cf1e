package definitions_test

import (
	"bytes"
	"fmt"
	"net/http/httptest"
	"testing"

	"github.com/kontiki/kontiki/test/harness"
)

// machines is a definition as projects have them: a schema of several levels with defaults, bounds, a list with keys, and two rules.
const machines = `{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "machines.bench.example"},
"spec": {"group": "bench.example", "scope": "Namespaced", "names": {"plural": "machines", "singular": "machine", "kind": "Machine"},
"versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
"schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
  "spec": {"type": "object", "required": ["image"], "x-kubernetes-validations": [
    {"rule": "self.cores <= self.maxCores", "message": "cores must not exceed maxCores"},
    {"rule": "self.disks.all(d, d.size > 0)", "message": "disks must not be empty"}],
    "properties": {
      "image": {"type": "string", "minLength": 1, "maxLength": 256},
      "cores": {"type": "integer", "minimum": 1, "maximum": 256, "default": 1},
      "maxCores": {"type": "integer", "minimum": 1, "maximum": 256, "default": 8},
      "disks": {"type": "array", "maxItems": 32, "default": [], "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name", "size"], "properties": {
          "name": {"type": "string", "maxLength": 63}, "size": {"type": "integer", "minimum": 1},
          "kind": {"type": "string", "enum": ["ssd", "hdd"], "default": "ssd"}}}},
      "labels": {"type": "object", "maxProperties": 64, "additionalProperties": {"type": "string", "maxLength": 1024}},
      "template": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}},
  "status": {"type": "object", "properties": {"phase": {"type": "string"}}}}}}}]}}`

// BenchmarkCreate creates custom resources by REST, from the request to the applied entry of the log.
func BenchmarkCreate(b *testing.B) {
	h := harness.New(b)
	post := func(path, body string) {
		r := httptest.NewRequest("POST", path, bytes.NewReader([]byte(body)))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.AsAdmin().ServeHTTP(w, r)
		if w.Code != 201 {
			b.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", machines)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		post("/apis/bench.example/v1/namespaces/default/machines", fmt.Sprintf(`{"apiVersion": "bench.example/v1", "kind": "Machine", "metadata": {"name": "m-%d", "labels": {"app": "machine"},
"annotations": {"example.com/owner": "team-a"}}, "spec": {"image": "registry.example/team/machine:1.2.3", "cores": 3,
"disks": [{"name": "root", "size": 20}, {"name": "data", "size": 100, "kind": "hdd"}, {"name": "log", "size": 10}], "labels": {"LOG_LEVEL": "info", "REGION": "north"},
"template": {"metadata": {"labels": {"app": "machine"}}, "spec": {"nodeSelector": {"kubernetes.io/os": "linux"}, "terminationGracePeriodSeconds": 30}}}}`, i))
	}
}
