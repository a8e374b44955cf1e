package rest_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"

	"github.com/kontiki/kontiki/test/harness"
)

// Clients offer and check the allowed values of a field.
func TestOpenAPINamesTheValuesOfFields(t *testing.T) {
	config := harness.New(t).Config("admin", "system:masters")
	for path, schema := range map[string]string{"/openapi/v3/api/v1": "components.schemas", "/openapi/v2": "definitions"} {
		code, body := raw(t, config, "GET", path, "", nil, "Accept", "application/json")
		if code != 200 {
			t.Fatal(code, body)
		}
		var doc map[string]any
		if err := json.Unmarshal([]byte(body), &doc); err != nil {
			t.Fatal(err)
		}
		for _, part := range append(strings.Split(schema, "."), "io.k8s.api.core.v1.PodSpec", "properties", "restartPolicy") {
			doc, _ = doc[part].(map[string]any)
		}
		if fmt.Sprint(doc["enum"]) != "[Always Never OnFailure]" || !strings.Contains(fmt.Sprint(doc["description"]), "Possible enum values:") {
			t.Errorf("%s: restartPolicy is %v", path, doc)
		}
	}
}

func TestBothFormsOfDiscoveryAgree(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	modern, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	legacy, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	legacy.UseLegacyDiscovery = true
	groups, resources, err := modern.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	oldGroups, oldResources, err := legacy.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	flat := func(lists []*metav1.APIResourceList) map[string]metav1.APIResource {
		all := map[string]metav1.APIResource{}
		for _, list := range lists {
			for _, r := range list.APIResources {
				gv := strings.Split("/"+list.GroupVersion, "/")
				if r.Version == "" { // the short form means the list's own
					r.Group, r.Version = gv[len(gv)-2], gv[len(gv)-1]
				}
				r.StorageVersionHash = ""
				if strings.Contains(r.Name, "/") {
					r.SingularName = "" // the newer client repeats the resource's
				}
				all[list.GroupVersion+" "+r.Name] = r
			}
		}
		return all
	}
	a, b := flat(resources), flat(oldResources)
	for name, resource := range a {
		if !reflect.DeepEqual(resource, b[name]) {
			t.Errorf("%s: %+v, the old form says %+v", name, resource, b[name])
		}
	}
	if len(a) != len(b) || len(groups) != len(oldGroups) || len(groups) < 5 {
		t.Errorf("%d resources of %d groups, the old form has %d of %d", len(a), len(groups), len(b), len(oldGroups))
	}
	for _, k := range h.Objects.Kinds().Kinds() {
		gv := strings.TrimPrefix(k.Group+"/"+k.Version, "/")
		if r, ok := a[gv+" "+k.Resource]; !ok || r.Kind != k.Kind || r.Namespaced != k.Namespaced {
			t.Errorf("%s is not discovered: %+v", k.GVK(), r)
		}
	}
	if r := a["v1 namespaces"]; strings.Contains(fmt.Sprint(r.Verbs), "deletecollection") {
		t.Errorf("all namespaces can be deleted at once: %v", r.Verbs)
	}
}

func TestOpenAPIDescribesWhatIsServed(t *testing.T) {
	h := harness.New(t)
	set := h.Clientset()
	paths, err := set.Discovery().OpenAPIV3().Paths()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range h.Objects.Kinds().Kinds() {
		name := "api/" + k.Version
		if k.Group != "" {
			name = "apis/" + k.Group + "/" + k.Version
		}
		gv, ok := paths[name]
		if !ok {
			t.Errorf("no document %s", name)
			continue
		}
		data, err := gv.Schema("application/json")
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			OpenAPI    string                    `json:"openapi"`
			Paths      map[string]map[string]any `json:"paths"`
			Components struct {
				Schemas map[string]any `json:"schemas"`
			} `json:"components"`
		}
		if err := json.Unmarshal(data, &doc); err != nil || !strings.HasPrefix(doc.OpenAPI, "3.") {
			t.Fatalf("%s: version %q, %v", name, doc.OpenAPI, err)
		}
		collection := "/" + name + "/" + k.Resource
		if k.Namespaced {
			collection = "/" + name + "/namespaces/{namespace}/" + k.Resource
		}
		for _, path := range []string{collection, collection + "/{name}"} {
			if path != collection && !k.Serves("get") {
				continue
			}
			if _, ok := doc.Paths[path]; !ok {
				t.Errorf("%s does not describe %s", name, path)
			}
		}
		if k.Status != nil {
			if _, ok := doc.Paths[collection+"/{name}/status"]; !ok {
				t.Errorf("%s does not describe the status of %s", name, k.Kind)
			}
		}
		if k.Scale != nil {
			if _, ok := doc.Paths[collection+"/{name}/scale"]; !ok {
				t.Errorf("%s does not describe the scale of %s", name, k.Kind)
			}
		}
		for _, reference := range strings.Split(string(data), `"#/components/schemas/`)[1:] {
			schema, _, _ := strings.Cut(reference, `"`)
			if doc.Components.Schemas[schema] == nil {
				t.Fatalf("%s refers to %s, which it lacks", name, schema)
			}
		}
	}
}

// TestUnknownKindsAreNamed: kubectl's strict validation lists CustomResourceDefinitions before it reports that a kind is unknown.
func TestUnknownKindsAreNamed(t *testing.T) {
	config := harness.New(t).Config("admin", "system:masters")
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	finder := resource.NewCRDFinder(resource.CRDFromDynamic(client))
	if found, err := finder.HasCRD(schema.GroupKind{Kind: "Gadget"}); found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	definitions := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if _, err := definitions.Get(t.Context(), "gadgets.example.com", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a definition by name: %v", err)
	}
}
