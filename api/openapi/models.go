package openapi

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Names of upstream's schemas to which those of custom resources refer.
const (
	ObjectMeta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
	ListMeta   = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta"
)

// ModelName returns the name of the schema of a custom kind: "com.example.v1.Widget".
func ModelName(gvk schema.GroupVersionKind) string {
	parts := strings.Split(gvk.Group, ".")
	slices.Reverse(parts)
	return strings.Join(parts, ".") + "." + gvk.Version + "." + gvk.Kind
}

// Ref returns the reference to a schema in a document of version 2 or 3.
func Ref(name string, v2 bool) string {
	if v2 {
		return "#/definitions/" + name
	}
	return "#/components/schemas/" + name
}

// template is the group version whose document has everything that the documents of custom resources take over: a kind with all verbs, a
// status and a scale.
const template = "apis/apps/v1"

var metadataSchemas = sync.OnceValues(func() (map[string]json.RawMessage, error) {
	packed, err := read(FileName(template))
	if err != nil {
		return nil, err
	}
	document, err := Unpack(packed)
	if err != nil {
		return nil, err
	}
	var doc struct {
		Components struct{ Schemas Schemas }
	}
	if err := json.Unmarshal(document, &doc); err != nil {
		return nil, err
	}
	return reachable(json.RawMessage(fmt.Sprintf("%q", Ref(ObjectMeta, false))), doc.Components.Schemas), nil
})

// MetadataSchemas returns the schemas of metadata by name, for documents of version 3. The map and the schemas are the caller's.
func MetadataSchemas() (map[string]*spec.Schema, error) {
	texts, err := metadataSchemas()
	if err != nil {
		return nil, err
	}
	out := map[string]*spec.Schema{}
	for name, text := range texts {
		out[name] = &spec.Schema{}
		if err := json.Unmarshal(text, out[name]); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return out, nil
}
