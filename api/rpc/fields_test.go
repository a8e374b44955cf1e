package rpc_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// statusIn returns the Status in an error, and the fields that the error names, and checks the other details.
func statusIn(t *testing.T, err error) (found metav1.Status, fields []string) {
	t.Helper()
	st := status.Convert(err)
	var info *errdetails.ErrorInfo
	conflict, operation := false, ""
	for _, detail := range st.Details() {
		switch d := detail.(type) {
		case *kontikiv1.StatusDetail:
			if err := json.Unmarshal(d.Status, &found); err != nil {
				t.Fatal(err)
			}
		case *errdetails.ErrorInfo:
			info = d
		case *kontikiv1.ConflictDetail:
			conflict = d.ResourceVersion != ""
		case *kontikiv1.TransactionDetail:
			operation = fmt.Sprintf("operations[%d]", d.Operation)
		case *errdetails.BadRequest:
			for _, violation := range d.FieldViolations {
				fields = append(fields, violation.Field)
				if violation.Field == "" || violation.Description == "" {
					t.Errorf("%v: a field without a name, or nothing that is wrong with it: %v", st, violation)
				}
			}
		}
	}
	// Whatever the Status' message is, the error's message names one of the wrong fields; apart from that both are the same.
	if said := found.Message; st.Message() != said {
		if len(fields) != 1 {
			t.Fatalf("the status says %q, its detail %q, and the fields are %q", st.Message(), said, fields)
		}
		path := strings.TrimPrefix(fields[0], operation+".") + ": "
		if !strings.Contains(st.Message(), path) || !endsAlike(strings.Replace(st.Message(), path, "", 1), said, path) {
			t.Errorf("the status says %q, its detail %q", st.Message(), said)
		}
	}
	if info == nil || info.Domain != "kontiki" || info.Reason != string(found.Reason) {
		t.Errorf("ErrorInfo %v of %v", info, found)
	}
	if conflict != (st.Code() == codes.Aborted) {
		t.Errorf("%v: conflict detail: %v", st, conflict)
	}
	if slices.Contains([]codes.Code{codes.InvalidArgument, codes.Aborted, codes.OutOfRange}, st.Code()) && len(fields) == 0 {
		t.Errorf("%v names no field", st)
	}
	return found, fields
}

// endsAlike reports whether a message without its field equals a Status' message, which may have the end of the field.
func endsAlike(text, said, path string) bool {
	for text != said {
		if text == strings.Replace(said, path, "", 1) {
			return true
		}
		var more bool
		if _, path, more = strings.Cut(path, "."); !more {
			return false
		}
	}
	return true
}

// TestBadInputNamesItsFieldAndStoresNothing tests all kinds of invalid input, alone and in a transaction.
func TestBadInputNamesItsFieldAndStoresNothing(t *testing.T) {
	h := harness.New(t)
	api := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	store(t, h, "a", "1")
	ctx := deadline(t)
	if _, _, err := create(jsonObject(configMaps, cm("fixed", `,"immutable":true,"data":{"k":"1"}`)), nil)(ctx, api); err != nil {
		t.Fatal(err)
	}
	in := func(o *kontikiv1.Operation) call {
		return transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{checkOp("none", ""), o}})
	}
	updated := func(o *kontikiv1.Object) *kontikiv1.Operation {
		return &kontikiv1.Operation{Operation: &kontikiv1.Operation_Update{Update: &kontikiv1.UpdateRequest{Object: o}}}
	}
	gadget := &kontikiv1.Kind{Version: "v1", Kind: "Gadget"}
	elsewhere := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b","namespace":"kube-system"}}`
	stale := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"1"}}`
	large := cm("b", `,"data":{"k":"`+strings.Repeat("y", 1600<<10)+`"}`)
	many := make([]*kontikiv1.Operation, 1001)
	for i := range many {
		many[i] = checkOp(fmt.Sprint("x", i), "")
	}
	for name, c := range map[string]struct {
		call           call
		field, message string
	}{
		"unknown kind": {create(jsonObject(gadget, "{}"), nil), "object.kind", `object.kind: no matches for kind "Gadget" in version "v1"`},
		"unknown kind in a transaction": {in(createOp(jsonObject(gadget, "{}"))), "operations[1].create.object.kind",
			`operations[1]: create.object.kind: no matches for kind "Gadget" in version "v1"`},
		"malformed JSON": {create(jsonObject(configMaps, `{"apiVersion":"v1","kind":"ConfigMap","data":{"k"`), nil), "object.data", "object.data: the object provided is unrecognized"},
		"a value of another type": {create(jsonObject(configMaps, cm("b", `,"data":{"k":1}`)), nil), "object.data",
			`object.data: ConfigMap in version "v1" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string`},
		"malformed protobuf": {create(&kontikiv1.Object{Kind: configMaps, Namespace: "default", Data: []byte("\xff\xff")}, nil), "object.data",
			`object.data: ConfigMap in version "v1" cannot be handled as a ConfigMap: unexpected EOF`},
		"malformed protobuf in a transaction": {in(updated(&kontikiv1.Object{Kind: configMaps, Namespace: "default", Name: "a", Data: []byte("\xff\xff")})), "operations[1].update.object.data",
			`operations[1]: update.object.data: ConfigMap in version "v1" cannot be handled as a ConfigMap: unexpected EOF`},
		"malformed patch":                          {patch("a", kontikiv1.PatchType_PATCH_TYPE_MERGE, "{", nil), "patch", "patch: error decoding patch: unexpected end of JSON input"},
		"malformed configuration in a transaction": {in(applyOp("a", "- a")), "operations[1].apply.configuration", "operations[1]: apply.configuration: error decoding patch"},
		"too large an object":                      {create(jsonObject(configMaps, large), nil), "object.data", "object.data: "},
		"too large an object in a transaction":     {in(createOp(jsonObject(configMaps, large))), "operations[1].create.object.data", "operations[1]: create.object.data: "},
		"too large a request": {create(jsonObject(configMaps, strings.Repeat(" ", 3<<20)), nil), "object.data",
			"object.data: Request entity too large: limit is 3145728"},
		"too large a transaction": {in(createOp(jsonObject(configMaps, strings.Repeat(" ", 3<<20)))), "operations", "operations: Request entity too large: limit is 3145728"},
		"wrong namespace": {create(jsonObject(configMaps, elsewhere), nil), "object.data.metadata.namespace",
			"object.data.metadata.namespace: the namespace of the provided object does not match the namespace sent on the request"},
		"wrong namespace in a transaction": {in(createOp(jsonObject(configMaps, elsewhere))), "operations[1].create.object.data.metadata.namespace",
			"operations[1]: create.object.data.metadata.namespace: the namespace of the provided object does not match the namespace sent on the request"},
		"no namespace": {get(&kontikiv1.Reference{Kind: configMaps, Name: "a"}, ""), "reference.namespace", "reference.namespace: must be given for a ConfigMap"},
		"a namespace of what is in none": {get(&kontikiv1.Reference{Kind: &kontikiv1.Kind{Version: "v1", Kind: "Node"}, Namespace: "default", Name: "a"}, ""), "reference.namespace",
			"reference.namespace: must be empty, a Node is in no namespace"},
		"a name that nothing has":            {get(&kontikiv1.Reference{Kind: configMaps, Namespace: "default", Name: "../a"}, ""), "reference.name", `reference.name: "../a" may not contain '/'`},
		"a check of a name that nothing has": {in(checkOp("b/c", "")), "operations[1].check.reference.name", `operations[1]: check.reference.name: "b/c" may not contain '/'`},
		"too long a name":                    {get(ref(strings.Repeat("n", 65<<10)), ""), "reference.name", "reference.name: must have at most 65536 bytes: nnn"},
		"stale revision": {update(jsonObject(configMaps, stale), "", nil), "object.data.metadata.resourceVersion",
			`object.data.metadata.resourceVersion: Operation cannot be fulfilled on configmaps "a": the object has been modified; please apply your changes to the latest version and try again`},
		"a revision that is none": {update(jsonObject(configMaps, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","resourceVersion":"new"}}`), "", nil), "object.data.metadata.resourceVersion",
			`object.data.metadata.resourceVersion: invalid resourceVersion "new": it must be a non-negative number`},
		"stale revision in a transaction": {in(checkOp("a", "1")), "operations[1].check.resource_version", `operations[1]: check.resource_version: Operation cannot be fulfilled on configmaps "a": `},
		"stale revision of a deletion":    {remove("a", &kontikiv1.DeleteOptions{ResourceVersion: "1"}, nil), "delete_options.resource_version", "delete_options.resource_version: Operation cannot be fulfilled"},
		"stale revision of a deletion in a transaction": {in(&kontikiv1.Operation{Operation: &kontikiv1.Operation_Delete{Delete: &kontikiv1.DeleteRequest{Reference: ref("a"), DeleteOptions: &kontikiv1.DeleteOptions{ResourceVersion: "1"}}}}),
			"operations[1].delete.delete_options.resource_version", "operations[1]: delete.delete_options.resource_version: Operation cannot be fulfilled"},
		"1,001 operations": {transactCall(&kontikiv1.TransactRequest{Operations: many}), "operations", "Request entity too large: operations: 1001 are too many, the limit is 1000"},
		"duplicate keys": {transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{patchOp("a", "{}"), checkOp("a", "1")}}), "operations[1].check.resource_version",
			"operations[1]: check.resource_version: "},
		"duplicate keys, the second created": {transactCall(&kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{checkOp("b", ""), createOp(jsonObject(configMaps, cm("b", "")))}}), "operations[1].create.object",
			`operations[1]: create.object: configmaps "b" is also in operations[0]; an object can be in one operation of a transaction`},
		"an invalid option in a transaction": {in(&kontikiv1.Operation{Operation: &kontikiv1.Operation_Delete{Delete: &kontikiv1.DeleteRequest{Reference: ref("a"), DeleteOptions: &kontikiv1.DeleteOptions{PropagationPolicy: "Loud"}}}}),
			"operations[1].delete.delete_options.propagation_policy", `operations[1]: DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy: Unsupported value: "Loud"`},
		"no manager": {func(ctx context.Context, api kontikiv1.ObjectsClient) ([]*kontikiv1.Object, []string, error) {
			_, err := api.Patch(ctx, &kontikiv1.PatchRequest{Reference: ref("a"), Patch: []byte("{}")})
			return nil, nil, err
		}, "type", "type: must be one of PATCH_TYPE_JSON, PATCH_TYPE_MERGE, PATCH_TYPE_STRATEGIC"},
		"a field of the object that is called as the document": {update(jsonObject(configMaps, cm("fixed", `,"immutable":true,"data":{"k":"2"}`)), "", nil), "object.data.data", `ConfigMap "fixed" is invalid: data: Forbidden: `},
		"two invalid fields": {create(jsonObject(configMaps, `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"B"},"data":{"/":""}}`), nil), "object.data.metadata.name object.data.data[/]",
			`ConfigMap "B" is invalid: [metadata.name: Invalid value`},
	} {
		t.Run(name, func(t *testing.T) {
			before := dump(t, h)
			_, _, err := c.call(ctx, api)
			if err == nil {
				t.Fatal("it was accepted")
			}
			_, fields := statusIn(t, err)
			if named := strings.Join(fields, " "); named != c.field {
				t.Errorf("named the fields %q, want %q", named, c.field)
			}
			if message := status.Convert(err).Message(); !strings.HasPrefix(message, c.message) {
				t.Errorf("said %q, want %q", message, c.message)
			}
			if !reflect.DeepEqual(before, dump(t, h)) {
				t.Error("something was stored")
			}
		})
	}
}

// TestAMessageThatCannotBeReadNamesTheField sends messages that are not protobuf, or have strings that are not UTF-8.
func TestAMessageThatCannotBeReadNamesTheField(t *testing.T) {
	h := harness.New(t)
	handler := h.AsAdminRPC()
	valid := &kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{
		checkOp("one", ""), {Operation: &kontikiv1.Operation_Create{Create: &kontikiv1.CreateRequest{Object: &kontikiv1.Object{Kind: configMaps, Namespace: "default", Data: []byte("NAME")}}}}}}
	transaction, err := proto.Marshal(valid)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		method         string
		message        []byte
		field, problem string
	}{
		"a text that is none":        {"Objects/Get", []byte("\x0a\x03\x1a\x01\xff"), "reference.name", "reference.name: cannot be read: "},
		"a length beyond the end":    {"Objects/Get", []byte("\x0a\x09\x1a"), "reference", "reference: cannot be read: "},
		"a length beyond its parent": {"Objects/Get", []byte("\x0a\x03\x1a\x09a"), "reference.name", "reference.name: cannot be read: "},
		"in an operation":            {"Objects/Transact", bytes.Replace(transaction, []byte("\x1a\x04NAME"), []byte("\x1a\x7fNAME"), 1), "operations[1].create.object.data", "operations[1].create.object.data: cannot be read: "},
		"of a stream":                {"Objects/List", []byte("\x12\x01\xff"), "namespace", "namespace: cannot be read: "},
		"no field":                   {"Objects/Create", []byte("\xff"), "", "the message cannot be read as a kontiki.v1.CreateRequest: "},
	} {
		t.Run(name, func(t *testing.T) {
			w := post(t, handler, c.method, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(c.message))), c.message...))
			raw, err := base64.RawStdEncoding.DecodeString(w.Result().Trailer.Get("Grpc-Status-Details-Bin"))
			if err != nil {
				t.Fatal(err)
			}
			var answer spb.Status
			if err := proto.Unmarshal(raw, &answer); err != nil {
				t.Fatal(err)
			}
			st := status.FromProto(&answer)
			var fields []string
			for _, detail := range st.Details() {
				if d, ok := detail.(*errdetails.BadRequest); ok {
					for _, violation := range d.FieldViolations {
						fields = append(fields, violation.Field)
					}
				}
			}
			if st.Code() != codes.InvalidArgument || strings.Join(fields, " ") != c.field || !strings.HasPrefix(st.Message(), c.problem) {
				t.Errorf("answered %v, naming the fields %q, want %q", st, fields, c.field)
			}
		})
	}
}

// TestErrorsFitIntoTrailers has more and longer problems than fit into trailers (64 KiB in Node.js, in base64).
func TestErrorsFitIntoTrailers(t *testing.T) {
	h := harness.New(t)
	api := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	data := map[string]string{}
	for i := range 2000 {
		data[fmt.Sprint("/", i)] = ""
	}
	for name, object := range map[string]*kontikiv1.Object{
		"many fields":     configMap(t, "many", data),
		"a long field":    configMap(t, "long", map[string]string{"/" + strings.Repeat("y", 20<<10): ""}),
		"a long value":    configMap(t, strings.Repeat("Y", 20<<10), nil),
		"a long document": jsonObject(configMaps, `{"apiVersion":"v1","kind":"`+strings.Repeat("y", 20<<10)+`"}`),
	} {
		_, _, err := create(object, nil)(deadline(t), api)
		wantCode(t, err, codes.InvalidArgument)
		raw, marshalErr := proto.Marshal(status.Convert(err).Proto())
		if marshalErr != nil {
			t.Fatal(marshalErr)
		}
		if len(raw) > 40<<10 || !strings.Contains(string(raw), "object.data") {
			t.Errorf("%s: %d bytes: %.200q", name, len(raw), raw)
		}
	}
}
