package rest

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/registry"
)

// serveDiscovery responds to a discovery path; it returns false for other paths.
func (c *call) serveDiscovery() bool {
	if path := c.r.URL.Path; path == "/apis" || strings.HasPrefix(path, "/apis/") {
		c.catchUp()
	}
	m, err := c.mergedNow()
	if err != nil {
		c.fail(err)
		return true
	}
	return m.discovery.serve(c.w, c.r)
}

// discovery serves the lists of groups and resources of one table in both forms: one document per group version, and all of them
// aggregated into one (KEP-3352). Everything is encoded once.
type discovery struct {
	documents  map[string][]byte
	aggregated map[string][]byte
	// groups and named are what /apis is made of in both forms.
	groups *metav1.APIGroupList
	named  []apidiscoveryv2.APIGroupDiscovery
}

// groupVersion is one group version with its kinds, in the table's order.
type groupVersion struct {
	group, version string
	kinds          []*registry.Kind
}

func newDiscovery(table *registry.Table) (*discovery, error) {
	var all []groupVersion
	for _, kind := range table.Kinds() {
		i := slices.IndexFunc(all, func(gv groupVersion) bool { return gv.group == kind.Group && gv.version == kind.Version })
		if i < 0 {
			i = len(all)
			all = append(all, groupVersion{group: kind.Group, version: kind.Version})
		}
		all[i].kinds = append(all[i].kinds, kind)
	}
	d := &discovery{documents: map[string][]byte{}, aggregated: map[string][]byte{}}
	groups := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
	core, named := []apidiscoveryv2.APIGroupDiscovery{}, []apidiscoveryv2.APIGroupDiscovery{}
	for _, gv := range all {
		path, aggregated := "/apis/"+gv.group+"/"+gv.version, &named
		if gv.group == "" {
			path, aggregated = "/api/"+gv.version, &core
		} else {
			addVersion(groups, gv)
		}
		addAggregated(aggregated, gv)
		if err := d.add(d.documents, path, resourceList(gv)); err != nil {
			return nil, err
		}
	}
	d.groups, d.named = groups, named
	versions := &metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions", APIVersion: "v1"}, Versions: []string{"v1"},
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{}}
	if err := d.add(d.documents, "/api", versions); err != nil {
		return nil, err
	}
	if err := d.add(d.aggregated, "/api", &apidiscoveryv2.APIGroupDiscoveryList{TypeMeta: aggregatedList, Items: core}); err != nil {
		return nil, err
	}
	return d, d.addGroups()
}

var aggregatedList = metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/v2"}

// addGroups adds the documents about groups.
func (d *discovery) addGroups() error {
	for _, group := range d.groups.Groups {
		group.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
		if err := d.add(d.documents, "/apis/"+group.Name, &group); err != nil {
			return err
		}
	}
	if err := d.add(d.documents, "/apis", d.groups); err != nil {
		return err
	}
	return d.add(d.aggregated, "/apis", &apidiscoveryv2.APIGroupDiscoveryList{TypeMeta: aggregatedList, Items: d.named})
}

// addVersion adds a version to its group. The first one is preferred.
func addVersion(groups *metav1.APIGroupList, gv groupVersion) {
	version := metav1.GroupVersionForDiscovery{GroupVersion: gv.group + "/" + gv.version, Version: gv.version}
	i := slices.IndexFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == gv.group })
	if i < 0 {
		groups.Groups = append(groups.Groups, metav1.APIGroup{Name: gv.group, PreferredVersion: version})
		i = len(groups.Groups) - 1
	}
	groups.Groups[i].Versions = append(groups.Groups[i].Versions, version)
}

// addAggregated adds a version to its group in the aggregated form.
func addAggregated(groups *[]apidiscoveryv2.APIGroupDiscovery, gv groupVersion) {
	i := slices.IndexFunc(*groups, func(g apidiscoveryv2.APIGroupDiscovery) bool { return g.Name == gv.group })
	if i < 0 {
		*groups = append(*groups, apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: gv.group}})
		i = len(*groups) - 1
	}
	(*groups)[i].Versions = append((*groups)[i].Versions, aggregatedVersion(gv))
}

func (d *discovery) add(into map[string][]byte, path string, value any) error {
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("discovery of %s: %w", path, err)
	}
	into[path] = body
	return nil
}

// subresource is a resource of a kind besides the main one.
type subresource struct {
	name, group, version, kind string
	verbs                      metav1.Verbs
}

// subresourcesOf returns a kind's subresources: those in its row, and those with special handlers.
func subresourcesOf(k *registry.Kind) []subresource {
	var out []subresource
	if k.Scale != nil {
		out = append(out, subresource{"scale", "autoscaling", "v1", "Scale", metav1.Verbs{"get", "patch", "update"}})
	}
	if k.Status != nil {
		out = append(out, subresource{"status", "", "", k.Kind, metav1.Verbs{"get", "patch", "update"}})
	}
	for name := range k.Subresources {
		verbs := metav1.Verbs{"get", "patch", "update"}
		if name == "finalize" {
			verbs = metav1.Verbs{"update"}
		}
		out = append(out, subresource{name, "", "", k.Kind, verbs})
	}
	for of, special := range specialSubresources {
		if resource, name, _ := strings.Cut(of.Resource, "/"); of.Group == k.Group && resource == k.Resource {
			special.name = name
			out = append(out, special.subresource)
		}
	}
	slices.SortFunc(out, func(a, b subresource) int { return strings.Compare(a.name, b.name) })
	return out
}

func resourceList(gv groupVersion) *metav1.APIResourceList {
	list := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}}
	list.GroupVersion = strings.TrimPrefix(gv.group+"/"+gv.version, "/")
	for _, k := range gv.kinds {
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: k.Resource, SingularName: k.Singular, Namespaced: k.Namespaced, Kind: k.Kind, Verbs: k.DiscoveredVerbs(),
			ShortNames: k.ShortNames, Categories: k.Categories, StorageVersionHash: "",
		})
		for _, sub := range subresourcesOf(k) {
			list.APIResources = append(list.APIResources, metav1.APIResource{
				Name: k.Resource + "/" + sub.name, Namespaced: k.Namespaced, Group: sub.group, Version: sub.version, Kind: sub.kind, Verbs: sub.verbs,
			})
		}
	}
	return list
}

func aggregatedVersion(gv groupVersion) apidiscoveryv2.APIVersionDiscovery {
	version := apidiscoveryv2.APIVersionDiscovery{Version: gv.version, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent}
	for _, k := range gv.kinds {
		scope := apidiscoveryv2.ScopeCluster
		if k.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		resource := apidiscoveryv2.APIResourceDiscovery{
			Resource: k.Resource, ResponseKind: &metav1.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind},
			Scope: scope, SingularResource: k.Singular, Verbs: k.DiscoveredVerbs(), ShortNames: k.ShortNames, Categories: k.Categories,
		}
		for _, sub := range subresourcesOf(k) {
			kind := metav1.GroupVersionKind{Group: sub.group, Version: sub.version, Kind: sub.kind}
			if kind.Version == "" {
				kind.Group, kind.Version = k.Group, k.Version
			}
			resource.Subresources = append(resource.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: sub.name, ResponseKind: &kind, Verbs: sub.verbs})
		}
		version.Resources = append(version.Resources, resource)
	}
	return version
}

// serve responds to a discovery path; it returns false for other paths.
func (d *discovery) serve(w http.ResponseWriter, r *http.Request) bool {
	path := strings.TrimSuffix(r.URL.Path, "/")
	if body, ok := d.aggregated[path]; ok && wantsAggregated(r) {
		w.Header().Set("Content-Type", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")
		w.Header().Set("Vary", "Accept")
		w.Write(body)
		return true
	}
	body, ok := d.documents[path]
	if ok {
		w.Header().Set("Content-Type", typeJSON)
		w.Header().Set("Vary", "Accept")
		w.Write(body)
	}
	return ok
}

// wantsAggregated says whether the client prefers the aggregated form to the plain one.
func wantsAggregated(r *http.Request) bool {
	for _, clause := range strings.Split(r.Header.Get("Accept"), ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(clause))
		if err != nil || (media != typeJSON && media != "*/*") {
			continue
		}
		if params["as"] == "" {
			return false
		}
		if params["as"] == "APIGroupDiscoveryList" && params["g"] == "apidiscovery.k8s.io" && params["v"] == "v2" {
			return true
		}
	}
	return false
}
