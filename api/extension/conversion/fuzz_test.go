package conversion

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// replies is a webhook whose response is given, but for the UID of the request, which stands where the response says UID.
type replies []byte

// Post implements Poster.
func (r replies) Post(_ context.Context, body []byte) ([]byte, error) {
	var review apiextensionsv1.ConversionReview
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, err
	}
	return bytes.ReplaceAll(r, []byte("UID"), []byte(review.Request.UID)), nil
}

// FuzzConversions takes the response of a conversion webhook. Whatever it is, there is an error, or an object of the version that was asked for, which is JSON, and
// of whose metadata only labels and annotations have changed; what was to be converted stays as it is.
func FuzzConversions(f *testing.F) {
	const before = `{"apiVersion":"ConversionReview","kind":"ConversionReview","response":{"uid":"UID","result":{"status":"Success"},"convertedObjects":[`
	const good = `{"apiVersion":"apiextensions.k8s.io/v1","kind":"ConversionReview","response":{"uid":"UID","result":{"status":"Success"},"convertedObjects":[`
	const object = `{"apiVersion":"example.com/v2","kind":"Widget","metadata":{"name":"a","namespace":"default","uid":"u","labels":{"a":"b"}},"spec":{"n":1,"f":1.5,"l":[null,true,{}]}}`
	for _, seed := range []string{
		before + object + `]}}`, good + object + `]}}`, good + `]}}`, good + `null]}}`, good + object + `,` + object + `]}}`,
		good + `{"apiVersion":"example.com/v2","kind":"Widget","metadata":{"name":"a","namespace":"default","uid":"u","labels":null,"annotations":{"x":7},"resourceVersion":9}}]}}`,
		good + `{"apiVersion":"example.com/v2","kind":"Widget","metadata":[]}]}}`, good + `{"apiVersion":{},"kind":1e400,"metadata":null}]}}`,
		`{"response":{"result":{"status":"Failure","message":"no"}}}`, `[]`, ``, `null`,
	} {
		f.Add([]byte(seed))
	}
	given := func() *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{
			"name": "a", "namespace": "default", "uid": "u", "resourceVersion": "5", "generation": int64(2), "finalizers": []any{"example.com/f"}, "labels": map[string]any{"old": "yes"},
		}, "spec": map[string]any{"n": int64(1)}}}
	}
	f.Fuzz(func(t *testing.T, response []byte) {
		in := given()
		w := &Webhook{definition: "widgets.example.com", hook: replies(response), versions: []string{"v1"}}
		out, err := w.Convert([]*unstructured.Unstructured{in}, "example.com/v2")
		if !reflect.DeepEqual(in, given()) {
			t.Fatalf("what was given is now %v", in.Object)
		}
		if err != nil {
			return
		}
		if len(out) != 1 || out[0].GetAPIVersion() != "example.com/v2" {
			t.Fatalf("it is %v", out)
		}
		got := out[0].DeepCopy() // which panics if it is not JSON
		if _, err := got.MarshalJSON(); err != nil {
			t.Fatal(err)
		}
		want := given()
		for _, u := range []*unstructured.Unstructured{got, want} {
			u.SetLabels(nil)
			u.SetAnnotations(nil)
		}
		if !reflect.DeepEqual(got.Object["metadata"], want.Object["metadata"]) || got.GetKind() != want.GetKind() {
			t.Fatalf("the metadata is now %v", got.Object)
		}
	})
}
