package openapi

import (
	"encoding/json"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/kontiki/kontiki/api/registry"
)

// Schema returns the schema of a kind with the schemas to which it refers in their places, for type checks of CEL expressions. A schema that
// refers to itself is cut there. The caller may keep it.
func Schema(kind *registry.Kind) (*spec.Schema, error) {
	if kind.OpenAPI != nil {
		own, err := kind.OpenAPI(false)
		if err != nil {
			return nil, err
		}
		referred, err := MetadataSchemas()
		if err != nil {
			return nil, err
		}
		const root = "root"
		return resolver.PopulateRefs(func(ref string) (*spec.Schema, bool) {
			if ref == root {
				return own, true
			}
			found, ok := referred[strings.TrimPrefix(ref, Ref("", false))]
			return found, ok
		}, root)
	}
	packed, err := read(FileName(Name(kind)))
	if err != nil {
		return nil, err
	}
	d, err := parse(packed)
	if err != nil {
		return nil, err
	}
	for name, text := range d.schemas {
		var named struct {
			Kinds []schema.GroupVersionKind `json:"x-kubernetes-group-version-kind"`
		}
		if json.Unmarshal(text, &named) != nil || len(named.Kinds) != 1 || named.Kinds[0] != kind.GVK() {
			continue
		}
		return resolver.PopulateRefs(func(ref string) (*spec.Schema, bool) {
			text, ok := d.schemas[strings.TrimPrefix(ref, Ref("", false))]
			if !ok {
				return nil, false
			}
			found := &spec.Schema{}
			return found, json.Unmarshal(text, found) == nil
		}, Ref(name, false))
	}
	return nil, fmt.Errorf("no document describes %s", kind.GVK())
}
