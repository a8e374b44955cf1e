package rest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/test/harness"
)

// TestDeepDocumentsAreRefused: nesting of any kind, in any encoding, is refused as a wrong request.
func TestDeepDocumentsAreRefused(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	if code, body := raw(t, config, "POST", configMapsPath, "application/json", []byte(`{"metadata":{"name":"a"}}`)); code != 201 {
		t.Fatal(code, body)
	}
	const deep = 1 << 20
	arrays := strings.Repeat("[", deep) + strings.Repeat("]", deep)
	objects := strings.Repeat(`{"a":`, deep/4) + "1" + strings.Repeat("}", deep/4)
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
	for i := range 30 {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 9), ","))
	}
	groups := "k8s\x00" + strings.Repeat("\x0b", deep) // fields of a group within a group
	one := configMapsPath + "/a"
	for _, c := range []struct{ name, method, path, contentType, body string }{
		{"arrays", "POST", configMapsPath, "application/json", `{"metadata":{"name":"b"},"data":` + arrays + `}`},
		{"objects", "POST", configMapsPath, "application/json", `{"metadata":{"name":"b"},"data":` + objects + `}`},
		{"an unknown field", "POST", configMapsPath, "application/json", `{"metadata":{"name":"b"},"other":` + arrays + `}`},
		{"YAML flows", "POST", configMapsPath, "application/yaml", "metadata: {name: b}\ndata: " + arrays},
		{"YAML aliases", "POST", configMapsPath, "application/yaml", "metadata: {name: b}\n" + bomb},
		{"protobuf groups", "POST", configMapsPath, "application/vnd.kubernetes.protobuf", groups},
		{"a merge patch", "PATCH", one, "application/merge-patch+json", `{"data":` + objects + `}`},
		{"a strategic patch", "PATCH", one, "application/strategic-merge-patch+json", `{"data":` + objects + `}`},
		{"a JSON patch", "PATCH", one, "application/json-patch+json", `[{"op":"add","path":"/data","value":` + objects + `}]`},
		{"apply", "PATCH", one + "?fieldManager=m", "application/apply-patch+yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: " + arrays},
		{"options of a deletion", "DELETE", one, "application/json", `{"kind":"DeleteOptions","apiVersion":"v1","other":` + arrays + `}`},
		{"a transaction", "POST", "/kontiki/v1/transactions", "application/json", `{"operations":` + arrays + `}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body := raw(t, config, c.method, c.path, c.contentType, []byte(c.body))
			if code < 400 || code >= 500 || len(body) > 16<<10 {
				t.Errorf("%d, %d bytes: %.300s", code, len(body), body)
			}
		})
	}
}
