package openapi_test

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"

	"github.com/kontiki/kontiki/api/openapi"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
	"github.com/kontiki/kontiki/api/rest"
)

func of(t *testing.T, table *registry.Table) *openapi.Documents {
	t.Helper()
	d, err := openapi.Of(table, func(path string) bool { return rest.Serves(table, path) })
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// document is what the tests read of a document of either version.
type document struct {
	Paths       map[string]json.RawMessage
	Definitions map[string]json.RawMessage
	Components  struct{ Schemas map[string]json.RawMessage }
}

func read(t *testing.T, packed []byte) (d document) {
	t.Helper()
	text, err := openapi.Unpack(packed)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestTheBuiltinTableIsDescribed: each group version has a document, and all that documents describe is served.
func TestTheBuiltinTableIsDescribed(t *testing.T) {
	table := builtin.Kinds()
	d := of(t, table)
	var index struct{ Paths map[string]any }
	if err := json.Unmarshal(d.Index, &index); err != nil {
		t.Fatal(err)
	}
	for _, kind := range table.Kinds() {
		name := openapi.Name(kind)
		doc := read(t, d.V3[name])
		if index.Paths[name] == nil || len(doc.Paths) == 0 || len(doc.Components.Schemas) == 0 {
			t.Errorf("%s is not described", name)
		}
		for path := range doc.Paths {
			if !rest.Serves(table, path) {
				t.Errorf("%s describes %s, which is not served", name, path)
			}
		}
	}
	v2, err := d.V2JSON()
	if err != nil {
		t.Fatal(err)
	}
	if paths := len(read(t, v2).Paths); paths < 200 {
		t.Errorf("version 2 has %d paths", paths)
	}
}

// TestDocumentsFollowTheTable: what a table does not serve is in none of its documents, nor are the schemas that only it needs.
func TestDocumentsFollowTheTable(t *testing.T) {
	var some []*registry.Resource
	for _, kind := range builtin.Kinds().Kinds() {
		if r := kind.Of(); (r.Group == "" && (r.Resource == "configmaps" || r.Resource == "namespaces")) || r.Resource == "leases" {
			some = append(some, r)
		}
	}
	d := of(t, registry.NewTable(some...))
	if names := slices.Sorted(maps.Keys(d.V3)); !slices.Equal(names, []string{"api/v1", "apis/coordination.k8s.io/v1"}) {
		t.Errorf("documents %v", names)
	}
	v2, err := d.V2JSON()
	if err != nil {
		t.Fatal(err)
	}
	const prefix = "io.k8s.api.core.v1."
	core, both := read(t, d.V3["api/v1"]), read(t, v2)
	for what, schemas := range map[string]map[string]json.RawMessage{"version 3": core.Components.Schemas, "version 2": both.Definitions} {
		if schemas[prefix+"ConfigMap"] == nil || schemas[prefix+"Pod"] != nil || schemas[prefix+"PodSpec"] != nil {
			t.Errorf("%s: schemas %v", what, slices.Sorted(maps.Keys(schemas)))
		}
	}
	if both.Paths["/api/v1/namespaces/{namespace}/configmaps"] == nil || both.Paths["/api/v1/namespaces/{name}/status"] == nil {
		t.Error("version 2 does not have what is served")
	}
	for path := range both.Paths {
		if strings.Contains(path, "pods") || strings.Contains(path, "/apps/v1/") {
			t.Errorf("version 2 has %s", path)
		}
	}
	packed, err := d.V2Proto()
	if err != nil {
		t.Fatal(err)
	}
	binary, err := openapi.Unpack(packed)
	if err != nil {
		t.Fatal(err)
	}
	var parsed openapi_v2.Document
	if err := proto.Unmarshal(binary, &parsed); err != nil {
		t.Fatal(err)
	}
	if len(parsed.Paths.Path) != len(both.Paths) {
		t.Errorf("%d paths in protobuf, %d in JSON", len(parsed.Paths.Path), len(both.Paths))
	}
}

func BenchmarkOf(b *testing.B) {
	table := builtin.Kinds()
	for b.Loop() {
		if _, err := openapi.Of(table, func(path string) bool { return rest.Serves(table, path) }); err != nil {
			b.Fatal(err)
		}
	}
}
