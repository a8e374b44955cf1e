package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kontiki/kontiki/api/openapi"
)

// values are the allowed values of a field. The published documents omit them, while a running server includes them (feature
// OpenAPIEnums); they are in upstream's generated code.
type values struct {
	description string
	enum        []string
	// ofElements means that they apply to a list's items or a map's values.
	ofElements bool
}

// enums maps the schema's name in the documents and the field's name to the field's values.
type enums map[string]map[string]values

// readEnums reads pkg/generated/openapi of k8s.io/kubernetes. It parses that package instead of importing it, because the package
// needs modules that nothing else here needs.
func readEnums(module string) (enums, error) {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(module, "pkg", "generated", "openapi", "zz_generated.openapi.go"), nil, 0)
	if err != nil {
		return nil, err
	}
	out := enums{}
	for _, d := range file.Decls {
		function, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		// For example, schema_k8sio_api_core_v1_Pod is io.k8s.api.core.v1.Pod.
		name, ok := strings.CutPrefix(function.Name.Name, "schema_k8sio_api_")
		if !ok {
			continue
		}
		fields := map[string]values{}
		ast.Inspect(function.Body, func(n ast.Node) bool {
			property, ok := n.(*ast.KeyValueExpr)
			if !ok {
				return true
			}
			if key, ok := text(property.Key); ok {
				if v := valuesOf(property.Value); len(v.enum) > 0 {
					fields[key] = v
				}
			}
			return true
		})
		if len(fields) > 0 {
			out["io.k8s.api."+strings.ReplaceAll(name, "_", ".")] = fields
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("no field with values found: is the code still generated in the same form?")
	}
	return out, nil
}

// valuesOf reads spec.Schema{SchemaProps: spec.SchemaProps{Description, Enum, Items, AdditionalProperties}}.
func valuesOf(schema ast.Expr) (v values) {
	properties := field(schema, "SchemaProps")
	v.description, _ = text(field(properties, "Description"))
	v.enum = texts(field(properties, "Enum"))
	for _, element := range []string{"Items", "AdditionalProperties"} {
		if inner := texts(field(field(field(field(properties, element), "Schema"), "SchemaProps"), "Enum")); len(inner) > 0 {
			v.enum, v.ofElements = inner, true
		}
	}
	return v
}

// field returns a field's value in a composite literal or a pointer to one, nil if there is none.
func field(literal ast.Expr, name string) ast.Expr {
	if address, ok := literal.(*ast.UnaryExpr); ok {
		literal = address.X
	}
	composite, ok := literal.(*ast.CompositeLit)
	if !ok {
		return nil
	}
	for _, e := range composite.Elts {
		if pair, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := pair.Key.(*ast.Ident); ok && key.Name == name {
				return pair.Value
			}
		}
	}
	return nil
}

func text(e ast.Expr) (string, bool) {
	literal, ok := e.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(literal.Value)
	return s, err == nil
}

func texts(e ast.Expr) (out []string) {
	composite, ok := e.(*ast.CompositeLit)
	if !ok {
		return nil
	}
	for _, element := range composite.Elts {
		if s, ok := text(element); ok {
			out = append(out, s)
		}
	}
	return out
}

// add adds the values, and the descriptions that explain them, to the fields of schemas.
func (e enums) add(schemas openapi.Schemas) error {
	for name, fields := range e {
		raw, ok := schemas[name]
		if !ok {
			continue
		}
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.UseNumber()
		var schema map[string]any
		if err := decoder.Decode(&schema); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		properties, _ := schema["properties"].(map[string]any)
		for field, v := range fields {
			property, ok := properties[field].(map[string]any)
			if !ok {
				continue
			}
			property["description"] = v.description
			if !v.ofElements {
				property["enum"] = v.enum
				continue
			}
			for _, key := range []string{"items", "additionalProperties"} {
				if inner, ok := property[key].(map[string]any); ok {
					inner["enum"] = v.enum
				}
			}
		}
		changed, err := json.Marshal(schema)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		schemas[name] = changed
	}
	return nil
}
