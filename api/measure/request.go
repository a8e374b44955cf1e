package measure

import "strings"

// verbs are upstream's names of verbs.
var verbs = map[string]string{
	"get": "GET", "list": "LIST", "watch": "WATCH", "create": "POST", "update": "PUT", "patch": "PATCH", "delete": "DELETE", "deletecollection": "DELETECOLLECTION",
	"post": "POST", "put": "PUT", "head": "GET",
}

// subresources are those that some resource may have; others are a client's invention.
var subresources = map[string]bool{
	"status": true, "scale": true, "binding": true, "eviction": true, "log": true, "exec": true, "attach": true, "portforward": true, "proxy": true,
	"token": true, "approval": true, "finalize": true, "ephemeralcontainers": true, "resize": true,
}

// paths are the paths beside resources that are counted apart.
var paths = []string{"/healthz", "/livez", "/readyz", "/version", "/openapi", "/metrics", "/apis", "/api", "/kontiki", "/debug", "/ui"}

// Subresource returns a subresource, or "" if none has that name.
func Subresource(name string) string {
	if subresources[name] {
		return name
	}
	return ""
}

// PathRequest returns the request for a path that is no resource, by the API's verb or the method in lower case.
func PathRequest(verb, path string) Request {
	r := Request{Verb: verbs[verb]}
	for _, known := range paths {
		if path == known || strings.HasPrefix(path, known+"/") {
			r.Subresource = known
			break
		}
	}
	return r
}

// ResourceRequest returns the request for a resource of the table of resources, by the API's verb.
func ResourceRequest(verb, group, version, resource, subresource string, namespaced, named bool) Request {
	r := Request{Verb: verbs[verb], Group: group, Version: version, Resource: resource, Subresource: Subresource(subresource)}
	switch r.Subresource {
	case "exec", "attach", "portforward", "proxy":
		r.Verb = "CONNECT"
	}
	switch {
	case named || verb == "create":
		r.Scope = "resource"
	case namespaced:
		r.Scope = "namespace"
	default:
		r.Scope = "cluster"
	}
	return r
}
