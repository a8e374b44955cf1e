package rpc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// fuzzed are the methods that decode input, with a valid request for each; for streams, the first request. The methods of Cluster
// are fuzzed next to their code (cmd/kontiki/server).
func fuzzed(t testing.TB) (methods []string, valid []proto.Message) {
	created := configMap(t, "a", map[string]string{"k": "v"})
	inJSON := &kontikiv1.Object{Kind: configMaps, Encoding: kontikiv1.Encoding_ENCODING_JSON, Data: []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"namespace":"default","name":"b"},"data":{"k":"v"}}`)}
	merge := &kontikiv1.PatchRequest{Reference: ref("a"), Type: kontikiv1.PatchType_PATCH_TYPE_MERGE, Patch: []byte(`{"data":{"k":"w"}}`)}
	applied := &kontikiv1.ApplyRequest{Reference: ref("c"), Configuration: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"), Options: &kontikiv1.WriteOptions{FieldManager: "m"}}
	requests := map[string]proto.Message{
		"Objects/Get":              &kontikiv1.GetRequest{Reference: ref("a")},
		"Objects/List":             &kontikiv1.ListRequest{Kind: configMaps, Namespace: "default", LabelSelector: "a=b,c!=d", FieldSelector: "metadata.name=a"},
		"Objects/Watch":            &kontikiv1.WatchRequest{Kind: configMaps, Namespace: "default", ResourceVersion: "1", LabelSelector: "a=b", SendInitialEvents: true},
		"Objects/Create":           &kontikiv1.CreateRequest{Object: created},
		"Objects/Update":           &kontikiv1.UpdateRequest{Object: inJSON},
		"Objects/Patch":            merge,
		"Objects/Apply":            applied,
		"Objects/Delete":           &kontikiv1.DeleteRequest{Reference: ref("a"), DeleteOptions: &kontikiv1.DeleteOptions{PropagationPolicy: "Background", Uid: "u"}},
		"Objects/DeleteCollection": &kontikiv1.DeleteCollectionRequest{Kind: configMaps, Namespace: "default", LabelSelector: "a=b"},
		"Objects/Transact": &kontikiv1.TransactRequest{Operations: []*kontikiv1.Operation{
			createOp(created), checkOp("z", ""), {Operation: &kontikiv1.Operation_Patch{Patch: merge}}, {Operation: &kontikiv1.Operation_Apply{Apply: applied}},
			{Operation: &kontikiv1.Operation_Update{Update: &kontikiv1.UpdateRequest{Object: inJSON}}},
			{Operation: &kontikiv1.Operation_Delete{Delete: &kontikiv1.DeleteRequest{Reference: ref("a")}}},
		}},
	}
	requests["Pods/Logs"] = &kontikiv1.LogsRequest{Namespace: "default", Name: "p", Container: "c", TailLines: proto.Int64(1), LimitBytes: proto.Int64(1)}
	requests["Pods/Exec"] = &kontikiv1.ExecRequest{Request: &kontikiv1.ExecRequest_Start{Start: &kontikiv1.ExecStart{Namespace: "default", Name: "p", Command: []string{"true"}, Tty: true}}}
	requests["Pods/PortForward"] = &kontikiv1.PortForwardRequest{Request: &kontikiv1.PortForwardRequest_Start{Start: &kontikiv1.PortForwardStart{Namespace: "default", Name: "p", Port: 80}}}
	methods = slices.Sorted(maps.Keys(requests)) // the same in every process that fuzzes
	for _, method := range methods {
		valid = append(valid, requests[method])
	}
	return methods, valid
}

// post sends a request without a network. Streams that do not end are cancelled.
func post(t testing.TB, handler http.Handler, method string, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if method == "Objects/Watch" {
		time.AfterFunc(20*time.Millisecond, cancel)
	}
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "https://h/kontiki.v1."+method, bytes.NewReader(body))
	r.ProtoMajor, r.ProtoMinor = 2, 0
	r.Header.Set("Content-Type", "application/grpc")
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

// FuzzRequests sends arbitrary bytes as requests: each gets a status, and never one of an internal error.
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
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"}, Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if _, err := client.Create(context.Background(), h.Client, pod); err != nil {
		f.Fatal(err)
	}
	handler := h.AsAdminRPC()
	f.Fuzz(func(t *testing.T, method uint8, message []byte) {
		body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
		w := post(t, handler, methods[int(method)%len(methods)], append(body, message...))
		code := w.Result().Trailer.Get("Grpc-Status")
		if code == "" || code == "13" || code == "2" {
			t.Errorf("status %q %s", code, w.Result().Trailer.Get("Grpc-Message"))
		}
	})
}

// FuzzFrames sends raw bytes, so that the framing is tested.
func FuzzFrames(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 0, 0, 0})
	f.Add([]byte{1, 0, 0, 0, 1, 1})
	f.Add([]byte{0, 0, 0, 0, 9, 1})
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1})
	h := harness.New(f)
	handler := h.AsAdminRPC()
	f.Fuzz(func(t *testing.T, body []byte) {
		w := post(t, handler, "Objects/Get", body)
		if code := w.Result().Trailer.Get("Grpc-Status"); code == "" {
			t.Errorf("no status: %v", w.Result())
		}
	})
}

func TestAMessageThatIsTooLargeIsRefusedBeforeItComes(t *testing.T) {
	h := harness.New(t)
	w := post(t, h.AsAdminRPC(), "Objects/Get", []byte{0, 0xff, 0, 0, 0, 1, 2, 3})
	if got := w.Result().Trailer.Get("Grpc-Status"); got != "3" || codes.InvalidArgument != 3 {
		t.Errorf("%s %v", got, w.Result().Trailer)
	}
}
