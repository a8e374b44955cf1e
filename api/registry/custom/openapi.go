package custom

import (
	"fmt"
	"slices"
	"strings"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/kontiki/kontiki/api/openapi"
)

// openAPI returns the schema of a version's objects as OpenAPI publishes it, as upstream's
// k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder makes it.
func (v *versionOf) openAPI(v2 bool) (*spec.Schema, error) {
	c, err := v.compiled.get()
	if err != nil {
		return nil, err
	}
	schema := c.structural
	if schema != nil {
		schema = schema.Unfold()
	}
	out := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	// Clients take the fields of a schema for all that there are: if there may be others, version 2 shows none.
	if schema != nil && !(v2 && schema.XPreserveUnknownFields) {
		if v2 {
			schema = forVersion2(schema)
		}
		out = schema.ToKubeOpenAPI()
		out.SetProperty("metadata", *spec.RefSchema(openapi.Ref(openapi.ObjectMeta, v2)).WithDescription(metadataText))
		setType(out)
		embed(out, v2)
		if v2 {
			dropDefaults(out)
		}
	}
	out.AddExtension("x-kubernetes-group-version-kind", []any{map[string]any{"group": v.gvk.Group, "version": v.gvk.Version, "kind": v.gvk.Kind}})
	if fields := v.selectableExtension(); fields != nil {
		out.AddExtension("x-kubernetes-selectable-fields", fields)
	}
	return out, nil
}

func (v *versionOf) selectableExtension() []any {
	var fields []any
	for _, f := range v.SelectableFields {
		fields = append(fields, map[string]any{"fieldPath": strings.TrimPrefix(f.JSONPath, ".")})
	}
	return fields
}

var (
	typeTexts    = metav1.TypeMeta{}.SwaggerDoc()
	metadataText = metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"]
)

func text(description string) spec.Schema { return *spec.StringProperty().WithDescription(description) }

func setType(s *spec.Schema) {
	s.SetProperty("apiVersion", text(typeTexts["apiVersion"]))
	s.SetProperty("kind", text(typeTexts["kind"]))
}

// embed adds type and metadata to the schemas of embedded objects.
func embed(s *spec.Schema, v2 bool) {
	if s == nil {
		return
	}
	for name, property := range s.Properties {
		embed(&property, v2)
		s.Properties[name] = property
	}
	if s.Items != nil {
		embed(s.Items.Schema, v2)
	}
	if s.AdditionalProperties != nil {
		embed(s.AdditionalProperties.Schema, v2)
	}
	if open, ok := s.Extensions.GetBool("x-kubernetes-preserve-unknown-fields"); ok && open && v2 {
		return
	}
	if embedded, ok := s.Extensions.GetBool("x-kubernetes-embedded-resource"); !ok || !embedded {
		return
	}
	s.SetProperty("apiVersion", text("apiVersion defines the versioned schema of this representation of an object. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources"))
	s.SetProperty("kind", text("kind is a string value representing the type of this object. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds"))
	s.SetProperty("metadata", *spec.RefSchema(openapi.Ref(openapi.ObjectMeta, v2)).WithDescription(metadataText))
	for _, name := range []string{"kind", "apiVersion"} {
		if !slices.Contains(s.Required, name) {
			s.Required = append(s.Required, name)
		}
	}
}

// dropDefaults removes defaults: documents of version 2 have none.
func dropDefaults(s *spec.Schema) {
	if s == nil {
		return
	}
	s.Default = nil
	for name, property := range s.Properties {
		dropDefaults(&property)
		s.Properties[name] = property
	}
	if s.Items != nil {
		dropDefaults(s.Items.Schema)
	}
	if s.AdditionalProperties != nil {
		dropDefaults(s.AdditionalProperties.Schema)
	}
}

// forVersion2 returns a schema without what OpenAPI v2, or kubectl's reading of it, does not have
// (k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2).
func forVersion2(in *structuralschema.Structural) *structuralschema.Structural {
	out := in.DeepCopy()
	visitor := structuralschema.Visitor{Structural: func(s *structuralschema.Structural) bool {
		if v := s.ValueValidation; v != nil {
			v.AllOf, v.OneOf, v.AnyOf, v.Not = nil, nil, nil, nil
		}
		if s.Nullable {
			s.Type, s.Nullable, s.Items, s.Properties = "", false, nil, nil
		}
		if s.XPreserveUnknownFields {
			s.Items, s.Properties = nil, nil
		}
		if s.Items == nil && s.Type == "array" || s.XPreserveUnknownFields && s.Type == "object" {
			s.Type = ""
		}
		for name, property := range s.Properties {
			if property.Nullable && s.ValueValidation != nil {
				s.ValueValidation.Required = slices.DeleteFunc(s.ValueValidation.Required, func(r string) bool { return r == name })
			}
		}
		if more := s.AdditionalProperties; more != nil && more.Structural != nil && more.Structural.Nullable && s.ValueValidation != nil {
			s.ValueValidation.Required = nil
		}
		return true
	}}
	visitor.Visit(out)
	return out
}

// typeConverter returns the structure of the objects of all versions.
func (d *definition) typeConverter() (managedfields.TypeConverter, error) {
	models, err := openapi.MetadataSchemas()
	if err != nil {
		return nil, err
	}
	for _, v := range d.versions {
		schema, err := v.openAPI(false)
		if err != nil {
			return nil, err
		}
		models[openapi.ModelName(v.gvk)] = schema
	}
	converter, err := managedfields.NewTypeConverter(models, false)
	if err != nil {
		return nil, fmt.Errorf("the structure of the fields of %s: %w", d.crd.Name, err)
	}
	return converter, nil
}
