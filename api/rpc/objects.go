package rpc

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// objectsServer is the service Objects.
type objectsServer struct {
	kontikiv1.UnimplementedObjectsServer
	*Server
}

// operation is one call, or one operation of a transaction, on its way to the object service.
type operation struct {
	*objectsServer
	ctx      context.Context
	request  *objects.Request
	warnings objects.Warnings
	// allowed says that the caller may do it.
	allowed bool
}

// begin finds the kind that a call is about.
func (s *objectsServer) begin(ctx context.Context, kind *kontikiv1.Kind, subresource string) (*operation, error) {
	if kind.GetKind() == "" || kind.GetVersion() == "" {
		return nil, apierrors.NewBadRequest("kind: the group, version and kind of the object must be given, such as {apps v1 Deployment}")
	}
	row, ok := s.Objects.Kinds().ByGVK(schema.GroupVersionKind{Group: kind.Group, Version: kind.Version, Kind: kind.Kind})
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("kind: no matches for kind %q in version %q", kind.Kind, schema.GroupVersion{Group: kind.Group, Version: kind.Version}))
	}
	o := &operation{objectsServer: s, ctx: ctx}
	o.request = &objects.Request{User: callerOf(ctx).user, Kind: row, Subresource: subresource, Warn: func(text string) { o.warnings.Add(text) }}
	return o, nil
}

// on is begin for one object that is named.
func (s *objectsServer) on(ctx context.Context, ref *kontikiv1.Reference, subresource string) (*operation, error) {
	if ref == nil {
		return nil, apierrors.NewBadRequest("reference: must be given")
	}
	o, err := s.begin(ctx, ref.Kind, subresource)
	if err != nil {
		return nil, err
	}
	if ref.Name == "" {
		return nil, apierrors.NewBadRequest("reference.name: must be given")
	}
	o.request.Namespace, o.request.Name = ref.Namespace, ref.Name
	return o, nil
}

// scoped refuses a namespace that does not go with the kind. Reads of collections need none.
func (o *operation) scoped(needed bool) error {
	r := o.request
	switch {
	case !r.Kind.Namespaced && r.Namespace != "":
		return apierrors.NewBadRequest(fmt.Sprintf("namespace: must be empty, a %s is in no namespace", r.Kind.Kind))
	case r.Kind.Namespaced && r.Namespace == "" && needed:
		return apierrors.NewBadRequest(fmt.Sprintf("namespace: must be given for a %s", r.Kind.Kind))
	}
	return nil
}

// authorize asks whether the caller may do a verb on what the request names.
func (o *operation) authorize(verb string) error {
	r := o.request
	err := audit.Authorize(o.ctx, o.Authorizer, auth.Attributes{User: r.User, Verb: verb, Group: r.Kind.Group, Resource: r.Kind.Resource,
		Subresource: r.Subresource, Namespace: r.Namespace, Name: r.Name})
	o.allowed = err == nil
	if o.allowed && r.DryRun {
		audit.From(o.ctx).Annotate(audit.DryRunAnnotation, "true")
	}
	return err
}

// options puts the common options of writes into the request.
func (o *operation) options(w *kontikiv1.WriteOptions) {
	o.request.FieldManager = objects.FieldManager(w.GetFieldManager(), callerOf(o.ctx).userAgent)
	o.request.DryRun = w.GetDryRun()
}

// decode reads an object that is to be written with a verb, completes the request by what it names, and authorizes. Who may
// not write learns that, and not what is wrong with the object.
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
		return nil, apierrors.NewBadRequest(fmt.Sprintf("object.name: %q is not the name in its data, %q", in.GetName(), obj.GetName()))
	}
	return obj, nil
}

// envelopePrefix begins Kubernetes' own protobuf encoding, which people send by mistake.
var envelopePrefix = []byte("k8s\x00")

func (o *operation) decodeData(in *kontikiv1.Object, validation string) (registry.Object, error) {
	switch in.GetEncoding() {
	case kontikiv1.Encoding_ENCODING_UNSPECIFIED, kontikiv1.Encoding_ENCODING_PROTOBUF:
		if bytes.HasPrefix(in.GetData(), envelopePrefix) {
			return nil, apierrors.NewBadRequest("object.data: must be the message of the kind alone, as its Marshal method writes it, without the envelope that begins with k8s\\0")
		}
		return o.Objects.DecodeBody(o.request, objects.Envelope(o.request.Kind, in.GetData()), objects.Protobuf, validation)
	case kontikiv1.Encoding_ENCODING_JSON:
		return o.Objects.DecodeBody(o.request, in.Data, objects.JSON, validation)
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("object.encoding: %d is none of ENCODING_PROTOBUF, ENCODING_JSON", in.GetEncoding()))
}

// conflicting adds to a conflict what the object is at now.
func (s *objectsServer) conflicting(r *objects.Request, err error) error {
	if !apierrors.IsConflict(err) {
		return err
	}
	version := ""
	if v, ok := s.Objects.Store().View().Get(r.Kind.Key(r.Namespace, r.Name)); ok {
		version = objects.FormatRevision(v.ModRevision)
	}
	return &conflictError{err, version}
}

// checkEncoding refuses what no answer can be encoded in.
func checkEncoding(e kontikiv1.Encoding) error {
	if e < kontikiv1.Encoding_ENCODING_UNSPECIFIED || e > kontikiv1.Encoding_ENCODING_JSON {
		return apierrors.NewBadRequest(fmt.Sprintf("encoding: %d is none of ENCODING_PROTOBUF, ENCODING_JSON", e))
	}
	return nil
}

// checkText refuses a text that is as long as only a mistake or an attack makes it.
func checkText(name, text string) error {
	const most = 64 << 10
	if len(text) > most {
		return apierrors.NewBadRequest(fmt.Sprintf("%s: must have at most %d bytes: %s...", name, most, strings.ToValidUTF8(text[:30], "")))
	}
	return nil
}
