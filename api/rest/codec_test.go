package rest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/test/harness"
)

const protobufType = "application/vnd.kubernetes.protobuf"

// TestProtobufEqualsUpstreamsByteForByte: objects and lists that are assembled from stored bytes equal the upstream encoding of the
// decoded objects.
func TestProtobufEqualsUpstreamsByteForByte(t *testing.T) {
	h := harness.New(t)
	encoder := protobuf.NewSerializer(registry.Scheme, registry.Scheme)
	for i := range 5 {
		do(t, h, "POST", podsPath, "application/json", encode(t, benchPod(fmt.Sprint("p-", i))), "")
	}
	for _, query := range []string{"", "?limit=2", "?labelSelector=app%3Dp-1", "?labelSelector=none"} {
		data := do(t, h, "GET", podsPath+query, "", nil, protobufType).Body.Bytes()
		list := &corev1.PodList{}
		if _, _, err := encoder.Decode(data, nil, list); err != nil {
			t.Fatal(err)
		}
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
		want, err := runtime.Encode(encoder, list)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, want) {
			t.Errorf("%q: %d bytes, upstream makes %d:\n%q\n%q", query, len(data), len(want), data, want)
		}
		var fromJSON corev1.PodList
		if err := json.Unmarshal(do(t, h, "GET", podsPath+query, "", nil, "application/json").Body.Bytes(), &fromJSON); err != nil {
			t.Fatal(err)
		}
		fromJSON.Continue, list.Continue = "", "" // made anew for each list
		if fromJSON.Kind != "PodList" || fromJSON.APIVersion != "v1" || len(fromJSON.Items) != len(list.Items) {
			t.Fatalf("%q: %s of %d", query, fromJSON.Kind, len(fromJSON.Items))
		}
		if len(list.Items) == 0 {
			list.Items = []corev1.Pod{} // which protobuf does not tell from none
		}
		a, b := encode(t, &fromJSON), encode(t, list)
		if !bytes.Equal(a, b) {
			t.Errorf("%q: JSON and protobuf differ:\n%s\n%s", query, a, b)
		}
	}
	data := do(t, h, "GET", podsPath+"/p-1", "", nil, protobufType).Body.Bytes()
	one := &corev1.Pod{}
	if _, _, err := encoder.Decode(data, nil, one); err != nil {
		t.Fatal(err)
	}
	one.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	if want, err := runtime.Encode(encoder, one); err != nil || !bytes.Equal(data, want) {
		t.Errorf("%q, upstream makes %q (%v)", data, want, err)
	}
}

// TestEmptyListsAreLists: for every kind, in every encoding.
func TestEmptyListsAreLists(t *testing.T) {
	h := harness.New(t)
	for _, k := range h.Objects.Kinds().Kinds() {
		if !k.Serves("list") {
			continue
		}
		path := "/apis/" + k.Group + "/" + k.Version
		if k.Group == "" {
			path = "/api/" + k.Version
		}
		path += "/" + k.Resource + "?labelSelector=none"
		for accept, want := range map[string]string{
			"application/json": k.Kind + "List", "application/json;as=Table;g=meta.k8s.io;v=v1": "Table",
			"application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1": "PartialObjectMetadataList",
		} {
			var got struct {
				Kind              string            `json:"kind"`
				Items             []json.RawMessage `json:"items"`
				Rows              []json.RawMessage `json:"rows"`
				ColumnDefinitions []struct {
					Name string `json:"name"`
				} `json:"columnDefinitions"`
				Metadata metav1.ListMeta `json:"metadata"`
			}
			body := do(t, h, "GET", path, "", nil, accept).Body.Bytes()
			if err := json.Unmarshal(body, &got); err != nil {
				t.Fatal(err)
			}
			if got.Kind != want || got.Metadata.ResourceVersion == "" || (want == "Table") != (got.Items == nil) || (want == "Table") == (got.Rows == nil) {
				t.Errorf("%s as %s: %s", k.Kind, want, body)
			}
			if want == "Table" && (len(got.ColumnDefinitions) < 2 || got.ColumnDefinitions[0].Name == "") {
				t.Errorf("%s has the columns %v", k.Kind, got.ColumnDefinitions)
			}
		}
	}
}

// TestFormsAreSharedAndNeverWrittenTo: all readers of a version get the same bytes and the same object, and neither readers nor
// later writes change them.
func TestFormsAreSharedAndNeverWrittenTo(t *testing.T) {
	h := harness.New(t)
	do(t, h, "POST", podsPath, "application/json", encode(t, benchPod("p")), "")
	kind, _ := h.Objects.Kinds().ByResource("", "v1", "pods")
	v, err := h.Objects.Get(context.Background(), &objects.Request{Kind: kind, Namespace: "default", Name: "p"}, "0")
	if err != nil {
		t.Fatal(err)
	}
	obj, err := h.Objects.Decode(kind, v)
	if err != nil {
		t.Fatal(err)
	}
	before := obj.DeepCopyObject()
	first, err := h.Objects.JSON(kind, v)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 10 {
				for _, accept := range []string{"application/json", protobufType, "application/yaml", "application/json;as=Table;g=meta.k8s.io;v=v1;includeObject=Object"} {
					do(t, h, "GET", podsPath, "", nil, accept)
				}
				do(t, h, "PATCH", podsPath+"/p", "application/merge-patch+json", fmt.Appendf(nil, `{"metadata":{"labels":{"w%d":"%d"}}}`, i, j), "")
				do(t, h, "PATCH", podsPath+"/p/status", "application/strategic-merge-patch+json", fmt.Appendf(nil, `{"status":{"conditions":[{"type":"T%d","status":"True","message":"%d"}]}}`, i, j), "")
			}
		})
	}
	wg.Wait()
	again, err := h.Objects.JSON(kind, v)
	if err != nil || &again[0] != &first[0] {
		t.Errorf("the same version has two JSON forms (%v)", err)
	}
	if same, err := h.Objects.Decode(kind, v); err != nil || same != obj || !reflect.DeepEqual(before, same) {
		t.Errorf("the shared object changed: %v (%v)", same, err)
	}
}

// TestProtobufWatchFrames: each event is a length and a WatchEvent of that length.
func TestProtobufWatchFrames(t *testing.T) {
	h := harness.New(t)
	do(t, h, "POST", podsPath, "application/json", encode(t, benchPod("p")), "")
	data := do(t, h, "GET", podsPath+"?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "", nil, protobufType+";stream=watch").Body.Bytes()
	var types []string
	for len(data) > 0 {
		if len(data) < 4 || len(data) < 4+int(binary.BigEndian.Uint32(data)) {
			t.Fatalf("a cut frame: %q", data)
		}
		frame := data[4 : 4+binary.BigEndian.Uint32(data)]
		data = data[4+len(frame):]
		var event metav1.WatchEvent
		if err := event.Unmarshal(frame); err != nil {
			t.Fatal(err)
		}
		p := &corev1.Pod{}
		if _, _, err := protobuf.NewSerializer(registry.Scheme, registry.Scheme).Decode(event.Object.Raw, nil, p); err != nil || p.ResourceVersion == "" {
			t.Fatalf("%q: %v", event.Object.Raw, err)
		}
		types = append(types, event.Type)
	}
	if !reflect.DeepEqual(types, []string{"ADDED", "BOOKMARK"}) {
		t.Errorf("events %v", types)
	}
}

// TestComponentStatuses are computed: they can be read, and nothing else.
func TestComponentStatuses(t *testing.T) {
	h := harness.New(t)
	var list corev1.ComponentStatusList
	if err := json.Unmarshal(do(t, h, "GET", "/api/v1/componentstatuses", "", nil, "application/json").Body.Bytes(), &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 3 || list.Items[1].Name != "etcd-0" || list.Items[1].Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("list: %+v", list.Items)
	}
	set := h.Clientset().CoreV1().ComponentStatuses()
	if one, err := set.Get(t.Context(), "scheduler", metav1.GetOptions{}); err != nil || one.Name != "scheduler" {
		t.Errorf("get: %+v, %v", one, err)
	}
	if _, err := set.Get(t.Context(), "other", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("get of one that does not exist: %v", err)
	}
	if err := set.Delete(t.Context(), "scheduler", metav1.DeleteOptions{}); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("delete: %v", err)
	}
	if _, err := set.Watch(t.Context(), metav1.ListOptions{}); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("watch: %v", err)
	}
}
