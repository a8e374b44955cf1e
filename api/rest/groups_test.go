package rest

import (
	"encoding/json"
	"strings"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/api/registry"
)

// podCodec is the codec of things, which are empty.
type podCodec struct{ registry.Codec }

func (podCodec) New(schema.GroupVersionKind) registry.Object { return &corev1.Pod{} }

// A group of several versions is listed once, and a resource of another group with the name pods has no subresources of pods.
func TestGroupsInDiscovery(t *testing.T) {
	row := func(group, resource string, versions ...string) *registry.Resource {
		return &registry.Resource{Group: group, Versions: versions, Kind: "Thing", Resource: resource, Namespaced: true, Codec: podCodec{}}
	}
	d, err := newDiscovery(registry.NewTable(row("example.com", "pods", "v1", "v2"), row("other.io", "things", "v1"), row("", "pods", "v1")))
	if err != nil {
		t.Fatal(err)
	}
	read := func(from map[string][]byte, path string, into any) {
		t.Helper()
		if err := json.Unmarshal(from[path], into); err != nil {
			t.Fatal(path, err)
		}
	}
	var groups metav1.APIGroupList
	read(d.documents, "/apis", &groups)
	if len(groups.Groups) != 2 || groups.Groups[0].Name != "example.com" || len(groups.Groups[0].Versions) != 2 || groups.Groups[0].PreferredVersion.Version != "v1" {
		t.Errorf("groups: %+v", groups.Groups)
	}
	var group metav1.APIGroup
	if read(d.documents, "/apis/example.com", &group); len(group.Versions) != 2 || group.Kind != "APIGroup" {
		t.Errorf("the group: %+v", group)
	}
	var all apidiscoveryv2.APIGroupDiscoveryList
	if read(d.aggregated, "/apis", &all); len(all.Items) != 2 || len(all.Items[0].Versions) != 2 {
		t.Errorf("aggregated: %+v", all.Items)
	}
	var resources metav1.APIResourceList
	read(d.documents, "/apis/example.com/v2", &resources)
	for _, r := range resources.APIResources {
		if strings.Contains(r.Name, "/") {
			t.Errorf("example.com has %s", r.Name)
		}
	}
	if read(d.documents, "/api/v1", &resources); len(resources.APIResources) != 8 {
		t.Errorf("core has %+v", resources.APIResources)
	}
}
