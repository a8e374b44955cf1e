package builtin

import (
	"context"
	"fmt"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	apiservervalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/kontiki/kontiki/api/registry"
)

// customResourceDefinitions follows k8s.io/apiextensions-apiserver/pkg/registry/customresourcedefinition. The accepted names and the
// conditions are set by an allocator, package definitions.
func customResourceDefinitions() *registry.Resource {
	return &registry.Resource{
		Group: apiextensions.GroupName, Kind: "CustomResourceDefinition", Resource: "customresourcedefinitions",
		ShortNames: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
		Codec: registry.ExtensionCodec(),
		PrepareCreate: preparer(func(crd *apiextensions.CustomResourceDefinition) {
			crd.Status = apiextensions.CustomResourceDefinitionStatus{}
			crd.Generation = 1
			addStoredVersion(crd)
		}),
		Validate: func(ctx context.Context, obj runtime.Object) field.ErrorList {
			return validation.ValidateCustomResourceDefinition(ctx, obj.(*apiextensions.CustomResourceDefinition))
		},
		WarnCreate: warner(func(_ context.Context, crd *apiextensions.CustomResourceDefinition) []string {
			return definitionWarnings(crd, nil)
		}),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(crd, old *apiextensions.CustomResourceDefinition) {
				crd.Status = old.Status
				if !apiequality.Semantic.DeepEqual(old.Spec, crd.Spec) {
					crd.Generation = old.Generation + 1
				}
				addStoredVersion(crd)
			}),
			ValidateUpdate: func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
				return validation.ValidateCustomResourceDefinitionUpdate(ctx, obj.(*apiextensions.CustomResourceDefinition), old.(*apiextensions.CustomResourceDefinition))
			},
			WarnUpdate: changeWarner(func(_ context.Context, crd, old *apiextensions.CustomResourceDefinition) []string {
				return definitionWarnings(crd, old)
			}),
			ResetFields: []string{"status"},
		},
		Status: &registry.Strategy{
			PrepareUpdate: updater(func(crd, old *apiextensions.CustomResourceDefinition) { crd.Spec = old.Spec }),
			ValidateUpdate: func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
				return validation.ValidateUpdateCustomResourceDefinitionStatus(ctx, obj.(*apiextensions.CustomResourceDefinition), old.(*apiextensions.CustomResourceDefinition))
			},
			ResetFields: []string{"spec"},
		},
		BeginDelete: beginDeleteDefinition,
	}
}

// addStoredVersion adds the storage version to those in which objects may be stored.
func addStoredVersion(crd *apiextensions.CustomResourceDefinition) {
	for _, v := range crd.Spec.Versions {
		if v.Storage {
			if !apiextensions.IsStoredVersion(crd, v.Name) {
				crd.Status.StoredVersions = append(crd.Status.StoredVersions, v.Name)
			}
			return
		}
	}
}

// beginDeleteDefinition keeps a definition until its objects are deleted.
func beginDeleteDefinition(obj registry.Object) {
	crd := obj.(*apiextensionsv1.CustomResourceDefinition)
	finalizers := sets.New(crd.Finalizers...)
	if !finalizers.Has(apiextensionsv1.CustomResourceCleanupFinalizer) {
		crd.Finalizers = append(crd.Finalizers, apiextensionsv1.CustomResourceCleanupFinalizer)
	}
	SetDefinitionCondition(crd, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, Reason: "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	})
}

// SetDefinitionCondition sets a condition of a CustomResourceDefinition, and says whether that changes it.
func SetDefinitionCondition(crd *apiextensionsv1.CustomResourceDefinition, c apiextensionsv1.CustomResourceDefinitionCondition) bool {
	for i := range crd.Status.Conditions {
		have := &crd.Status.Conditions[i]
		if have.Type != c.Type {
			continue
		}
		c.LastTransitionTime = have.LastTransitionTime
		if have.Status != c.Status {
			c.LastTransitionTime = metav1.Now()
		}
		changed := have.Status != c.Status || have.Reason != c.Reason || have.Message != c.Message
		if changed {
			*have = c
		}
		return changed
	}
	c.LastTransitionTime = metav1.Now()
	crd.Status.Conditions = append(crd.Status.Conditions, c)
	return true
}

// definitionWarnings returns upstream's warnings for what a definition has and its earlier state, which may be nil, had not.
func definitionWarnings(crd, old *apiextensions.CustomResourceDefinition) (warnings []string) {
	formats, sets := questionable(&crd.Spec)
	known := map[string]bool{}
	if old != nil {
		formats, sets := questionable(&old.Spec)
		for _, text := range append(formats, sets...) {
			known[text] = true
		}
	}
	for _, text := range append(formats, sets...) {
		if !known[text] {
			warnings = append(warnings, text)
		}
	}
	return warnings
}

// questionable returns warnings about unknown formats, and about sets of what are not scalars.
func questionable(definition *apiextensions.CustomResourceDefinitionSpec) (formats, setTypes []string) {
	version := environment.DefaultCompatibilityVersion()
	seen := sets.New[string]()
	visit := func(s *apiextensions.JSONSchemaProps) bool {
		if s.Format != "" {
			for _, format := range apiservervalidation.GetUnrecognizedFormats(&spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}, version) {
				formats = append(formats, fmt.Sprintf("unrecognized format %q", format))
			}
		}
		if s.XListType != nil && *s.XListType == "set" && s.Items != nil && s.Items.Schema != nil && (s.Items.Schema.Type == "object" || s.Items.Schema.Type == "array") {
			seen.Insert(fmt.Sprintf("x-kubernetes-list-type: set for items of type %q is not supported by server-side apply or CEL validation rules", s.Items.Schema.Type))
		}
		return false
	}
	if definition.Validation != nil && definition.Validation.OpenAPIV3Schema != nil {
		validation.SchemaHas(definition.Validation.OpenAPIV3Schema, visit)
	}
	for _, v := range definition.Versions {
		if v.Schema != nil && v.Schema.OpenAPIV3Schema != nil {
			validation.SchemaHas(v.Schema.OpenAPIV3Schema, visit)
		}
	}
	return formats, sets.List(seen)
}
