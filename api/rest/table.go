package rest

import (
	"context"
	"fmt"
	"net/http"
	"reflect"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metascheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	tablevalidation "k8s.io/apimachinery/pkg/apis/meta/v1beta1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	registryrest "k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
)

// tables builds the tables that kubectl prints, with upstream's columns.
type tables struct {
	generator *printers.HumanReadableGenerator
	// printed are the internal types for which the generator has columns.
	printed printedTypes
}

func newTables() *tables {
	t := &tables{generator: printers.NewTableGenerator().With(printersinternal.AddHandlers, usageTables), printed: printedTypes{}}
	printersinternal.AddHandlers(t.printed)
	usageTables(t.printed)
	return t
}

// printedTypes is a printers.PrintHandler that records the types that upstream prints.
type printedTypes map[reflect.Type]bool

// TableHandler implements printers.PrintHandler. The first parameter of a printing function is an object or a list.
func (p printedTypes) TableHandler(_ []metav1.TableColumnDefinition, print any) error {
	p[reflect.TypeOf(print).In(0)] = true
	return nil
}

func (c *call) tableOptions() (*metav1.TableOptions, error) { return tableOptions(c.r) }

func tableOptions(r *http.Request) (*metav1.TableOptions, error) {
	o := &metav1.TableOptions{}
	if err := metascheme.ParameterCodec.DecodeParameters(r.URL.Query(), metav1.SchemeGroupVersion, o); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if errs := tablevalidation.ValidateTableOptions(o); len(errs) > 0 {
		return nil, objects.Invalid(schema.GroupKind{Group: metav1.GroupName, Kind: "TableOptions"}, "", errs)
	}
	if o.IncludeObject == "" {
		o.IncludeObject = metav1.IncludeMetadata
	}
	return o, nil
}

// of returns the table of an object.
func (t *tables) of(kind *registry.Kind, p *objects.Printable, o *metav1.TableOptions) (*metav1.Table, error) {
	table, err := t.print(kind, p, o)
	if err != nil {
		return nil, err
	}
	table.TypeMeta, table.ResourceVersion = tableType, p.Object.GetResourceVersion()
	for i := range table.Rows {
		table.Rows[i].Object = includedIn(o, p.Object)
	}
	return table, nil
}

var tableType = metav1.TypeMeta{Kind: "Table", APIVersion: "meta.k8s.io/v1"}

// includedIn returns the part of its object that a row includes.
func includedIn(o *metav1.TableOptions, obj registry.Object) runtime.RawExtension {
	switch o.IncludeObject {
	case metav1.IncludeObject:
		return runtime.RawExtension{Object: obj}
	case metav1.IncludeMetadata:
		return runtime.RawExtension{Object: metadataOf(obj)}
	}
	return runtime.RawExtension{}
}

// print returns the columns and the row of an object, whose row does not include it yet.
func (t *tables) print(kind *registry.Kind, p *objects.Printable, o *metav1.TableOptions) (table *metav1.Table, err error) {
	if kind.Print != nil {
		table, err = kind.Print(context.Background(), p.Internal, o)
	} else if t.printed[reflect.TypeOf(p.Internal)] {
		table, err = t.generator.GenerateTable(p.Internal, printers.GenerateOptions{Wide: true, NoHeaders: o.NoHeaders})
	} else {
		table, err = registryrest.NewDefaultTableConvertor(kind.GroupResource()).ConvertToTable(context.Background(), p.Internal, o)
	}
	if err != nil {
		return nil, fmt.Errorf("print %s: %w", kind.Kind, err)
	}
	return table, nil
}
