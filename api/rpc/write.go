package rpc

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// optionsInvalid returns REST's error for invalid options.
func optionsInvalid(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return objects.Invalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// prepareCreate, and the same for the other writes, convert a message to the object service's parameters. Calls and operations of
// transactions share them.
func (s *objectsServer) prepareCreate(ctx context.Context, in *kontikiv1.CreateRequest) (*operation, registry.Object, error) {
	o, err := s.begin(ctx, "object", in.GetObject().GetKind(), "")
	if err != nil {
		return nil, nil, err
	}
	o.options(in.Options)
	obj, err := o.decode(in.Object, "create", in.GetOptions().GetFieldValidation())
	if err != nil {
		return nil, nil, err
	}
	err = optionsInvalid("CreateOptions", metav1validation.ValidateCreateOptions(&metav1.CreateOptions{
		FieldManager: in.GetOptions().GetFieldManager(), FieldValidation: in.GetOptions().GetFieldValidation()}))
	if err != nil {
		return nil, nil, err
	}
	audit.From(ctx).Request(obj)
	return o, obj, nil
}

func (s *objectsServer) prepareUpdate(ctx context.Context, in *kontikiv1.UpdateRequest) (*operation, registry.Object, error) {
	o, err := s.begin(ctx, "object", in.GetObject().GetKind(), in.Subresource)
	if err != nil {
		return nil, nil, err
	}
	o.options(in.Options)
	obj, err := o.decode(in.Object, "update", in.GetOptions().GetFieldValidation())
	if err != nil {
		return nil, nil, err
	}
	err = optionsInvalid("UpdateOptions", metav1validation.ValidateUpdateOptions(&metav1.UpdateOptions{
		FieldManager: in.GetOptions().GetFieldManager(), FieldValidation: in.GetOptions().GetFieldValidation()}))
	if err != nil {
		return nil, nil, err
	}
	audit.From(ctx).Request(obj)
	return o, obj, nil
}

var patchTypes = map[kontikiv1.PatchType]types.PatchType{
	kontikiv1.PatchType_PATCH_TYPE_JSON: types.JSONPatchType, kontikiv1.PatchType_PATCH_TYPE_MERGE: types.MergePatchType,
	kontikiv1.PatchType_PATCH_TYPE_STRATEGIC: types.StrategicMergePatchType,
}

func (s *objectsServer) preparePatch(ctx context.Context, in *kontikiv1.PatchRequest) (*operation, objects.Patch, error) {
	patch := objects.Patch{Type: patchTypes[in.Type], Data: in.Patch}
	if patch.Type == "" {
		return nil, patch, Wrong("type", "must be one of PATCH_TYPE_JSON, PATCH_TYPE_MERGE, PATCH_TYPE_STRATEGIC")
	}
	return s.changing(ctx, in.Reference, in.Subresource, in.Options, patch)
}

func (s *objectsServer) prepareApply(ctx context.Context, in *kontikiv1.ApplyRequest) (*operation, objects.Patch, error) {
	return s.changing(ctx, in.Reference, in.Subresource, in.Options, objects.Patch{Type: types.ApplyYAMLPatchType, Data: in.Configuration, Force: in.Force})
}

func (s *objectsServer) changing(ctx context.Context, ref *kontikiv1.Reference, subresource string, w *kontikiv1.WriteOptions, patch objects.Patch) (*operation, objects.Patch, error) {
	o, err := s.on(ctx, ref, subresource)
	if err != nil {
		return nil, patch, err
	}
	o.options(w)
	if err := o.authorize("patch"); err != nil {
		return nil, patch, err
	}
	if err := o.scoped(true); err != nil {
		return nil, patch, err
	}
	patch.Validation = objects.FieldValidation(w.GetFieldValidation())
	options := &metav1.PatchOptions{FieldManager: w.GetFieldManager(), FieldValidation: w.GetFieldValidation()}
	if patch.Force {
		options.Force = &patch.Force
	}
	if err := optionsInvalid("PatchOptions", metav1validation.ValidatePatchOptions(options, patch.Type)); err != nil {
		return nil, patch, err
	}
	audit.From(ctx).Patch(patch)
	return o, patch, nil
}

func (s *objectsServer) prepareDelete(ctx context.Context, in *kontikiv1.DeleteRequest) (*operation, *metav1.DeleteOptions, error) {
	o, err := s.on(ctx, in.Reference, "")
	if err != nil {
		return nil, nil, err
	}
	o.options(in.Options)
	if err := o.authorize("delete"); err != nil {
		return nil, nil, err
	}
	if err := o.scoped(true); err != nil {
		return nil, nil, err
	}
	options, err := deleteOptions(in.DeleteOptions, in.Options)
	if err != nil {
		return nil, nil, err
	}
	audit.From(ctx).DeleteOptions(options)
	return o, options, nil
}

func deleteOptions(in *kontikiv1.DeleteOptions, w *kontikiv1.WriteOptions) (*metav1.DeleteOptions, error) {
	out := &metav1.DeleteOptions{}
	if w.GetDryRun() {
		out.DryRun = []string{metav1.DryRunAll}
	}
	if in != nil {
		out.GracePeriodSeconds = in.GracePeriodSeconds
		if in.PropagationPolicy != "" {
			policy := metav1.DeletionPropagation(in.PropagationPolicy)
			out.PropagationPolicy = &policy
		}
		if in.Uid != "" || in.ResourceVersion != "" {
			out.Preconditions = &metav1.Preconditions{}
		}
		if in.Uid != "" {
			uid := types.UID(in.Uid)
			out.Preconditions.UID = &uid
		}
		if in.ResourceVersion != "" {
			out.Preconditions.ResourceVersion = &in.ResourceVersion
		}
	}
	return out, optionsInvalid("DeleteOptions", metav1validation.ValidateDeleteOptions(out))
}

// Create implements kontikiv1.ObjectsServer.
func (s *objectsServer) Create(ctx context.Context, in *kontikiv1.CreateRequest) (*kontikiv1.CreateResponse, error) {
	o, obj, err := s.prepareCreate(ctx, in)
	if err != nil {
		return nil, err
	}
	e, err := o.encoder(in.Object.Encoding)
	if err != nil {
		return nil, err
	}
	created, err := s.Objects.Create(ctx, o.request, obj)
	if err != nil {
		return nil, s.failed(o.request, "object.data", err)
	}
	record := audit.From(ctx)
	record.About(created)
	out := &kontikiv1.CreateResponse{Warnings: o.warnings.Texts()}
	out.Object, err = e.written(o.request, record, created)
	return out, err
}

// Update implements kontikiv1.ObjectsServer.
func (s *objectsServer) Update(ctx context.Context, in *kontikiv1.UpdateRequest) (*kontikiv1.UpdateResponse, error) {
	o, obj, err := s.prepareUpdate(ctx, in)
	if err != nil {
		return nil, err
	}
	e, err := o.encoder(in.Object.Encoding)
	if err != nil {
		return nil, err
	}
	updated, created, err := s.Objects.Update(ctx, o.request, obj)
	if err != nil {
		return nil, s.failed(o.request, "object.data", err)
	}
	out := &kontikiv1.UpdateResponse{Created: created, Warnings: o.warnings.Texts()}
	out.Object, err = e.written(o.request, audit.From(ctx), updated)
	return out, err
}

// Patch implements kontikiv1.ObjectsServer.
func (s *objectsServer) Patch(ctx context.Context, in *kontikiv1.PatchRequest) (*kontikiv1.PatchResponse, error) {
	o, patch, err := s.preparePatch(ctx, in)
	if err != nil {
		return nil, err
	}
	e, err := o.encoder(in.Encoding)
	if err != nil {
		return nil, err
	}
	obj, _, err := s.Objects.Patch(ctx, o.request, patch)
	if err != nil {
		return nil, s.failed(o.request, "patch", err)
	}
	out := &kontikiv1.PatchResponse{Warnings: o.warnings.Texts()}
	out.Object, err = e.written(o.request, audit.From(ctx), obj)
	return out, err
}

// Apply implements kontikiv1.ObjectsServer.
func (s *objectsServer) Apply(ctx context.Context, in *kontikiv1.ApplyRequest) (*kontikiv1.ApplyResponse, error) {
	o, patch, err := s.prepareApply(ctx, in)
	if err != nil {
		return nil, err
	}
	e, err := o.encoder(in.Encoding)
	if err != nil {
		return nil, err
	}
	obj, created, err := s.Objects.Patch(ctx, o.request, patch)
	if err != nil {
		return nil, s.failed(o.request, "configuration", err)
	}
	out := &kontikiv1.ApplyResponse{Created: created, Warnings: o.warnings.Texts()}
	out.Object, err = e.written(o.request, audit.From(ctx), obj)
	return out, err
}

// Delete implements kontikiv1.ObjectsServer.
func (s *objectsServer) Delete(ctx context.Context, in *kontikiv1.DeleteRequest) (*kontikiv1.DeleteResponse, error) {
	o, options, err := s.prepareDelete(ctx, in)
	if err != nil {
		return nil, err
	}
	e, err := o.encoder(in.Encoding)
	if err != nil {
		return nil, err
	}
	obj, gone, err := s.Objects.Delete(ctx, o.request, options)
	if err != nil {
		return nil, s.failed(o.request, "", err)
	}
	record := audit.From(ctx)
	if gone && !o.request.Kind.ReturnDeleted {
		record.Status(objects.Deleted(o.request.Kind, obj)) // with which REST responds
	}
	record.Response(obj)
	out := &kontikiv1.DeleteResponse{Gone: gone}
	out.Object, err = e.object(obj)
	return out, err
}

// DeleteCollection implements kontikiv1.ObjectsServer.
func (s *objectsServer) DeleteCollection(ctx context.Context, in *kontikiv1.DeleteCollectionRequest) (*kontikiv1.DeleteCollectionResponse, error) {
	o, err := s.begin(ctx, "", in.Kind, "")
	if err != nil {
		return nil, err
	}
	r := o.request
	r.Namespace = in.Namespace
	o.options(in.Options)
	if err := o.authorizeSelected("deletecollection", in.FieldSelector, in.LabelSelector); err != nil {
		return nil, err
	}
	if err := o.scoped(true); err != nil {
		return nil, err
	}
	e, err := o.encoder(in.Encoding)
	if err != nil {
		return nil, err
	}
	var raw internalversion.ListOptions
	if err := selection(in.LabelSelector, in.FieldSelector, &raw, false); err != nil {
		return nil, err
	}
	options, err := deleteOptions(in.DeleteOptions, in.Options)
	if err != nil {
		return nil, err
	}
	record := audit.From(ctx)
	record.DeleteOptions(options)
	items, err := s.Objects.DeleteCollection(ctx, r, options, objects.ListOptions{Labels: raw.LabelSelector, Fields: raw.FieldSelector})
	if err != nil {
		return nil, err
	}
	if record.WantsResponse() {
		revision := objects.FormatRevision(s.Objects.Store().View().Revision())
		if err := s.recordList(record, r.Kind, items, &metav1.ListMeta{ResourceVersion: revision}); err != nil {
			return nil, err
		}
	}
	out := &kontikiv1.DeleteCollectionResponse{Objects: make([]*kontikiv1.Object, len(items))}
	for i, v := range items {
		if out.Objects[i], err = e.version(v); err != nil {
			return nil, err
		}
	}
	return out, nil
}
