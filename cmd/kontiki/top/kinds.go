package top

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// Kind is a resource that can be listed.
type Kind struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
	Watched    bool // it can be watched; otherwise it is listed again and again
	names      []string
}

// Title is how the kind is named on the screen: the resource, with the group if it is not one of Kubernetes' short-named ones.
func (k Kind) Title() string {
	if strings.Contains(k.Group, ".") && !strings.HasSuffix(k.Group, ".k8s.io") {
		return k.Resource + "." + k.Group
	}
	return k.Resource
}

// is reports whether it is the resource of a group.
func (k Kind) is(group, resource string) bool { return k.Group == group && k.Resource == resource }

// path is the path of a list, or of an object if a name is given. An empty namespace means all namespaces. Names that would change the
// path are refused.
func (k Kind) path(namespace, name string) (string, error) {
	parts := []string{"/apis", k.Group, k.Version}
	if k.Group == "" {
		parts = []string{"/api", k.Version}
	}
	if k.Namespaced && namespace != "" {
		parts = append(parts, "namespaces", namespace)
	}
	parts = append(parts, k.Resource)
	if name != "" {
		parts = append(parts, name)
	}
	for _, part := range parts[1:] {
		if bad := content.IsPathSegmentName(part); len(bad) > 0 {
			return "", fmt.Errorf("the name %q %s", clean(part, cellBytes), bad[0])
		}
	}
	return strings.Join(parts, "/"), nil
}

// kinds asks the cluster what can be listed. Groups that do not answer are left out.
func kinds(ctx context.Context, client discovery.DiscoveryInterfaceWithContext) ([]Kind, error) {
	lists, err := client.ServerPreferredResourcesWithContext(ctx)
	if len(lists) == 0 && err != nil {
		return nil, err
	}
	var out []Kind
	for _, list := range lists {
		version, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			continue
		}
		for i := range list.APIResources {
			if len(out) == maxKinds {
				break
			}
			if r := &list.APIResources[i]; slices.Contains(r.Verbs, "list") && !strings.Contains(r.Name, "/") {
				out = append(out, kindOf(version, r))
			}
		}
	}
	// Names that several groups have are the core group's, then those of the group that the server names first.
	slices.SortStableFunc(out, func(a, b Kind) int {
		switch {
		case (a.Group == "") == (b.Group == ""):
			return 0
		case a.Group == "":
			return -1
		}
		return 1
	})
	return out, nil
}

func kindOf(version schema.GroupVersion, r *metav1.APIResource) Kind {
	if r.Group != "" {
		version.Group = r.Group
	}
	if r.Version != "" {
		version.Version = r.Version
	}
	k := Kind{GroupVersionResource: version.WithResource(r.Name), Kind: r.Kind, Namespaced: r.Namespaced, Watched: slices.Contains(r.Verbs, "watch")}
	k.names = []string{r.Name, r.SingularName, strings.ToLower(r.Kind)}
	k.names = append(k.names, r.ShortNames...)
	if k.Group != "" {
		k.names = append(k.names, r.Name+"."+k.Group)
	}
	return k
}

// find returns the kind that a user names as kubectl takes it: by plural, singular, kind, short name, or plural and group.
func find(all []Kind, name string) (Kind, bool) {
	name = strings.ToLower(name)
	for _, k := range all {
		if name != "" && slices.Contains(k.names, name) {
			return k, true
		}
	}
	return Kind{}, false
}
