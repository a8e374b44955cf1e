package rest_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/test/harness"
)

// TestTheAnswerToAWriteIsWhatIsStored: storing drops empty lists and maps, and the answers to writes are without them too, so they equal
// what a get returns. A dry run stores nothing and answers with the object as it was sent.
func TestTheAnswerToAWriteIsWhatIsStored(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	const roles, maps = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", "/api/v1/namespaces/default/configmaps"
	for _, c := range []struct{ method, path, name, contentType, body string }{
		{"POST", roles, "r", "application/json", `{"kind":"Role","apiVersion":"rbac.authorization.k8s.io/v1","metadata":{"name":"r","annotations":{}},"rules":[]}`},
		{"PUT", roles + "/r", "r", "application/json", `{"kind":"Role","apiVersion":"rbac.authorization.k8s.io/v1","metadata":{"name":"r","labels":{"a":"b"}},"rules":[]}`},
		{"PATCH", roles + "/r", "r", "application/merge-patch+json", `{"metadata":{"labels":{"a":"c"}},"rules":[]}`},
		{"PATCH", roles + "/s", "s", "application/apply-patch+yaml", `{"kind":"Role","apiVersion":"rbac.authorization.k8s.io/v1","metadata":{"name":"s"},"rules":[]}`},
		{"POST", maps, "m", "application/json", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"m"},"data":{},"binaryData":{}}`},
		{"POST", maps, "o", "application/yaml", "kind: ConfigMap\napiVersion: v1\nmetadata: {name: o, finalizers: []}\ndata: {a: b}"},
	} {
		collection := roles
		if strings.HasPrefix(c.path, maps) {
			collection = maps
		}
		query := ""
		if c.method == "PATCH" {
			query = "?fieldManager=m"
		}
		code, answer := raw(t, config, c.method, c.path+query, c.contentType, []byte(c.body), "Accept", "application/json")
		if code >= 300 {
			t.Fatalf("%s %s: %d %s", c.method, c.path, code, answer)
		}
		if _, read := raw(t, config, "GET", collection+"/"+c.name, "", nil); answer != read {
			t.Errorf("%s %s answers\n%sthen a get\n%s", c.method, c.path, answer, read)
		}
	}
	code, answer := raw(t, config, "POST", roles+"?dryRun=All", "application/json", []byte(`{"kind":"Role","apiVersion":"rbac.authorization.k8s.io/v1","metadata":{"name":"t"},"rules":[]}`))
	var role struct{ Rules []any }
	if err := json.Unmarshal([]byte(answer), &role); err != nil || code != 201 || role.Rules == nil {
		t.Errorf("a dry run: %d %s", code, answer)
	}
}
