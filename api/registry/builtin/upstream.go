package builtin

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/kontiki/kontiki/api/registry"
)

// upstreamStrategy is what a strategy package of upstream exports (k8s.io/kubernetes/pkg/registry/<group>/<kind>).
type upstreamStrategy interface {
	rest.RESTCreateStrategy
	rest.RESTUpdateStrategy
}

// follow completes a row with the rules of an upstream strategy and, if the kind has a status, of that of its status. It is used for
// all kinds whose strategy package does not reach the serving stack.
func follow(r *registry.Resource, main upstreamStrategy, status rest.RESTUpdateStrategy) *registry.Resource {
	r.Namespaced = main.NamespaceScoped()
	ctx := genericapirequest.WithRequestInfo(context.Background(), &genericapirequest.RequestInfo{APIGroup: r.Group, APIVersion: "v1"})
	r.AllowCreateOnUpdate, r.AllowUnconditionalUpdate = main.AllowCreateOnUpdate(ctx), main.AllowUnconditionalUpdate(ctx)
	r.PrepareCreate = main.PrepareForCreate
	r.WarnCreate = main.WarningsOnCreate
	r.Validate, r.ValidateWhole = func(ctx context.Context, obj runtime.Object) field.ErrorList {
		return rest.ValidateCreate(ctx, obj, main)
	}, true
	r.Strategy = *following(main)
	if status != nil {
		r.Status = following(status)
	}
	if collected, ok := main.(rest.GarbageCollectionDeleteStrategy); ok {
		r.OrphanByDefault = collected.DefaultGarbageCollectionPolicy(ctx) == rest.OrphanDependents
	}
	return r
}

// following returns the strategy of one kind of update that an upstream strategy describes.
func following(s rest.RESTUpdateStrategy) *registry.Strategy {
	out := &registry.Strategy{
		PrepareUpdate: s.PrepareForUpdate,
		WarnUpdate:    s.WarningsOnUpdate,
		ValidateUpdate: func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
			return rest.ValidateUpdate(ctx, obj, old, s)
		},
		ValidateWhole: true,
	}
	resets, ok := s.(rest.ResetFieldsStrategy)
	if !ok {
		return out
	}
	for _, set := range resets.GetResetFields() {
		set.Iterate(func(p fieldpath.Path) { out.ResetFields = append(out.ResetFields, dotted(p)) })
		break // those of all versions have the same names
	}
	return out
}

// dotted returns a path of fields in the form of Strategy.ResetFields.
func dotted(p fieldpath.Path) string {
	text := ""
	for i, element := range p {
		if i > 0 {
			text += "."
		}
		text += *element.FieldName
	}
	return text
}
