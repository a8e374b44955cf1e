package rest

import (
	"net/http"
	"strings"

	"github.com/kontiki/kontiki/api/registry"
)

// target is the parsed path of a request.
type target struct {
	group, version  string
	resource        string
	namespace, name string
	subresource     string
	// rest is the path after the subresource (for proxies), with its leading slash.
	rest  string
	watch bool
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
	if parts[0] == "watch" && len(parts) > 1 {
		t.watch, parts = true, parts[1:]
	}
	if parts[0] == "namespaces" && len(parts) > 1 {
		// namespaces/NAME, namespaces/NAME/status and /finalize refer to the namespace itself.
		if len(parts) > 2 && !(len(parts) == 3 && (parts[2] == "status" || parts[2] == "finalize")) {
			t.namespace, parts = parts[1], parts[2:]
		}
	}
	t.resource = parts[0]
	if len(parts) > 1 {
		t.name = parts[1]
	}
	if len(parts) > 2 {
		t.subresource = parts[2]
		// Keep the path as it was sent: a proxied path may end in a slash or contain empty segments.
		if i := strings.Index(path, "/"+parts[1]+"/"+parts[2]); i >= 0 {
			t.rest = path[i+len("/"+parts[1]+"/"+parts[2]):]
		}
	}
	return t, true
}

// verb returns the Kubernetes verb of a request for a resource.
func (t *target) verb(r *http.Request) string {
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
		if t.watch || isTrue(r.URL.Query().Get("watch")) {
			return "watch"
		}
		if named {
			return "get"
		}
		return "list"
	}
	return strings.ToLower(r.Method)
}

func isTrue(value string) bool { return value == "1" || strings.EqualFold(value, "true") }

// Serves says whether a path of upstream's API (with "{namespace}" and "{name}" in it) is served for a table of kinds.
func Serves(table *registry.Table, path string) bool {
	t, ok := parsePath(path)
	if !ok {
		return true // discovery
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
