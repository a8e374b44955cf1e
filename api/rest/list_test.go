package rest_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/test/harness"
)

// Lists in every form that is written item by item have the same content, whatever their length.
func TestListsItemByItem(t *testing.T) {
	h := harness.New(t)
	const path = "/api/v1/namespaces/default/secrets"
	// Tables have ages, which may be another second's in the next request.
	age := regexp.MustCompile(`\b[0-9]+s\b`)
	get := func(path, accept string) []byte {
		return age.ReplaceAll(do(t, h, "GET", path, "", nil, accept).Body.Bytes(), []byte("0s"))
	}
	for n, text := range []string{"", "a: b\n\n  c\n", "- x\n   \ny", "# no comment\n'\"\\\t"} {
		for _, list := range []struct{ accept, items string }{
			{"", "items"}, {";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", "items"}, {";as=Table;g=meta.k8s.io;v=v1", "rows"}, {";as=Table;g=meta.k8s.io;v=v1beta1", "rows"},
		} {
			var want map[string]any
			compact := get(path, "application/json"+list.accept)
			if err := json.Unmarshal(compact, &want); err != nil {
				t.Fatalf("%v: %s", err, compact)
			}
			if items, _ := want[list.items].([]any); len(items) != n {
				t.Errorf("%q: %d of %d items: %s", list.accept, len(items), n, compact)
			}
			var pretty, fromYAML map[string]any
			body := get(path+"?pretty=true", "application/json"+list.accept)
			if err := json.Unmarshal(body, &pretty); err != nil || !reflect.DeepEqual(pretty, want) {
				t.Errorf("%q, indented: %v\n%s\nwant\n%s", list.accept, err, body, compact)
			}
			indented, err := json.MarshalIndent(json.RawMessage(compact), "", "  ")
			if err != nil || string(indented)+"\n" != string(body) {
				t.Errorf("%q is indented as %s", list.accept, body)
			}
			body = get(path, "application/yaml"+list.accept)
			if err := yaml.UnmarshalStrict(body, &fromYAML); err != nil || !reflect.DeepEqual(fromYAML, want) {
				t.Errorf("%q, as YAML: %v\n%s\nwant\n%s", list.accept, err, body, compact)
			}
		}
		var secrets corev1.SecretList
		var metadata metav1.PartialObjectMetadataList
		for _, list := range []struct {
			accept string
			into   interface{ Unmarshal([]byte) error }
			count  func() int
		}{
			{"", &secrets, func() int { return len(secrets.Items) }},
			{";as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", &metadata, func() int { return len(metadata.Items) }},
		} {
			raw, err := registry.Unwrap(do(t, h, "GET", path, "", nil, typeProtobuf+list.accept).Body.Bytes())
			if err == nil {
				err = list.into.Unmarshal(raw)
			}
			if err != nil || list.count() != n {
				t.Errorf("%q in protobuf: %d of %d items, %v", list.accept, list.count(), n, err)
			}
		}
		for i := range secrets.Items {
			if secrets.Items[i].Name != metadata.Items[i].Name || metadata.Items[i].ResourceVersion == "" || len(secrets.Items[i].Data["k"]) == 0 && i > 0 {
				t.Errorf("item %d: %v, %v", i, secrets.Items[i], metadata.Items[i].ObjectMeta)
			}
		}
		secret := &corev1.Secret{TypeMeta: metav1.TypeMeta{Kind: "Secret", APIVersion: "v1"}, Data: map[string][]byte{"k": []byte(text)},
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("s-", n), Annotations: map[string]string{"text": text}}}
		if w := do(t, h, "POST", path, typeJSON, encode(t, secret), ""); w.Code != http.StatusCreated {
			t.Fatal(w.Body)
		}
	}
}
