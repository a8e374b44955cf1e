package custom

import (
	"context"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource/tableconvertor"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/registry/rest"
)

// compiled is what reads need of a version's schema.
type compiled struct {
	internal   *apiextensions.JSONSchemaProps
	structural *structuralschema.Structural
	defaults   int // the size of all defaults of the schema
	table      rest.TableConvertor
}

// rules are what writes need of a version's schema beside that: validators, and the compiled rules in CEL.
type rules struct {
	*compiled
	schema, status validation.SchemaValidator
	cel            *cel.Validator // nil if there are no rules
}

func (v *versionOf) compile() (*compiled, error) {
	c := &compiled{}
	if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
		internal := &apiextensions.CustomResourceValidation{}
		if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v.Schema.DeepCopy(), internal, nil); err != nil {
			return nil, fmt.Errorf("the schema of %s: %w", v.gvk, err)
		}
		structural, err := structuralschema.NewStructural(internal.OpenAPIV3Schema)
		if err != nil {
			return nil, fmt.Errorf("the schema of %s is not structural: %w", v.gvk, err)
		}
		structural = structural.DeepCopy() // it shares the defaults with the schema, and they are pruned
		if err := defaulting.PruneDefaults(structural); err != nil {
			return nil, fmt.Errorf("the defaults of %s: %w", v.gvk, err)
		}
		c.internal, c.structural, c.defaults = internal.OpenAPIV3Schema, structural, defaultsOf(structural)
	}
	columns := v.AdditionalPrinterColumns
	if len(columns) == 0 {
		columns = []apiextensionsv1.CustomResourceColumnDefinition{
			{Name: "Age", Type: "date", Description: metav1.ObjectMeta{}.SwaggerDoc()["creationTimestamp"], JSONPath: ".metadata.creationTimestamp"},
		}
	}
	// With an invalid column, the table has those before it, as in upstream.
	c.table, _ = tableconvertor.New(boundedColumns(columns))
	return c, nil
}

func (v *versionOf) makeRules() (*rules, error) {
	c, err := v.compiled.get()
	if err != nil {
		return nil, err
	}
	r := &rules{compiled: c}
	if r.schema, _, err = validation.NewSchemaValidator(c.internal); err != nil {
		return nil, fmt.Errorf("the schema of %s: %w", v.gvk, err)
	}
	if c.internal != nil {
		if status, ok := c.internal.Properties["status"]; ok && v.hasStatus() {
			if r.status, _, err = validation.NewSchemaValidator(&status); err != nil {
				return nil, fmt.Errorf("the schema of the status of %s: %w", v.gvk, err)
			}
		}
	}
	r.cel = cel.NewValidator(c.structural, true, celconfig.PerCallLimit)
	return r, nil
}

// print returns the table of an object.
func (v *versionOf) print(ctx context.Context, obj runtime.Object, o *metav1.TableOptions) (*metav1.Table, error) {
	c, err := v.compiled.get()
	if err != nil {
		return nil, err
	}
	return c.table.ConvertToTable(ctx, obj, o)
}
