package rest

//lint:file-ignore SA1019 clients may still send deprecated options, and the API must honour them

import (
	"fmt"
	"mime"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metascheme "k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme"
	internalvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/objects"
)

var metaV1 = schema.GroupVersion{Version: "v1"}

// options decodes query parameters into an options object.
func (c *call) options(into runtime.Object) error {
	if err := metascheme.ParameterCodec.DecodeParameters(c.r.URL.Query(), metav1.SchemeGroupVersion, into); err != nil {
		return apierrors.NewBadRequest(err.Error())
	}
	return nil
}

func (c *call) get() error {
	accept, err := c.negotiate()
	if err != nil {
		return err
	}
	v, err := c.Objects.Get(c.r.Context(), c.request("", nil), c.r.URL.Query().Get("resourceVersion"))
	if err != nil {
		return err
	}
	return c.writeVersion(accept, http.StatusOK, v)
}

func (c *call) listOptions() (*internalversion.ListOptions, objects.ListOptions, error) {
	var o internalversion.ListOptions
	if err := c.options(&o); err != nil {
		return nil, objects.ListOptions{}, err
	}
	if errs := internalvalidation.ValidateListOptions(&o, true); len(errs) > 0 {
		return nil, objects.ListOptions{}, objects.Invalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	return &o, objects.ListOptions{
		Labels: o.LabelSelector, Fields: o.FieldSelector, Limit: o.Limit, Continue: o.Continue,
		ResourceVersion: o.ResourceVersion, ResourceVersionMatch: o.ResourceVersionMatch,
	}, nil
}

func (c *call) list() error {
	accept, err := c.negotiate()
	if err != nil {
		return err
	}
	_, o, err := c.listOptions()
	if err != nil {
		return err
	}
	result, err := c.Objects.List(c.r.Context(), c.request("", nil), o)
	if err != nil {
		return err
	}
	return c.writeList(accept, result)
}

func (c *call) create() error {
	if c.target.name != "" || (c.kind.Namespaced && c.target.namespace == "") {
		return apierrors.NewMethodNotSupported(c.kind.GroupResource(), "create")
	}
	accept, err := negotiateOf(c.r, offered{tables: c.kind.Stored(), protobuf: c.kind.Codec.Protobuf()}) // a review has no columns, so it is no table
	if err != nil {
		return err
	}
	var o metav1.CreateOptions
	if err := c.options(&o); err != nil {
		return err
	}
	if errs := metav1validation.ValidateCreateOptions(&o); len(errs) > 0 {
		return objects.Invalid(schema.GroupKind{Group: metav1.GroupName, Kind: "CreateOptions"}, "", errs)
	}
	r := c.request(o.FieldManager, o.DryRun)
	obj, err := c.decode(r, objects.FieldValidation(o.FieldValidation))
	if err != nil {
		return err
	}
	created, err := c.Objects.Create(c.r.Context(), r, obj)
	if err != nil {
		return err
	}
	c.record.About(created)
	return c.writeWritten(accept, http.StatusCreated, r, created)
}

func (c *call) decode(r *objects.Request, validation string) (obj objectOf, err error) {
	encoding, err := bodyEncoding(c.r)
	if err != nil {
		return nil, err
	}
	data, err := c.body()
	if err != nil {
		return nil, err
	}
	if obj, err = c.Objects.DecodeBody(r, data, encoding, validation); err == nil {
		c.record.Request(obj)
	}
	return obj, err
}

func (c *call) update() error {
	if c.target.name == "" {
		return apierrors.NewMethodNotSupported(c.kind.GroupResource(), "update")
	}
	accept, err := c.negotiate()
	if err != nil {
		return err
	}
	var o metav1.UpdateOptions
	if err := c.options(&o); err != nil {
		return err
	}
	if errs := metav1validation.ValidateUpdateOptions(&o); len(errs) > 0 {
		return objects.Invalid(schema.GroupKind{Group: metav1.GroupName, Kind: "UpdateOptions"}, "", errs)
	}
	r := c.request(o.FieldManager, o.DryRun)
	obj, err := c.decode(r, objects.FieldValidation(o.FieldValidation))
	if err != nil {
		return err
	}
	updated, created, err := c.Objects.Update(c.r.Context(), r, obj)
	if err != nil {
		return err
	}
	return c.writeWritten(accept, statusOf(created), r, updated)
}

func statusOf(created bool) int {
	if created {
		return http.StatusCreated
	}
	return http.StatusOK
}

func (c *call) patch() error {
	if c.target.name == "" {
		return apierrors.NewMethodNotSupported(c.kind.GroupResource(), "patch")
	}
	accept, err := c.negotiate()
	if err != nil {
		return err
	}
	r, patch, err := c.readPatch()
	if err != nil {
		return err
	}
	obj, created, err := c.Objects.Patch(c.r.Context(), r, patch)
	if err != nil {
		return err
	}
	return c.writeWritten(accept, statusOf(created), r, obj)
}

func (c *call) readPatch() (*objects.Request, objects.Patch, error) {
	var o metav1.PatchOptions
	if err := c.options(&o); err != nil {
		return nil, objects.Patch{}, err
	}
	media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	patchType := types.PatchType(media)
	switch patchType {
	case types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType:
	default:
		err = fmt.Errorf("unknown patch type %q", media)
	}
	if err != nil {
		return nil, objects.Patch{}, unsupportedMedia(fmt.Sprintf("the body of the request was in an unknown format - accepted media types include: %s, %s, %s, %s",
			types.JSONPatchType, types.MergePatchType, types.StrategicMergePatchType, types.ApplyYAMLPatchType))
	}
	if errs := metav1validation.ValidatePatchOptions(&o, patchType); len(errs) > 0 {
		return nil, objects.Patch{}, objects.Invalid(schema.GroupKind{Group: metav1.GroupName, Kind: "PatchOptions"}, "", errs)
	}
	data, err := c.body()
	if err != nil {
		return nil, objects.Patch{}, err
	}
	patch := objects.Patch{Type: patchType, Data: data, Force: o.Force != nil && *o.Force, Validation: objects.FieldValidation(o.FieldValidation)}
	c.record.Patch(patch)
	return c.request(o.FieldManager, o.DryRun), patch, nil
}

// deleteOptions reads the options from the body or, without one, from query parameters.
func (c *call) deleteOptions() (*metav1.DeleteOptions, error) {
	data, err := c.body()
	if err != nil {
		return nil, err
	}
	o := &metav1.DeleteOptions{}
	if len(data) == 0 {
		if err := c.options(o); err != nil {
			return nil, err
		}
	} else {
		encoding, err := bodyEncoding(c.r)
		if err != nil {
			return nil, err
		}
		if o, err = decodeDeleteOptions(data, encoding); err != nil {
			return nil, err
		}
	}
	if errs := metav1validation.ValidateDeleteOptions(o); len(errs) > 0 {
		return nil, objects.Invalid(schema.GroupKind{Group: metav1.GroupName, Kind: "DeleteOptions"}, "", errs)
	}
	c.record.DeleteOptions(o)
	return o, nil
}

func (c *call) delete() error {
	accept, err := c.negotiate()
	if err != nil {
		return err
	}
	o, err := c.deleteOptions()
	if err != nil {
		return err
	}
	unreadable := ptr.Deref(o.IgnoreStoreReadErrorWithClusterBreakingPotential, false)
	if unreadable {
		c.record.Annotate(audit.UnsafeDeleteAnnotation, "")
	}
	obj, gone, err := c.Objects.Delete(c.r.Context(), c.request("", o.DryRun), o)
	if err != nil {
		return err
	}
	if !gone && o.OrphanDependents != nil && !*o.OrphanDependents {
		return c.writeObject(accept, http.StatusAccepted, obj)
	}
	if !gone || c.kind.ReturnDeleted && !unreadable {
		return c.writeObject(accept, http.StatusOK, obj)
	}
	deleted := objects.Deleted(c.kind, obj)
	c.record.Status(deleted)
	return c.writeOther(accept, http.StatusOK, deleted)
}

func (c *call) deleteCollection() error {
	if c.kind.Namespaced && c.target.namespace == "" {
		return apierrors.NewMethodNotSupported(c.kind.GroupResource(), "deletecollection")
	}
	accept, err := c.negotiate()
	if err != nil {
		return err
	}
	_, list, err := c.listOptions()
	if err != nil {
		return err
	}
	o, err := c.deleteOptions()
	if err != nil {
		return err
	}
	items, err := c.Objects.DeleteCollection(c.r.Context(), c.request("", o.DryRun), o, list)
	if err != nil {
		return err
	}
	return c.writeList(accept, &objects.ListResult{Items: items, Revision: c.Objects.Store().View().Revision()})
}
