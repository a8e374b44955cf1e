package openapi

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	"google.golang.org/protobuf/proto"

	"github.com/kontiki/kontiki/api/registry/builtin"
)

const objectMetaV1 = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"

// flunders is a document as an extension API server writes it: Flunder refers to metadata that differs from the masters', and to a Time that does not.
const flunders = `{"swagger":"2.0","info":{"title":"wardle","version":"v0"},
"parameters":{"limit-1":{"name":"limit","in":"query","type":"integer","uniqueItems":true},"unused-1":{"name":"x","in":"query","type":"string"}},
"paths":{
 "/apis/wardle.example.com/v1alpha1/namespaces/{namespace}/flunders":{"get":{"operationId":"listFlunders","parameters":[{"$ref":"#/parameters/limit-1"}],"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/com.example.Flunder"}}}}},
 "/apis/wardle.example.com/v1alpha1":{"get":{"operationId":"resources","responses":{"200":{"description":"OK"}}}},
 "/apis/wardle.example.com/v1alpha10/flunders":{"get":{"operationId":"other","responses":{"200":{"description":"OK"}}}},
 "/api/v1/pods":{"get":{"operationId":"stolen","responses":{"200":{"description":"stolen"}}}}},
"definitions":{
 "com.example.Flunder":{"type":"object","properties":{"metadata":{"$ref":"#\/definitions\/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}}},
 "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta":{"type":"object","description":"older","properties":{"creationTimestamp":{"$ref":"#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.Time"}}},
 "io.k8s.apimachinery.pkg.apis.meta.v1.Time":%s,
 "com.example.Unused":{"type":"object"}}}`

type definitions struct {
	Paths, Parameters map[string]json.RawMessage
	Definitions       map[string]json.RawMessage
}

func unpacked(t *testing.T, document func() ([]byte, error)) []byte {
	t.Helper()
	packed, err := document()
	if err != nil {
		t.Fatal(err)
	}
	text, err := Unpack(packed)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func read2(t *testing.T, document func() ([]byte, error)) (d definitions) {
	t.Helper()
	if err := json.Unmarshal(unpacked(t, document), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

func builtinDocuments(t *testing.T) *Documents {
	t.Helper()
	d, err := Of(builtin.Kinds(), func(string) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestWhatExtensionsSayIsMerged: their own paths and what these need, under other names where the masters' differ; in both forms.
func TestWhatExtensionsSayIsMerged(t *testing.T) {
	d := builtinDocuments(t)
	own := read2(t, d.V2JSON)
	const prefix = "/apis/wardle.example.com/v1alpha1"
	p, err := PartOf(fmt.Appendf(nil, flunders, own.Definitions["io.k8s.apimachinery.pkg.apis.meta.v1.Time"]), prefix)
	if err != nil {
		t.Fatal(err)
	}
	v2JSON, v2Proto := d.Merged([]string{prefix}, []*Part{p}, func(prefix string, err error) { t.Errorf("%s: %v", prefix, err) })
	merged := read2(t, v2JSON)
	if got, want := len(merged.Paths), len(own.Paths)+2; got != want {
		t.Errorf("%d paths, want %d", got, want)
	}
	if got, want := len(merged.Definitions), len(own.Definitions)+2; got != want {
		t.Errorf("%d definitions, want %d", got, want)
	}
	if got, want := len(merged.Parameters), len(own.Parameters)+1; got != want {
		t.Errorf("%d parameters, want %d", got, want)
	}
	for name, want := range map[string]string{
		"com.example.Flunder":    `"#/definitions/` + objectMetaV1 + `_v2"`,
		objectMetaV1 + "_v2":     `"older"`,
		objectMetaV1:             `"managedFields"`,
		"io.k8s.api.core.v1.Pod": `"#/definitions/` + objectMetaV1 + `"`,
	} {
		if text := string(merged.Definitions[name]); !strings.Contains(text, want) {
			t.Errorf("%s is %.300s", name, text)
		}
	}
	if text := string(merged.Paths["/api/v1/pods"]); strings.Contains(text, "stolen") {
		t.Error("another group version's path was replaced")
	}
	binary := &openapi_v2.Document{}
	if err := proto.Unmarshal(unpacked(t, v2Proto), binary); err != nil {
		t.Fatal(err)
	}
	if got := len(binary.Paths.Path); got != len(merged.Paths) {
		t.Errorf("%d paths in protobuf, %d in JSON", got, len(merged.Paths))
	}
	if got := len(binary.Definitions.AdditionalProperties); got != len(merged.Definitions) {
		t.Errorf("%d definitions in protobuf, %d in JSON", got, len(merged.Definitions))
	}
	if got := len(binary.Parameters.GetAdditionalProperties()); got != len(merged.Parameters) {
		t.Errorf("%d parameters in protobuf, %d in JSON", got, len(merged.Parameters))
	}
}

// TestAnExtensionReplacesABuiltinGroupVersion, whose paths are left out, whether or not the extension describes its own.
func TestAnExtensionReplacesABuiltinGroupVersion(t *testing.T) {
	d := builtinDocuments(t)
	const prefix, path = "/apis/storage.k8s.io/v1", "/apis/storage.k8s.io/v1/storageclasses"
	document := strings.NewReplacer("/apis/wardle.example.com/v1alpha1/namespaces/{namespace}/flunders", path, "%s", `{"type":"string"}`).Replace(flunders)
	p, err := PartOf([]byte(document), prefix)
	if err != nil {
		t.Fatal(err)
	}
	for name, parts := range map[string][]*Part{"described": {p}, "not described": nil} {
		v2JSON, v2Proto := d.Merged([]string{prefix}, parts, func(prefix string, err error) { t.Errorf("%s: %v", prefix, err) })
		merged := read2(t, v2JSON)
		count := 0
		for path := range merged.Paths {
			if strings.HasPrefix(path, prefix) {
				count++
			}
		}
		if count != len(parts) || len(parts) > 0 && !strings.Contains(string(merged.Paths[path]), "listFlunders") {
			t.Errorf("%s: %d paths, %s", name, count, merged.Paths[path])
		}
		if _, left := merged.Definitions["io.k8s.api.storage.v1.StorageClassList"]; left {
			t.Errorf("%s: the definitions of the replaced ones are left", name)
		}
		binary := &openapi_v2.Document{}
		if err := proto.Unmarshal(unpacked(t, v2Proto), binary); err != nil || len(binary.Paths.Path) != len(merged.Paths) {
			t.Errorf("%s: %v, %d paths in protobuf", name, err, len(binary.Paths.Path))
		}
	}
}

// TestWrongDocumentsAreNotMerged: what an extension says must be a document by itself, and may not change what others say.
func TestWrongDocumentsAreNotMerged(t *testing.T) {
	const prefix = "/apis/wardle.example.com/v1alpha1"
	valid := fmt.Sprintf(flunders, `{"type":"string"}`)
	for want, change := range map[string][2]string{
		"lacks the definition":          {`"com.example.Flunder":{`, `"com.example.Other":{`},
		"parameters that it lacks":      {`"parameters":{"limit-1"`, `"parameters":{"limit-2"`},
		"no document of OpenAPI":        {`"2.0"`, `"3.0"`},
		"invalid character":             {`{"swagger"`, `<"swagger"`},
		"contains an invalid Parameter": {`"type":"integer"`, `"type":7`},
	} {
		if _, err := PartOf([]byte(strings.Replace(valid, change[0], change[1], 1)), prefix); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	if p, err := PartOf([]byte(valid), "/apis/none.example.com/v1"); p != nil || err != nil {
		t.Errorf("%v, %v", p, err)
	}
	p, err := PartOf([]byte(valid), prefix)
	if err != nil {
		t.Fatal(err)
	}
	other, err := PartOf([]byte(strings.Replace(valid, `"name":"limit"`, `"name":"bound"`, 1)), prefix)
	if err != nil {
		t.Fatal(err)
	}
	var failed []string
	v2JSON, _ := builtinDocuments(t).Merged(nil, []*Part{p, other}, func(_ string, err error) { failed = append(failed, err.Error()) })
	if merged := read2(t, v2JSON); len(failed) != 1 || !strings.Contains(failed[0], "limit-1") || !strings.Contains(string(merged.Parameters["limit-1"]), `"limit"`) {
		t.Errorf("failed: %q; %s", failed, merged.Parameters["limit-1"])
	}
}
