package openapi_test

import (
	"fmt"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
	"github.com/kontiki/kontiki/api/registry/custom"
)

// defined returns the kinds of a definition with versions v1 to vN.
func defined(t *testing.T, plural, kind string, versions int) []*registry.Kind {
	t.Helper()
	names := apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Singular: plural, Kind: kind, ListKind: kind + "List"}
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + ".example.com"},
		Spec:       apiextensionsv1.CustomResourceDefinitionSpec{Group: "example.com", Scope: apiextensionsv1.NamespaceScoped, Names: names},
		Status:     apiextensionsv1.CustomResourceDefinitionStatus{AcceptedNames: names},
	}
	for i := 1; i <= versions; i++ {
		crd.Spec.Versions = append(crd.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{Name: fmt.Sprint("v", i), Served: true, Storage: i == 1,
			Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}}})
	}
	rows, err := custom.Rows(crd, &registry.Life{Identity: plural, Over: t.Context()}, custom.None{})
	if err != nil {
		t.Fatal(err)
	}
	return registry.NewKinds(rows...)
}

// TestVersion2IsBounded: of a definition with very many versions the documents of version 2 have the preferred ones, and others whole; those of
// version 3 have all.
func TestVersion2IsBounded(t *testing.T) {
	d := of(t, builtin.Kinds().With(append(defined(t, "manies", "Many", 1000), defined(t, "widgets", "Widget", 2)...)))
	packed, err := d.V2JSON()
	if err != nil {
		t.Fatal(err)
	}
	doc := read(t, packed)
	size, many := 0, 0
	for path, text := range doc.Paths {
		if strings.HasPrefix(path, "/apis/example.com/") {
			size += len(text)
		}
	}
	for i := range 1000 {
		if doc.Paths[fmt.Sprintf("/apis/example.com/v%d/manies", i+1)] != nil {
			many++
		}
	}
	if size > 9<<20 || many < 100 || many == 1000 {
		t.Errorf("%d bytes, %d of 1000 versions", size, many)
	}
	for path, want := range map[string]bool{
		"/apis/example.com/v1000/manies": true, "/apis/example.com/v1/manies": false, "/apis/example.com/v1/widgets": true, "/apis/example.com/v2/widgets": true,
	} {
		if got := doc.Paths[path] != nil; got != want {
			t.Errorf("%s is described: %t", path, got)
		}
	}
	if doc.Definitions["com.example.v1000.Many"] == nil || doc.Definitions["com.example.v1.Many"] != nil {
		t.Error("the definitions are not those of the paths")
	}
	for _, version := range []string{"v1", "v1000"} {
		packed, ok, err := d.Document("apis/example.com/" + version)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if read(t, packed).Paths["/apis/example.com/"+version+"/manies"] == nil {
			t.Errorf("version 3 does not describe %s", version)
		}
	}
	if _, err := d.V2Proto(); err != nil {
		t.Error(err)
	}
}
