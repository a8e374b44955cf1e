// Package typecheck checks the expressions of ValidatingAdmissionPolicies against the schemas of what they are about, for the policies'
// status. The checks are upstream's (k8s.io/apiserver/pkg/admission/plugin/policy/validating).
package typecheck

import (
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/kontiki/kontiki/api/openapi"
	"github.com/kontiki/kontiki/api/registry"
)

// Check returns warnings about the types in a policy's expressions. What the policy is about is resolved by the table.
func Check(table *registry.Table, policy *admissionv1.ValidatingAdmissionPolicy) []admissionv1.ExpressionWarning {
	checker := validating.TypeChecker{SchemaResolver: schemas{table}, RestMapper: mapper{table: table}}
	return checker.Check(policy)
}

// schemas resolve the schemas of a table's kinds.
type schemas struct{ table *registry.Table }

// ResolveSchema implements resolver.SchemaResolver.
func (s schemas) ResolveSchema(gvk schema.GroupVersionKind) (*spec.Schema, error) {
	kind, ok := s.table.ByGVK(gvk)
	if !ok {
		return nil, fmt.Errorf("cannot resolve %s: %w", gvk, resolver.ErrSchemaNotFound)
	}
	return openapi.Schema(kind)
}

// mapper has the kinds of a table's resources.
type mapper struct {
	meta.RESTMapper
	table *registry.Table
}

// KindsFor implements the part of meta.RESTMapper that upstream's checks use.
func (m mapper) KindsFor(resource schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	kind, ok := m.table.ByResource(resource.Group, resource.Version, resource.Resource)
	if !ok {
		return nil, &meta.NoResourceMatchError{PartialResource: resource}
	}
	return []schema.GroupVersionKind{kind.GVK()}, nil
}
