package rpc_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

const (
	jsonType   = "application/json"
	mergePatch = "application/merge-patch+json"
	applyPatch = "application/apply-patch+yaml"
	cmPath     = "/api/v1/namespaces/default/configmaps"
	protoType  = "application/vnd.kubernetes.protobuf"
)

func jsonObject(kind *kontikiv1.Kind, data string) *kontikiv1.Object {
	return &kontikiv1.Object{Kind: kind, Encoding: kontikiv1.Encoding_ENCODING_JSON, Data: []byte(data), Namespace: "default"}
}

func cm(name, rest string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":%q}%s}`, name, rest)
}

func one(o *kontikiv1.Object, warnings []string, err error) ([]*kontikiv1.Object, []string, error) {
	if o == nil {
		return nil, warnings, err
	}
	return []*kontikiv1.Object{o}, warnings, err
}

type call = func(context.Context, kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error)

func create(o *kontikiv1.Object, options *kontikiv1.WriteOptions) call {
	return func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
		r, err := api.Create(ctx, &kontikiv1.CreateRequest{Object: o, Options: options})
		return one(r.GetObject(), r.GetWarnings(), err)
	}
}

func update(o *kontikiv1.Object, subresource string, options *kontikiv1.WriteOptions) call {
	return func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
		r, err := api.Update(ctx, &kontikiv1.UpdateRequest{Object: o, Subresource: subresource, Options: options})
		return one(r.GetObject(), r.GetWarnings(), err)
	}
}

func get(r *kontikiv1.Reference, version string) call {
	return func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
		a, err := api.Get(ctx, &kontikiv1.GetRequest{Reference: r, ResourceVersion: version, Encoding: kontikiv1.Encoding_ENCODING_JSON})
		return one(a.GetObject(), nil, err)
	}
}

func patch(name string, kind kontikiv1.PatchType, body string, options *kontikiv1.WriteOptions) call {
	return func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
		r, err := api.Patch(ctx, &kontikiv1.PatchRequest{Reference: ref(name), Type: kind, Patch: []byte(body), Options: options, Encoding: kontikiv1.Encoding_ENCODING_JSON})
		return one(r.GetObject(), r.GetWarnings(), err)
	}
}

func applyCall(name, body, manager string, force bool) call {
	return func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
		r, err := api.Apply(ctx, &kontikiv1.ApplyRequest{Reference: ref(name), Configuration: []byte(body), Force: force, Options: &kontikiv1.WriteOptions{FieldManager: manager}, Encoding: kontikiv1.Encoding_ENCODING_JSON})
		return one(r.GetObject(), r.GetWarnings(), err)
	}
}

// remove deletes an object. A completed deletion returns the object in gRPC, and a Status in REST; one that has only begun returns
// the object in both.
func remove(name string, d *kontikiv1.DeleteOptions, options *kontikiv1.WriteOptions) call {
	return func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
		r, err := api.Delete(ctx, &kontikiv1.DeleteRequest{Reference: ref(name), DeleteOptions: d, Options: options, Encoding: kontikiv1.Encoding_ENCODING_JSON})
		if r.GetGone() {
			return nil, nil, err
		}
		return one(r.GetObject(), nil, err)
	}
}

func list(in *kontikiv1.ListRequest) call {
	return func(ctx context.Context, api kontikiv1.ObjectsClient) (out []*kontikiv1.Object, _ []string, _ error) {
		in.Encoding = kontikiv1.Encoding_ENCODING_JSON
		stream, err := api.List(ctx, in)
		for err == nil {
			var page *kontikiv1.ListResponse
			if page, err = stream.Recv(); err == nil {
				out = append(out, page.Objects...)
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return out, nil, err
	}
}

func watchCall(in *kontikiv1.WatchRequest) call {
	return func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
		stream, err := api.Watch(ctx, in)
		if err == nil {
			_, err = stream.Recv()
		}
		return nil, nil, err
	}
}

func transactCall(in *kontikiv1.TransactRequest) call {
	return func(ctx context.Context, api kontikiv1.ObjectsClient) (out []*kontikiv1.Object, warnings []string, _ error) {
		in.Encoding = kontikiv1.Encoding_ENCODING_JSON
		r, err := api.Transact(ctx, in)
		for _, result := range r.GetResults() {
			if result.Object != nil {
				out = append(out, result.Object)
			}
			warnings = append(warnings, result.Warnings...)
		}
		return out, warnings, err
	}
}

func createOp(o *kontikiv1.Object) *kontikiv1.Operation {
	return &kontikiv1.Operation{Operation: &kontikiv1.Operation_Create{Create: &kontikiv1.CreateRequest{Object: o}}}
}

func checkOp(name, version string) *kontikiv1.Operation {
	return &kontikiv1.Operation{Operation: &kontikiv1.Operation_Check{Check: &kontikiv1.Check{Reference: ref(name), ResourceVersion: version}}}
}

const transactions = "/kontiki/v1/transactions"

// txCM is a ConfigMap in a REST transaction.
func txCM(name string) string {
	return fmt.Sprintf(`{"create":{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default","name":%q}}}`, name)
}

func txCheck(name, version string) string {
	return fmt.Sprintf(`{"check":{"apiVersion":"v1","kind":"ConfigMap","namespace":"default","name":%q,"resourceVersion":%q}}`, name, version)
}

func tx(operations ...string) string {
	return `{"operations":[` + strings.Join(operations, ",") + `]}`
}

func steps() []step {
	strict, warn, ignore := &kontikiv1.WriteOptions{FieldValidation: "Strict"}, &kontikiv1.WriteOptions{FieldValidation: "Warn"}, &kontikiv1.WriteOptions{FieldValidation: "Ignore"}
	dry := &kontikiv1.WriteOptions{DryRun: true}
	cmKind := configMaps
	podKind := &kontikiv1.Kind{Version: "v1", Kind: "Pod"}
	badPod := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i","ports":[{"containerPort":70000}]}]}}`
	many := make([]*kontikiv1.Operation, 1001)
	manyREST := make([]string, 1001)
	for i := range many {
		many[i], manyREST[i] = checkOp(fmt.Sprint("x", i), ""), txCheck(fmt.Sprint("x", i), "")
	}
	kind, _ := builtin.Kinds().ByGroupResource("", "configmaps")
	big := strings.Repeat("y", 3<<20)
	return []step{
		{name: "create", method: "POST", path: cmPath, contentType: jsonType, body: cm("a", `,"data":{"k":"1"}`), call: create(jsonObject(cmKind, cm("a", `,"data":{"k":"1"}`)), nil)},
		{name: "create in protobuf", method: "POST", path: cmPath, contentType: protoType, body: string(registry.Envelope(kind.GVK(), []byte("\x0a\x03\x0a\x01p"))),
			call: create(&kontikiv1.Object{Kind: cmKind, Namespace: "default", Data: []byte("\x0a\x03\x0a\x01p")}, nil)},
		{name: "exists", method: "POST", path: cmPath, contentType: jsonType, body: cm("a", ""), call: create(jsonObject(cmKind, cm("a", "")), nil), code: codes.AlreadyExists},
		{name: "get", method: "GET", path: cmPath + "/a", call: get(ref("a"), "")},
		{name: "get from here", method: "GET", path: cmPath + "/a?resourceVersion=0", call: get(ref("a"), "0")},
		{name: "not found", method: "GET", path: cmPath + "/none", call: get(ref("none"), ""), code: codes.NotFound},
		{name: "a revision that is no number", field: "resource_version", method: "GET", path: cmPath + "/a?resourceVersion=x", call: get(ref("a"), "x"), code: codes.InvalidArgument},
		{name: "a revision of the future", field: "resource_version", method: "GET", path: cmPath + "/a?resourceVersion=99999", call: get(ref("a"), "99999"), code: codes.Unavailable},
		{name: "forbidden", as: "joe", method: "GET", path: cmPath + "/a", call: get(ref("a"), ""), code: codes.PermissionDenied},
		{name: "forbidden creation", as: "joe", method: "POST", path: cmPath, contentType: jsonType, body: cm("j", ""), call: create(jsonObject(cmKind, cm("j", "")), nil), code: codes.PermissionDenied},
		{name: "forbidden before bad", as: "joe", method: "POST", path: cmPath, contentType: jsonType, body: "{", call: create(jsonObject(cmKind, "{"), nil), code: codes.PermissionDenied},
		{name: "forbidden list", as: "joe", method: "GET", path: cmPath, call: list(&kontikiv1.ListRequest{Kind: cmKind, Namespace: "default"}), code: codes.PermissionDenied},
		{name: "forbidden watch", as: "joe", method: "GET", path: cmPath + "?watch=1", call: watchCall(&kontikiv1.WatchRequest{Kind: cmKind, Namespace: "default"}), code: codes.PermissionDenied},
		{name: "forbidden deletion", as: "joe", method: "DELETE", path: cmPath + "/a", call: remove("a", nil, nil), code: codes.PermissionDenied},
		{name: "forbidden transaction", as: "joe", method: "POST", path: transactions, contentType: jsonType, body: tx(txCheck("a", "1")), call: transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{checkOp("a", "1")}}), code: codes.PermissionDenied},
		{name: "anonymous", as: "anonymous", unread: true, method: "GET", path: cmPath + "/a", call: get(ref("a"), ""), code: codes.Unauthenticated},
		{name: "anonymous transaction", as: "anonymous", method: "POST", path: transactions, contentType: jsonType, body: tx(txCM("z")), call: transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{createOp(jsonObject(cmKind, cm("z", "")))}}), code: codes.Unauthenticated},
		{name: "bad token", as: "bad token", unread: true, method: "GET", path: cmPath + "/a", call: get(ref("a"), ""), code: codes.Unauthenticated},
		{name: "impersonation", as: "as nobody", method: "GET", path: cmPath + "/a", call: get(ref("a"), ""), code: codes.PermissionDenied},
		{name: "impersonation without a right to", as: "joe as admin", unread: true, own: `users "admin" is forbidden: User "joe" cannot impersonate resource "users" in API group "" at the cluster scope`, method: "GET", path: cmPath + "/a", call: get(ref("a"), ""), code: codes.PermissionDenied},
		{name: "unknown kind", field: "reference.kind", unread: true, method: "GET", path: "/api/v1/namespaces/default/gadgets/a", call: get(&kontikiv1.Reference{Kind: &kontikiv1.Kind{Version: "v1", Kind: "Gadget"}, Namespace: "default", Name: "a"}, ""),
			code: codes.InvalidArgument, own: `reference.kind: no matches for kind "Gadget" in version "v1"`},
		{name: "malformed JSON", field: "object.data", method: "POST", path: cmPath, contentType: jsonType, body: `{"apiVersion"`, call: create(jsonObject(cmKind, `{"apiVersion"`), nil), code: codes.InvalidArgument},
		{name: "malformed protobuf", field: "object.data", method: "POST", path: cmPath, contentType: protoType, body: string(registry.Envelope(kind.GVK(), []byte("\xff\xff"))), call: create(&kontikiv1.Object{Kind: cmKind, Namespace: "default", Data: []byte("\xff\xff")}, nil), code: codes.InvalidArgument},
		{name: "another kind", field: "object.data", method: "POST", path: cmPath, contentType: jsonType, body: `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}`, call: create(jsonObject(cmKind, `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}`), nil), code: codes.InvalidArgument},
		{name: "wrong namespace", field: "object.data.metadata.namespace", method: "POST", path: cmPath, contentType: jsonType, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"kube-system"}}`,
			call: create(jsonObject(cmKind, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"kube-system"}}`), nil), code: codes.InvalidArgument},
		{name: "absent namespace", method: "POST", path: "/api/v1/namespaces/nowhere/configmaps", contentType: jsonType, body: cm("a", ""),
			call: create(&kontikiv1.Object{Kind: cmKind, Namespace: "nowhere", Encoding: kontikiv1.Encoding_ENCODING_JSON, Data: []byte(cm("a", ""))}, nil), code: codes.NotFound},
		{name: "invalid", field: "object.data.spec.containers[0].ports[0].containerPort", method: "POST", path: "/api/v1/namespaces/default/pods", contentType: jsonType, body: badPod, call: create(jsonObject(podKind, badPod), nil), code: codes.InvalidArgument},
		{name: "invalid name", field: "object.data.metadata.name", method: "POST", path: cmPath, contentType: jsonType, body: cm("A_b", ""), call: create(jsonObject(cmKind, cm("A_b", "")), nil), code: codes.InvalidArgument},
		{name: "too large a request", field: "object.data", unread: true, method: "POST", path: cmPath, contentType: jsonType, body: cm("big", `,"data":{"k":"`+big+`"}`), call: create(jsonObject(cmKind, cm("big", `,"data":{"k":"`+big+`"}`)), nil), code: codes.InvalidArgument},
		{name: "too large an object", field: "object.data", method: "POST", path: cmPath, contentType: jsonType, body: cm("big", `,"data":{"k":"`+big[:1600<<10]+`"}`), call: create(jsonObject(cmKind, cm("big", `,"data":{"k":"`+big[:1600<<10]+`"}`)), nil), code: codes.InvalidArgument},
		{name: "strict about unknown fields", field: "object.data", method: "POST", path: cmPath + "?fieldValidation=Strict", contentType: jsonType, body: cm("u", `,"dota":{}`), call: create(jsonObject(cmKind, cm("u", `,"dota":{}`)), strict), code: codes.InvalidArgument},
		{name: "warned of unknown fields", method: "POST", path: cmPath + "?fieldValidation=Warn", contentType: jsonType, body: cm("u1", `,"dota":{}`), call: create(jsonObject(cmKind, cm("u1", `,"dota":{}`)), warn)},
		{name: "warned by default", method: "POST", path: cmPath, contentType: jsonType, body: cm("u2", `,"dota":{},"data":{"a":"b","a":"c"}`), call: create(jsonObject(cmKind, cm("u2", `,"dota":{},"data":{"a":"b","a":"c"}`)), nil)},
		{name: "ignoring unknown fields", method: "POST", path: cmPath + "?fieldValidation=Ignore", contentType: jsonType, body: cm("u3", `,"dota":{}`), call: create(jsonObject(cmKind, cm("u3", `,"dota":{}`)), ignore)},
		{name: "a validation that there is not", field: "options.field_validation", method: "POST", path: cmPath + "?fieldValidation=Loud", contentType: jsonType, body: cm("u4", ""), call: create(jsonObject(cmKind, cm("u4", "")), &kontikiv1.WriteOptions{FieldValidation: "Loud"}), code: codes.InvalidArgument},
		{name: "too long a manager", field: "options.field_manager", method: "POST", path: cmPath + "?fieldManager=" + strings.Repeat("m", 129), contentType: jsonType, body: cm("u4", ""), call: create(jsonObject(cmKind, cm("u4", "")), &kontikiv1.WriteOptions{FieldManager: strings.Repeat("m", 129)}), code: codes.InvalidArgument},
		{name: "a manager", method: "POST", path: cmPath + "?fieldManager=somebody", contentType: jsonType, body: cm("m", `,"data":{"k":"1"}`), call: create(jsonObject(cmKind, cm("m", `,"data":{"k":"1"}`)), &kontikiv1.WriteOptions{FieldManager: "somebody"})},
		{name: "dry run", method: "POST", path: cmPath + "?dryRun=All", contentType: jsonType, body: cm("dry", ""), call: create(jsonObject(cmKind, cm("dry", "")), dry)},
		{name: "update", method: "PUT", path: cmPath + "/a", contentType: jsonType, body: cm("a", `,"data":{"k":"2"}`), call: update(jsonObject(cmKind, cm("a", `,"data":{"k":"2"}`)), "", nil)},
		{name: "dry update", method: "PUT", path: cmPath + "/a?dryRun=All", contentType: jsonType, body: cm("a", `,"data":{"k":"3"}`), call: update(jsonObject(cmKind, cm("a", `,"data":{"k":"3"}`)), "", dry)},
		{name: "conflict", field: "object.data.metadata.resourceVersion", method: "PUT", path: cmPath + "/a", contentType: jsonType, body: `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"1"}}`,
			call: update(jsonObject(cmKind, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"1"}}`), "", nil), code: codes.Aborted},
		{name: "update of what is not there", method: "PUT", path: cmPath + "/none", contentType: jsonType, body: cm("none", ""), call: update(jsonObject(cmKind, cm("none", "")), "", nil), code: codes.NotFound},
		{name: "unknown subresource", method: "PUT", path: cmPath + "/a/colour", contentType: jsonType, body: cm("a", ""), call: update(jsonObject(cmKind, cm("a", "")), "colour", nil), code: codes.NotFound, own: `configmaps "a/colour" not found`},
		{name: "merge patch", method: "PATCH", path: cmPath + "/a", contentType: mergePatch, body: `{"data":{"l":"3"}}`, call: patch("a", kontikiv1.PatchType_PATCH_TYPE_MERGE, `{"data":{"l":"3"}}`, nil)},
		{name: "JSON patch", method: "PATCH", path: cmPath + "/a", contentType: "application/json-patch+json", body: `[{"op":"add","path":"/data/m","value":"4"}]`, call: patch("a", kontikiv1.PatchType_PATCH_TYPE_JSON, `[{"op":"add","path":"/data/m","value":"4"}]`, nil)},
		{name: "JSON patch that does not apply", field: "patch", method: "PATCH", path: cmPath + "/a", contentType: "application/json-patch+json", body: `[{"op":"test","path":"/data/m","value":"5"}]`, call: patch("a", kontikiv1.PatchType_PATCH_TYPE_JSON, `[{"op":"test","path":"/data/m","value":"5"}]`, nil), code: codes.InvalidArgument},
		{name: "strategic patch", method: "PATCH", path: cmPath + "/a", contentType: "application/strategic-merge-patch+json", body: `{"metadata":{"labels":{"x":"y"}}}`, call: patch("a", kontikiv1.PatchType_PATCH_TYPE_STRATEGIC, `{"metadata":{"labels":{"x":"y"}}}`, nil)},
		{name: "malformed patch", field: "patch", method: "PATCH", path: cmPath + "/a", contentType: mergePatch, body: `{`, call: patch("a", kontikiv1.PatchType_PATCH_TYPE_MERGE, `{`, nil), code: codes.InvalidArgument},
		{name: "patch with an unknown field", method: "PATCH", path: cmPath + "/a", contentType: mergePatch, body: `{"dota":{"l":"3"}}`, call: patch("a", kontikiv1.PatchType_PATCH_TYPE_MERGE, `{"dota":{"l":"3"}}`, nil)},
		{name: "patch of what is not there", method: "PATCH", path: cmPath + "/none", contentType: mergePatch, body: `{}`, call: patch("none", kontikiv1.PatchType_PATCH_TYPE_MERGE, `{}`, nil), code: codes.NotFound},
		{name: "apply", method: "PATCH", path: cmPath + "/s?fieldManager=one", contentType: applyPatch, body: cm("s", `,"data":{"k":"1"}`), call: applyCall("s", cm("s", `,"data":{"k":"1"}`), "one", false)},
		{name: "apply without a manager", field: "options.field_manager", method: "PATCH", path: cmPath + "/s", contentType: applyPatch, body: cm("s", ""), call: applyCall("s", cm("s", ""), "", false), code: codes.InvalidArgument},
		{name: "apply conflict", field: "configuration.data.k", method: "PATCH", path: cmPath + "/s?fieldManager=two", contentType: applyPatch, body: cm("s", `,"data":{"k":"2"}`), call: applyCall("s", cm("s", `,"data":{"k":"2"}`), "two", false), code: codes.Aborted},
		{name: "forced apply", method: "PATCH", path: cmPath + "/s?fieldManager=two&force=true", contentType: applyPatch, body: cm("s", `,"data":{"k":"2"}`), call: applyCall("s", cm("s", `,"data":{"k":"2"}`), "two", true)},
		{name: "apply of nonsense", field: "configuration", method: "PATCH", path: cmPath + "/s?fieldManager=two", contentType: applyPatch, body: "- a\n- b", call: applyCall("s", "- a\n- b", "two", false), code: codes.InvalidArgument},
		{name: "list", method: "GET", path: cmPath, call: list(&kontikiv1.ListRequest{Kind: cmKind, Namespace: "default"})},
		{name: "list everywhere by pages", method: "GET", path: "/api/v1/configmaps", call: list(&kontikiv1.ListRequest{Kind: cmKind, PageSize: 2})},
		{name: "list by label", method: "GET", path: cmPath + "?labelSelector=x%3Dy", call: list(&kontikiv1.ListRequest{Kind: cmKind, Namespace: "default", LabelSelector: "x=y"})},
		{name: "list by field", method: "GET", path: cmPath + "?fieldSelector=metadata.name%3Ds", call: list(&kontikiv1.ListRequest{Kind: cmKind, Namespace: "default", FieldSelector: "metadata.name=s"})},
		{name: "list of an earlier revision", method: "GET", path: cmPath + "?resourceVersion=9&resourceVersionMatch=Exact", call: list(&kontikiv1.ListRequest{Kind: cmKind, Namespace: "default", ResourceVersion: "9", ResourceVersionMatch: "Exact"})},
		{name: "bad label selector", field: "label_selector", method: "GET", path: cmPath + "?labelSelector=a%20b%20c", call: list(&kontikiv1.ListRequest{Kind: cmKind, Namespace: "default", LabelSelector: "a b c"}), code: codes.InvalidArgument},
		{name: "bad field selector", field: "field_selector", method: "GET", path: cmPath + "?fieldSelector=abc", call: list(&kontikiv1.ListRequest{Kind: cmKind, Namespace: "default", FieldSelector: "abc"}), code: codes.InvalidArgument},
		{name: "unsupported field selector", field: "field_selector", method: "GET", path: cmPath + "?fieldSelector=data.k%3D1", call: list(&kontikiv1.ListRequest{Kind: cmKind, Namespace: "default", FieldSelector: "data.k=1"}), code: codes.InvalidArgument},
		{name: "a match without a revision", field: "resource_version_match", method: "GET", path: cmPath + "?resourceVersionMatch=Exact", call: list(&kontikiv1.ListRequest{Kind: cmKind, Namespace: "default", ResourceVersionMatch: "Exact"}), code: codes.InvalidArgument},
		{name: "a match that there is not", field: "resource_version_match", method: "GET", path: cmPath + "?resourceVersionMatch=About&resourceVersion=1", call: list(&kontikiv1.ListRequest{Kind: cmKind, Namespace: "default", ResourceVersion: "1", ResourceVersionMatch: "About"}), code: codes.InvalidArgument},
		{name: "watch from no number", field: "resource_version", method: "GET", path: cmPath + "?watch=1&resourceVersion=x", call: watchCall(&kontikiv1.WatchRequest{Kind: cmKind, Namespace: "default", ResourceVersion: "x"}), code: codes.InvalidArgument},
		{name: "watch with a bad selector", field: "label_selector", method: "GET", path: cmPath + "?watch=1&labelSelector=a%20b%20c", call: watchCall(&kontikiv1.WatchRequest{Kind: cmKind, Namespace: "default", LabelSelector: "a b c"}), code: codes.InvalidArgument},
		{name: "delete at another revision", field: "delete_options.resource_version", method: "DELETE", path: cmPath + "/s", contentType: jsonType, body: `{"preconditions":{"resourceVersion":"1"}}`, call: remove("s", &kontikiv1.DeleteOptions{ResourceVersion: "1"}, nil), code: codes.Aborted},
		{name: "delete with a policy that there is not", field: "delete_options.propagation_policy", method: "DELETE", path: cmPath + "/s?propagationPolicy=Loud", call: remove("s", &kontikiv1.DeleteOptions{PropagationPolicy: "Loud"}, nil), code: codes.InvalidArgument},
		{name: "dry deletion", method: "DELETE", path: cmPath + "/s?dryRun=All", call: remove("s", nil, dry)},
		{name: "delete", method: "DELETE", path: cmPath + "/s", call: remove("s", nil, nil)},
		{name: "delete again", method: "DELETE", path: cmPath + "/s", call: remove("s", nil, nil), code: codes.NotFound},
		{name: "delete a collection", method: "DELETE", path: cmPath + "?labelSelector=x%3Dy", call: func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
			r, err := api.DeleteCollection(ctx, &kontikiv1.DeleteCollectionRequest{Kind: cmKind, Namespace: "default", LabelSelector: "x=y", Encoding: kontikiv1.Encoding_ENCODING_JSON})
			return r.GetObjects(), nil, err
		}},
		{name: "transact", method: "POST", path: transactions, contentType: jsonType, body: tx(txCM("t1"), txCM("t2"), txCheck("none", "")),
			call: transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{createOp(jsonObject(cmKind, cm("t1", ""))), createOp(jsonObject(cmKind, cm("t2", ""))), checkOp("none", "")}})},
		{name: "transaction that exists", method: "POST", path: transactions, contentType: jsonType, body: tx(txCM("t3"), txCM("t1")),
			call: transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{createOp(jsonObject(cmKind, cm("t3", ""))), createOp(jsonObject(cmKind, cm("t1", "")))}}), code: codes.AlreadyExists},
		{name: "transaction at a stale revision", field: "operations[1].check.resource_version", method: "POST", path: transactions, contentType: jsonType, body: tx(txCM("t3"), txCheck("t1", "1")),
			call: transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{createOp(jsonObject(cmKind, cm("t3", ""))), checkOp("t1", "1")}}), code: codes.Aborted},
		{name: "duplicate keys", field: "operations[1].check.reference", method: "POST", path: transactions, contentType: jsonType, body: tx(txCheck("x", ""), txCheck("x", "")),
			call: transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{checkOp("x", ""), checkOp("x", "")}}), code: codes.InvalidArgument},
		{name: "1001 operations", field: "operations", method: "POST", path: transactions, contentType: jsonType, body: tx(manyREST...), call: transactCall(&kontikiv1.TransactRequest{Operations: many}), code: codes.InvalidArgument},
		{name: "no operations", field: "operations", method: "POST", path: transactions, contentType: jsonType, body: tx(), call: transactCall(&kontikiv1.TransactRequest{}), code: codes.InvalidArgument},
		{name: "an empty operation", field: "operations[0]", method: "POST", path: transactions, contentType: jsonType, body: tx("{}"), call: transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{{}}}), code: codes.InvalidArgument},
		{name: "dry transaction", method: "POST", path: transactions, contentType: jsonType, body: `{"dryRun":true,` + tx(txCM("t9"))[1:], call: transactCall(&kontikiv1.TransactRequest{DryRun: true, Operations: []*kontikiv1.Operation{createOp(jsonObject(cmKind, cm("t9", "")))}})},
	}
}

// TestBothFrontsHaveTheSameRules sends the same requests in the same order to two servers, to one by REST and to the other by gRPC,
// and compares every response, its audit events, and what is stored in the end, resource versions included.
func TestBothFrontsHaveTheSameRules(t *testing.T) {
	compareFronts(t, steps(), newFront(t), newFront(t))
}

func compareFronts(t *testing.T, steps []step, byREST, byRPC *front) {
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			byREST.t, byRPC.t = t, t
			want, got := byREST.rest(&s), byRPC.grpc(&s)
			if byREST.log != nil {
				compareEvents(t, &s, byREST.log.next(t), byRPC.log.next(t))
			}
			if named := strings.Join(got.fields, " "); named != s.field {
				t.Errorf("gRPC names the fields %q, want %q", named, s.field)
			}
			if s.own != "" {
				if got.status.Message != s.own || want.status.Status != metav1.StatusFailure {
					t.Errorf("gRPC says %q, want %q; REST %v", got.status.Message, s.own, want.status)
				}
				return
			}
			if (want.status.Status == metav1.StatusFailure) != (s.code != codes.OK) {
				t.Errorf("REST answers %v, want %v", want.status, s.code)
			}
			if !reflect.DeepEqual(withoutUIDs(want.status), withoutUIDs(got.status)) {
				t.Errorf("REST says\n%+v\ngRPC\n%+v", want.status, got.status)
			}
			if !slices.Equal(want.warnings, got.warnings) {
				t.Errorf("REST warns %q, gRPC %q", want.warnings, got.warnings)
			}
			if !reflect.DeepEqual(want.objects, got.objects) {
				t.Errorf("REST answers\n%v\ngRPC\n%v", want.objects, got.objects)
			}
			if a, b := byREST.h.Store.View().Revision(), byRPC.h.Store.View().Revision(); a != b {
				t.Fatalf("the stores are at %d after REST and at %d after gRPC", a, b)
			}
		})
	}
	want, got := dump(t, byREST.h), dump(t, byRPC.h)
	if len(want) < 6 || !reflect.DeepEqual(want, got) {
		t.Errorf("REST stored\n%v\ngRPC\n%v", want, got)
	}
}
