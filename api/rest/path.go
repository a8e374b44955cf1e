package rest

import (
	"net/http"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/registry"
)

// target is the parsed path of a request.
type target struct {
	group, version  string
	resource        string
	namespace, name string
	subresource     string
	// rest is the path after the subresource (for proxies), with its leading slash.
	rest string
	// special is the verb in the path: the deprecated /api/v1/watch/..., or /api/v1/proxy/..., which is no longer served.
	special string
	// within is the namespace in the path. For a namespace itself, namespace is empty.
	within string
}

// parsePath parses /api/v1/... and /apis/GROUP/VERSION/... as k8s.io/apiserver's RequestInfo does. ok is false for a path that does
// not name a resource.
func parsePath(path string) (t target, ok bool) {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	switch {
	case len(parts) >= 3 && parts[0] == "api":
		t.version, parts = parts[1], parts[2:]
	case len(parts) >= 4 && parts[0] == "apis":
		t.group, t.version, parts = parts[1], parts[2], parts[3:]
	default:
		return t, false
	}
	if (parts[0] == "watch" || parts[0] == "proxy") && len(parts) > 1 {
		t.special, parts = parts[0], parts[1:]
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		t.within = parts[1]
		// namespaces/NAME, namespaces/NAME/status and /finalize refer to the namespace itself.
		if len(parts) > 2 && !(len(parts) == 3 && (parts[2] == "status" || parts[2] == "finalize")) {
			t.namespace, parts = parts[1], parts[2:]
		}
	}
	t.resource = parts[0]
	if len(parts) > 1 {
		t.name = parts[1]
	}
	if len(parts) > 2 && t.special != "proxy" {
		t.subresource = parts[2]
		// Keep the path as it was sent: a proxied path may end in a slash or contain empty segments.
		if i := strings.Index(path, "/"+parts[1]+"/"+parts[2]); i >= 0 {
			t.rest = path[i+len("/"+parts[1]+"/"+parts[2]):]
		}
	}
	return t, true
}

// verb returns the Kubernetes verb of a request for a resource, "" for a method that has none.
func (t *target) verb(r *http.Request) string {
	if t.special != "" {
		return t.special
	}
	named := t.name != ""
	switch r.Method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		if named {
			return "delete"
		}
		return "deletecollection"
	case http.MethodGet, http.MethodHead:
		if named {
			return "get"
		}
		if asked, ok := r.URL.Query()["watch"]; ok && !isFalse(asked[0]) {
			return "watch"
		}
		return "list"
	}
	return ""
}

// attributes returns a request as authorizers and audit policies see it, like upstream's RequestInfo, without its user.
func (c *call) attributes() authorizer.AttributesRecord {
	t := &c.target
	a := authorizer.AttributesRecord{
		Verb: c.verb, APIGroup: t.group, APIVersion: t.version, Resource: t.resource, Subresource: t.subresource,
		Namespace: t.within, Name: t.name, ResourceRequest: c.isResource, Path: c.r.URL.Path,
	}
	if t.special != "" {
		return a
	}
	switch c.verb {
	case "list", "watch", "deletecollection":
		query := c.r.URL.Query()
		fields := query.Get("fieldSelector")
		auth.Select(&a, fields, query.Get("labelSelector"))
		if c.verb != "deletecollection" {
			a.Name = auth.SelectedName(fields)
		}
	}
	return a
}

// isFalse says whether a boolean parameter that is present has the value false, as upstream parses it.
func isFalse(value string) bool { return value == "0" || strings.EqualFold(value, "false") }

func isTrue(value string) bool { return value == "1" || strings.EqualFold(value, "true") }

// Serves says whether a path of upstream's API (with "{namespace}" and "{name}" in it) is served for a table of kinds.
func Serves(table *registry.Table, path string) bool {
	t, ok := parsePath(path)
	if !ok {
		return servesDiscovery(table, path)
	}
	kind, ok := table.ByResource(t.group, t.version, t.resource)
	if !ok || t.subresource == "" {
		return ok
	}
	for _, sub := range subresourcesOf(kind) {
		if sub.name == t.subresource {
			return true
		}
	}
	return false
}

// servesDiscovery says whether a path that names no resource is served: those of groups and versions depend on the table.
func servesDiscovery(table *registry.Table, path string) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	if parts[0] != "apis" || len(parts) == 1 {
		return true
	}
	return slices.ContainsFunc(table.Kinds(), func(k *registry.Kind) bool {
		return k.Group == parts[1] && (len(parts) == 2 || k.Version == parts[2])
	})
}
