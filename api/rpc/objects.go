package rpc

import (
	"bytes"
	"context"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// objectsServer implements the service Objects.
type objectsServer struct {
	kontikiv1.UnimplementedObjectsServer
	*Server
}

// operation is one call, or one operation of a transaction, before it is passed to the object service.
type operation struct {
	*objectsServer
	ctx      context.Context
	at       string // see begin
	request  *objects.Request
	warnings objects.Warnings
	// allowed means that the caller has been authorized.
	allowed bool
}

// begin looks up the kind of a call. at is the field of the message that has the kind, and possibly a namespace and a name:
// "object", "reference", or "" for the message itself.
func (s *objectsServer) begin(ctx context.Context, at string, kind *kontikiv1.Kind, subresource string) (*operation, error) {
	if kind.GetKind() == "" || kind.GetVersion() == "" {
		return nil, Wrong(join(at, "kind"), "the group, version and kind of the object must be given, such as {apps v1 Deployment}")
	}
	gvk := schema.GroupVersionKind{Group: kind.Group, Version: kind.Version, Kind: kind.Kind}
	if service := s.Aggregated.Now().Of(kind.Group, kind.Version); service != nil {
		return nil, Wrong(join(at, "kind"), "%s: %s", kind.Kind, service.Unreachable())
	}
	row, ok := s.Objects.Kinds().ByGVK(gvk)
	if !ok && s.CatchUp != nil && callerOf(ctx).user != auth.Anonymous {
		s.CatchUp(ctx)
		row, ok = s.Objects.Kinds().ByGVK(gvk)
	}
	if !ok {
		hint := ""
		if ctx.Value(definesKey{}) != nil {
			hint = objects.DefinedHere
		}
		return nil, Wrong(join(at, "kind"), "no matches for kind %q in version %q%s", kind.Kind, schema.GroupVersion{Group: kind.Group, Version: kind.Version}, hint)
	}
	o := &operation{objectsServer: s, ctx: ctx, at: at}
	o.request = &objects.Request{User: callerOf(ctx).user, Kind: row, Subresource: subresource, Warn: func(text string) { o.warnings.Add(text) }}
	if text := row.Deprecated(); text != "" {
		o.warnings.Add(text)
	}
	return o, nil
}

// on is begin for a named object.
func (s *objectsServer) on(ctx context.Context, ref *kontikiv1.Reference, subresource string) (*operation, error) {
	if ref == nil {
		return nil, Wrong("reference", "must be given")
	}
	o, err := s.begin(ctx, "reference", ref.Kind, subresource)
	if err != nil {
		return nil, err
	}
	if ref.Name == "" {
		return nil, Wrong("reference.name", "must be given")
	}
	o.request.Namespace, o.request.Name = ref.Namespace, ref.Name
	return o, nil
}

// scoped refuses a namespace that does not fit the kind, and invalid names: REST paths cannot contain them, and a check for the
// absence of such an object would always hold. Reads of collections need no namespace.
func (o *operation) scoped(needed bool) error {
	r := o.request
	switch {
	case !r.Kind.Namespaced && r.Namespace != "":
		return Wrong(join(o.at, "namespace"), "must be empty, a %s is in no namespace", r.Kind.Kind)
	case r.Kind.Namespaced && r.Namespace == "" && needed:
		return Wrong(join(o.at, "namespace"), "must be given for a %s", r.Kind.Kind)
	}
	if err := o.checkName("namespace", r.Namespace); err != nil {
		return err
	}
	return o.checkName("name", r.Name)
}

// checkName refuses an invalid name. Every call comes here, so the path is built only for errors.
func (o *operation) checkName(field, name string) error {
	if len(name) > maxTextBytes {
		return checkText(join(o.at, field), name)
	}
	if problems := content.IsPathSegmentName(name); len(problems) > 0 {
		return Wrong(join(o.at, field), "%q %s", name, strings.Join(problems, ", "))
	}
	return nil
}

// authorize checks whether the caller may do a verb on the request's target.
func (o *operation) authorize(verb string) error { return o.permitted(o.request.Attributes(verb)) }

// authorizeSelected is authorize for a collection with selectors, as the client sent them.
func (o *operation) authorizeSelected(verb, fields, labels string) error {
	if err := checkText("field_selector", fields); err != nil {
		return err
	}
	if err := checkText("label_selector", labels); err != nil {
		return err
	}
	a := o.request.Attributes(verb)
	auth.Select(a, fields, labels)
	if a.Name == "" && verb != "deletecollection" {
		a.Name = auth.SelectedName(fields)
	}
	return o.permitted(a)
}

func (o *operation) permitted(a *authorizer.AttributesRecord) error {
	if c := callerOf(o.ctx); c.as != nil {
		if err := c.as.On(o.ctx, o.Authorizer, c.sender, a); err != nil {
			return err
		}
	}
	err := audit.Authorize(o.ctx, o.Authorizer, a)
	o.allowed = err == nil
	if o.allowed && o.request.DryRun {
		audit.From(o.ctx).Annotate(audit.DryRunAnnotation, "true")
	}
	return err
}

// options sets the common options of writes in the request.
func (o *operation) options(w *kontikiv1.WriteOptions) {
	o.request.FieldManager = objects.FieldManager(w.GetFieldManager(), callerOf(o.ctx).userAgent)
	o.request.DryRun = w.GetDryRun()
}

// decode decodes an object that is to be written with a verb, completes the request's target with it, and authorizes. A caller who
// may not write learns only that, and not what is wrong with the object.
func (o *operation) decode(in *kontikiv1.Object, verb, validation string) (registry.Object, error) {
	r := o.request
	r.Namespace = in.GetNamespace()
	if verb != "create" {
		r.Name = in.GetName()
	}
	named := r.Namespace != "" && (r.Name != "" || verb == "create")
	if named || !r.Kind.Namespaced {
		if err := o.authorize(verb); err != nil {
			return nil, err
		}
	}
	obj, err := o.decodeData(in, objects.FieldValidation(validation))
	if err != nil {
		if !o.allowed {
			if refused := o.authorize(verb); refused != nil {
				return nil, refused
			}
		}
		return nil, err
	}
	if r.Namespace == "" && r.Kind.Namespaced {
		r.Namespace = obj.GetNamespace()
	}
	switch {
	case verb != "create" && r.Name == "":
		r.Name = obj.GetName()
	case in.GetName() != "" && obj.GetName() == "" && verb == "create":
		obj.SetName(in.GetName())
	}
	if !o.allowed || !named {
		if err := o.authorize(verb); err != nil {
			return nil, err
		}
	}
	if err := o.scoped(true); err != nil {
		return nil, err
	}
	if in.GetName() != "" && obj.GetName() != in.GetName() {
		return nil, Wrong("object.name", "%q is not the name in its data, %q", in.GetName(), obj.GetName())
	}
	return obj, nil
}

// envelopePrefix is the beginning of Kubernetes' own protobuf encoding, which is often sent by mistake.
var envelopePrefix = []byte("k8s\x00")

func (o *operation) decodeData(in *kontikiv1.Object, validation string) (registry.Object, error) {
	switch in.GetEncoding() {
	case kontikiv1.Encoding_ENCODING_UNSPECIFIED, kontikiv1.Encoding_ENCODING_PROTOBUF:
		if bytes.HasPrefix(in.GetData(), envelopePrefix) {
			return nil, Wrong("object.data", "must be the message of the kind alone, as its Marshal method writes it, without the envelope that begins with k8s\\0")
		}
		obj, err := o.Objects.DecodeBody(o.request, registry.Envelope(o.request.Kind.GVK(), in.GetData()), objects.Protobuf, validation)
		return obj, about("object.data", err)
	case kontikiv1.Encoding_ENCODING_JSON:
		obj, err := o.Objects.DecodeBody(o.request, in.Data, objects.JSON, validation)
		return obj, about("object.data", err)
	}
	return nil, Wrong("object.encoding", "%d is none of ENCODING_PROTOBUF, ENCODING_JSON", in.GetEncoding())
}

// failed adds to the object service's error the document of the message that it is about, and to a conflict the object's current
// resource version.
func (s *objectsServer) failed(r *objects.Request, document string, err error) error {
	err = about(document, err)
	if !apierrors.IsConflict(err) {
		return err
	}
	version := ""
	if v, ok := s.Objects.Store().View().Get(r.Kind.Key(r.Namespace, r.Name)); ok {
		version = objects.FormatRevision(v.ModRevision)
	}
	return &conflictError{err, version}
}

// checkEncoding refuses encodings that are not supported in responses.
func checkEncoding(e kontikiv1.Encoding) error {
	if e < kontikiv1.Encoding_ENCODING_UNSPECIFIED || e > kontikiv1.Encoding_ENCODING_JSON {
		return Wrong("encoding", "%d is none of ENCODING_PROTOBUF, ENCODING_JSON", e)
	}
	return nil
}

// maxTextBytes limits names and selectors.
const maxTextBytes = 64 << 10

// checkText refuses a text that is too long.
func checkText(name, text string) error {
	if len(text) > maxTextBytes {
		return Wrong(name, "must have at most %d bytes: %s...", maxTextBytes, strings.ToValidUTF8(text[:30], ""))
	}
	return nil
}
