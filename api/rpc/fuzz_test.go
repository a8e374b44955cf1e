package rpc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// fuzzed are the methods that decode something, and a valid request for each.
func fuzzed(t testing.TB) (methods []string, valid []proto.Message) {
	created := configMap(t, "a", map[string]string{"k": "v"})
	inJSON := &kontikiv1.Object{Kind: configMaps, Encoding: kontikiv1.Encoding_ENCODING_JSON, Data: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default","name":"b"},"data":{"k":"v"}}`)}
	merge := &kontikiv1.PatchRequest{Reference: ref("a"), Type: kontikiv1.PatchType_PATCH_TYPE_MERGE, Patch: []byte(`{"data":{"k":"w"}}`)}
	applied := &kontikiv1.ApplyRequest{Reference: ref("c"), Configuration: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"), Options: &kontikiv1.WriteOptions{FieldManager: "m"}}
	requests := map[string]proto.Message{
		"Get":              &kontikiv1.GetRequest{Reference: ref("a")},
		"List":             &kontikiv1.ListRequest{Kind: configMaps, Namespace: "default", LabelSelector: "a=b,c!=d", FieldSelector: "metadata.name=a"},
		"Create":           &kontikiv1.CreateRequest{Object: created},
		"Update":           &kontikiv1.UpdateRequest{Object: inJSON},
		"Patch":            merge,
		"Apply":            applied,
		"Delete":           &kontikiv1.DeleteRequest{Reference: ref("a"), DeleteOptions: &kontikiv1.DeleteOptions{PropagationPolicy: "Background", Uid: "u"}},
		"DeleteCollection": &kontikiv1.DeleteCollectionRequest{Kind: configMaps, Namespace: "default", LabelSelector: "a=b"},
		"Transact": &kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{
			createOp(created), checkOp("z", ""), {Operation: &kontikiv1.Operation_Patch{Patch: merge}}, {Operation: &kontikiv1.Operation_Apply{Apply: applied}},
			{Operation: &kontikiv1.Operation_Update{Update: &kontikiv1.UpdateRequest{Object: inJSON}}},
			{Operation: &kontikiv1.Operation_Delete{Delete: &kontikiv1.DeleteRequest{Reference: ref("a")}}},
		}},
	}
	methods = slices.Sorted(maps.Keys(requests)) // the same in every process that fuzzes
	for _, method := range methods {
		valid = append(valid, requests[method])
	}
	return methods, valid
}

// post sends a request without a network.
func post(t testing.TB, handler http.Handler, method string, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(context.Background(), http.MethodPost, "https://h/kontiki.v1.Objects/"+method, bytes.NewReader(body))
	r.ProtoMajor, r.ProtoMinor = 2, 0
	r.Header.Set("Content-Type", "application/grpc")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

// FuzzRequests sends bytes as requests: whatever they are, they are answered with a status, and none that says that the server
// is at fault.
func FuzzRequests(f *testing.F) {
	methods, valid := fuzzed(f)
	for i := range methods {
		raw, err := proto.Marshal(valid[i])
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), raw)
		f.Add(uint8(i), raw[:len(raw)/2])
		for at := 0; at < len(raw); at += 7 {
			mutated := bytes.Clone(raw)
			mutated[at] ^= 1 << (at % 8)
			f.Add(uint8(i), mutated)
		}
	}
	f.Add(uint8(0), []byte{})
	f.Add(uint8(1), bytes.Repeat([]byte{0x0a, 0xff}, 50))
	h := harness.New(f)
	handler := h.AsAdminRPC()
	f.Fuzz(func(t *testing.T, method uint8, message []byte) {
		body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
		w := post(t, handler, methods[int(method)%len(methods)], append(body, message...))
		code := w.Result().Trailer.Get("Grpc-Status")
		if code == "" || code == "13" && !strings.Contains(w.Result().Trailer.Get("Grpc-Message"), "unmarshal") || code == "2" {
			t.Errorf("status %q %s", code, w.Result().Trailer.Get("Grpc-Message"))
		}
	})
}

// FuzzFrames sends bytes as they are, so that the framing is what is tried.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Add([]byte{1, 0, 0, 0, 1, 1})
	f.Add([]byte{0, 0, 0, 0, 9, 1})
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1})
	h := harness.New(f)
	handler := h.AsAdminRPC()
	f.Fuzz(func(t *testing.T, body []byte) {
		w := post(t, handler, "Get", body)
		if code := w.Result().Trailer.Get("Grpc-Status"); code == "" {
			t.Errorf("no status: %v", w.Result())
		}
	})
}

func TestAMessageThatIsTooLargeIsRefusedBeforeItComes(t *testing.T) {
	h := harness.New(t)
	w := post(t, h.AsAdminRPC(), "Get", []byte{0, 0xff, 0, 0, 0, 1, 2, 3})
	if got := w.Result().Trailer.Get("Grpc-Status"); got != "3" || codes.InvalidArgument != 3 {
		t.Errorf("%s %v", got, w.Result().Trailer)
	}
}
