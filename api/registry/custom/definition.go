package custom

import (
	"fmt"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"github.com/kontiki/kontiki/api/registry"
)

// definition is a CustomResourceDefinition with what is made of it.
type definition struct {
	crd      *apiextensionsv1.CustomResourceDefinition // read-only
	versions map[string]*versionOf
	storage  *versionOf
	convert  Converter
	codec    *codec
}

// versionOf is a version of a definition, served or not.
type versionOf struct {
	*apiextensionsv1.CustomResourceDefinitionVersion
	of       *definition
	gvk      schema.GroupVersionKind
	compiled lazily[*compiled]
	rules    lazily[*rules]
}

// Rows returns the rows of the served versions of a definition, the preferred one first; if none is served, an unserved one. The definition must
// have been validated, and not be changed afterwards. Objects are converted between versions by convert.
func Rows(crd *apiextensionsv1.CustomResourceDefinition, life *registry.Life, convert Converter) ([]*registry.Resource, error) {
	validation.RegisterMetrics() // it does so once
	d := &definition{crd: crd, versions: map[string]*versionOf{}, convert: convert}
	names := &crd.Status.AcceptedNames
	var served []*versionOf
	for i := range crd.Spec.Versions {
		v := &versionOf{CustomResourceDefinitionVersion: &crd.Spec.Versions[i], of: d,
			gvk: schema.GroupVersionKind{Group: crd.Spec.Group, Version: crd.Spec.Versions[i].Name, Kind: names.Kind}}
		v.compiled.make, v.rules.make = v.compile, v.makeRules
		d.versions[v.Name] = v
		if v.Storage {
			d.storage = v
		}
		if v.Served {
			served = append(served, v)
		}
	}
	if d.storage == nil {
		return nil, fmt.Errorf("%s has no storage version", crd.Name)
	}
	d.codec = newCodec(d)
	slices.SortFunc(served, func(a, b *versionOf) int { return version.CompareKubeAwareVersionStrings(b.Name, a.Name) })
	if len(served) == 0 {
		row := d.storage.row()
		row.Life, row.Unserved = life, true
		return []*registry.Resource{row}, nil
	}
	var rows []*registry.Resource
	for _, v := range served {
		row := v.row()
		row.Life = life
		if len(rows) > 0 {
			row.VersionOf = rows[0]
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// verbs are those of discovery, in upstream's order: all, and those for a definition that is being deleted.
var (
	verbs            = []string{"delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"}
	terminatingVerbs = []string{"delete", "deletecollection", "get", "list", "watch"}
)

func (v *versionOf) row() *registry.Resource {
	crd := v.of.crd
	names := &crd.Status.AcceptedNames
	r := &registry.Resource{
		Group: v.gvk.Group, Resource: names.Plural, Kind: names.Kind, Singular: names.Singular, ListKind: names.ListKind,
		ShortNames: names.ShortNames, Categories: names.Categories,
		Namespaced: crd.Spec.Scope == apiextensionsv1.NamespaceScoped, Versions: []string{v.Name}, Codec: v.of.codec,
		Discovered: verbs, Deprecation: v.deprecation(),
		PrepareCreate: v.prepareCreate, Validate: v.validate, ValidateWhole: true, WarnCreate: warnCreate,
		Strategy: registry.Strategy{PrepareUpdate: v.prepareUpdate, ValidateUpdate: v.validateUpdate, ValidateWhole: true, WarnUpdate: warnUpdate},
		Print:    v.print, OpenAPI: v.openAPI,
	}
	if crd.DeletionTimestamp != nil {
		r.Discovered = terminatingVerbs
	}
	if v.hasStatus() {
		r.Strategy.ResetFields = []string{"status"}
		r.Status = &registry.Strategy{PrepareUpdate: prepareStatus, ValidateUpdate: v.validateStatus, ValidateWhole: true,
			ResetFields: []string{"metadata", "spec"}}
	}
	if scale := v.scale(); scale != nil {
		r.Scale = scaleOf(scale)
	}
	if len(v.SelectableFields) > 0 {
		selectable := newSelectable(v.SelectableFields)
		r.Fields, r.FieldNames = selectable.of, selectable.names()
	}
	return r
}

func (v *versionOf) hasStatus() bool { return v.Subresources != nil && v.Subresources.Status != nil }

func (v *versionOf) scale() *apiextensionsv1.CustomResourceSubresourceScale {
	if v.Subresources == nil {
		return nil
	}
	return v.Subresources.Scale
}

// deprecation returns the warning for requests for a deprecated version.
func (v *versionOf) deprecation() string {
	if !v.Deprecated {
		return ""
	}
	if v.DeprecationWarning != nil {
		return *v.DeprecationWarning
	}
	crd := v.of.crd
	text := fmt.Sprintf("%s/%s %s is deprecated", crd.Spec.Group, v.Name, crd.Spec.Names.Kind)
	newest := ""
	for i := range crd.Spec.Versions {
		o := &crd.Spec.Versions[i]
		if o.Served && !o.Deprecated && version.CompareKubeAwareVersionStrings(v.Name, o.Name) < 0 &&
			(newest == "" || version.CompareKubeAwareVersionStrings(o.Name, newest) > 0) {
			newest = o.Name
		}
	}
	if newest != "" {
		text += fmt.Sprintf("; use %s/%s %s", crd.Spec.Group, newest, crd.Spec.Names.Kind)
	}
	return text
}
