package rpc

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// attempt returns the call in the audit log's form. Without a message that names an object it is a request for a path: that of the
// equivalent REST request, or else the method's.
func (c *caller) attempt(message any) audit.Attempt {
	a := audit.Attempt{HTTP: c.r, ID: c.id, Received: c.received, LongRunning: c.method.longRunning, Attributes: c.attributes(message)}
	a.Attributes.User = c.sender
	return a
}

// attributes returns the attributes of the call, without its user.
func (c *caller) attributes(message any) authorizer.AttributesRecord {
	if c.about != nil {
		return *c.about
	}
	a, ok := c.describe(message)
	if !ok {
		a.Path = c.method.path
		switch {
		case c.r.URL.Path == kontikiv1.Objects_Transact_FullMethodName:
			a.Path = objects.TransactionsPath
		case a.Path == "":
			a.Path = c.r.URL.Path
		}
	}
	a.Verb = c.method.verb
	if message != nil {
		c.about = &a
	}
	return a
}

// begin starts recording the call, with its first message if that has been read.
func (c *caller) begin(message any) {
	if c.Audit == nil || c.record != nil {
		return
	}
	c.record = c.Audit.Begin(c.attempt(message))
	c.record.Impersonated(c.as)
}

func (c *caller) unauthenticated(err error) {
	if c.Audit != nil {
		c.Audit.Unauthenticated(c.attempt(nil), objects.StatusOf(err))
	}
}

// refuse records a call that is refused before it is served.
func (c *caller) refuse(err error) {
	c.begin(nil)
	c.finish(nil, err)
}

// finish records how a call ended.
func (c *caller) finish(answer any, err error) {
	code := http.StatusOK
	switch a := answer.(type) {
	case *kontikiv1.CreateResponse:
		code = http.StatusCreated
	case interface{ GetCreated() bool }:
		if a.GetCreated() {
			code = http.StatusCreated
		}
	}
	if err != nil {
		err = recordable(err)
	}
	if c.Metrics != nil {
		c.ended(cmp.Or(httpCode(err), code))
	}
	if c.record.Recording() {
		c.record.Finish(code, err)
	}
}

// over records the end of a call that did not reach a handler: its message could not be decoded, or the method does not exist.
func (c *caller) over(st *stream) {
	c.begin(nil)
	st.mu.Lock()
	reason := st.reason
	st.mu.Unlock()
	if code, err := strconv.Atoi(st.Header().Get("Grpc-Status")); reason == nil && err == nil && code != int(codes.OK) {
		message := st.Header().Get("Grpc-Message")
		if plain, err := url.PathUnescape(message); err == nil {
			message = plain
		}
		reason = status.Error(codes.Code(code), message)
	}
	c.finish(nil, reason)
}

var httpOfCode = map[codes.Code]int{
	codes.InvalidArgument: http.StatusBadRequest, codes.Unauthenticated: http.StatusUnauthorized, codes.PermissionDenied: http.StatusForbidden,
	codes.NotFound: http.StatusNotFound, codes.ResourceExhausted: http.StatusTooManyRequests, codes.Unimplemented: http.StatusNotImplemented,
	codes.Unavailable: http.StatusServiceUnavailable, codes.DeadlineExceeded: http.StatusGatewayTimeout,
}

// recordable converts a gRPC error to an API error.
func recordable(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	code, ok := httpOfCode[st.Code()]
	if !ok {
		code = http.StatusInternalServerError
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: int32(code), Message: st.Message()}}
}

// describe returns the attributes of a message; ok is false if it names no object, or one of an unknown kind.
func (s *Server) describe(message any) (a authorizer.AttributesRecord, ok bool) {
	var kind *kontikiv1.Kind
	var object *kontikiv1.Object
	pod := func(namespace, name, subresource string) {
		kind, a.Namespace, a.Name, a.Subresource = &kontikiv1.Kind{Version: "v1", Kind: "Pod"}, namespace, name, subresource
	}
	reference := func(r *kontikiv1.Reference, subresource string) {
		kind, a.Namespace, a.Name, a.Subresource = r.GetKind(), r.GetNamespace(), r.GetName(), subresource
	}
	switch m := message.(type) {
	case *kontikiv1.GetRequest:
		reference(m.Reference, "")
	case *kontikiv1.ListRequest:
		kind, a.Namespace, a.Name = m.Kind, m.Namespace, auth.SelectedName(m.FieldSelector)
	case *kontikiv1.WatchRequest:
		kind, a.Namespace, a.Name = m.Kind, m.Namespace, cmp.Or(m.Name, auth.SelectedName(m.FieldSelector))
	case *kontikiv1.CreateRequest:
		object = m.Object
		kind, a.Namespace = object.GetKind(), object.GetNamespace()
	case *kontikiv1.UpdateRequest:
		object = m.Object
		kind, a.Namespace, a.Name, a.Subresource = object.GetKind(), object.GetNamespace(), object.GetName(), m.Subresource
	case *kontikiv1.PatchRequest:
		reference(m.Reference, m.Subresource)
	case *kontikiv1.ApplyRequest:
		reference(m.Reference, m.Subresource)
	case *kontikiv1.DeleteRequest:
		reference(m.Reference, "")
	case *kontikiv1.DeleteCollectionRequest:
		kind, a.Namespace = m.Kind, m.Namespace
	case *kontikiv1.Check:
		reference(m.GetReference(), "")
	case *kontikiv1.LogsRequest:
		pod(m.Namespace, m.Name, "log")
	case *kontikiv1.ExecRequest:
		pod(m.GetStart().GetNamespace(), m.GetStart().GetName(), "exec")
	case *kontikiv1.PortForwardRequest:
		pod(m.GetStart().GetNamespace(), m.GetStart().GetName(), "portforward")
	}
	row, ok := s.Objects.Kinds().ByGVK(schema.GroupVersionKind{Group: kind.GetGroup(), Version: kind.GetVersion(), Kind: kind.GetKind()})
	if !ok {
		return authorizer.AttributesRecord{}, false
	}
	a.APIGroup, a.APIVersion, a.Resource, a.ResourceRequest = row.Group, row.Version, row.Resource, true
	if kind.GetKind() == "Namespace" && kind.GetGroup() == "" {
		if _, collection := message.(interface{ GetFieldSelector() string }); !collection {
			a.Namespace = a.Name // as for authorization
		}
	}
	_, creates := message.(*kontikiv1.CreateRequest) // as in REST, a created object has a name only once it has been read
	if object != nil && (a.Namespace == "" && row.Namespaced || a.Name == "" && !creates) {
		// The rest is in the data. The policy must see it, so that callers cannot choose the rule that applies by how they encode
		// the message.
		o := &operation{objectsServer: &objectsServer{Server: s}, request: &objects.Request{Kind: row}}
		if obj, err := o.decodeData(object, metav1.FieldValidationIgnore); err == nil {
			a.Namespace = cmp.Or(a.Namespace, obj.GetNamespace())
			if !creates {
				a.Name = cmp.Or(a.Name, obj.GetName())
			}
		}
	}
	return a, true
}

// recordOperation starts recording an operation of a transaction; it returns nil if the operation names no known kind.
func (s *objectsServer) recordOperation(record *audit.Record, place int, in *kontikiv1.Operation, dryRun bool) *audit.Record {
	var message any
	verb := ""
	switch op := in.GetOperation().(type) {
	case *kontikiv1.Operation_Create:
		message, verb = op.Create, "create"
	case *kontikiv1.Operation_Update:
		message, verb = op.Update, "update"
	case *kontikiv1.Operation_Patch:
		message, verb = op.Patch, "patch"
	case *kontikiv1.Operation_Apply:
		message, verb = op.Apply, "patch"
	case *kontikiv1.Operation_Delete:
		message, verb = op.Delete, "delete"
	case *kontikiv1.Operation_Check:
		message, verb = op.Check, "get"
	}
	a, ok := s.describe(message)
	if !ok {
		return nil
	}
	a.Verb = verb
	return record.Operation(place, a, dryRun)
}

// recordList records stored versions as the response of a call.
func (s *objectsServer) recordList(record *audit.Record, kind *registry.Kind, items []*kv.Version, meta *metav1.ListMeta) error {
	body, err := s.Objects.JSONList(kind, items, meta)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	record.ResponseJSON(body)
	return nil
}

// recorded is a stream whose record begins with its first message. From then on its context contains the record.
func (c *caller) recorded(stream grpc.ServerStream) grpc.ServerStream {
	return &recordedStream{stream, c, audit.With(stream.Context(), c.record)}
}

type recordedStream struct {
	grpc.ServerStream
	caller *caller
	ctx    context.Context
}

// Context implements grpc.ServerStream.
func (s *recordedStream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream.
func (s *recordedStream) RecvMsg(message any) error {
	if err := s.ServerStream.RecvMsg(message); err != nil {
		return err
	}
	if s.caller.record == nil {
		s.caller.begin(message)
		s.ctx = audit.With(s.ctx, s.caller.record)
	}
	return nil
}

// SendHeader implements grpc.ServerStream.
func (s *recordedStream) SendHeader(header metadata.MD) error {
	s.caller.record.Started(http.StatusOK)
	return s.ServerStream.SendHeader(header)
}

// SendMsg implements grpc.ServerStream.
func (s *recordedStream) SendMsg(message any) error {
	s.caller.record.Started(http.StatusOK)
	return s.ServerStream.SendMsg(message)
}
