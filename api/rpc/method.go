package rpc

import (
	"strings"

	"github.com/kontiki/kontiki/api/objects"
)

// method is what is known about a call from its path.
type method struct {
	// verb is the verb of the equivalent REST request.
	verb string
	// path is the path of the equivalent REST request if it concerns no object; the caller must be allowed to use it. It is "" for
	// Objects and Pods, which authorize each object.
	path string
	// subresource is set if the method is for one.
	subresource string
	// named means that the call's first message names an object.
	named bool
	// longRunning calls last as long as their clients want.
	longRunning bool
}

// rules are the rules of methods, by method or by service.
var rules = map[string]method{
	"/grpc.health.v1.Health":                    {verb: "get", path: "/healthz"},
	"/grpc.reflection.v1.ServerReflection":      {verb: "get", path: "/openapi"},
	"/grpc.reflection.v1alpha.ServerReflection": {verb: "get", path: "/openapi"},

	"/kontiki.v1.Objects/Get":              {verb: "get", named: true},
	"/kontiki.v1.Objects/List":             {verb: "list", named: true},
	"/kontiki.v1.Objects/Watch":            {verb: "watch", named: true},
	"/kontiki.v1.Objects/Create":           {verb: "create", named: true},
	"/kontiki.v1.Objects/Update":           {verb: "update", named: true},
	"/kontiki.v1.Objects/Patch":            {verb: "patch", named: true},
	"/kontiki.v1.Objects/Apply":            {verb: "patch", named: true},
	"/kontiki.v1.Objects/Delete":           {verb: "delete", named: true},
	"/kontiki.v1.Objects/DeleteCollection": {verb: "deletecollection", named: true},
	"/kontiki.v1.Objects/Transact":         {verb: "post"},

	"/kontiki.v1.Pods/Logs":        {verb: "get", subresource: "log", named: true},
	"/kontiki.v1.Pods/Exec":        {verb: "create", subresource: "exec", named: true},
	"/kontiki.v1.Pods/PortForward": {verb: "create", subresource: "portforward", named: true},

	"/kontiki.v1.Cluster/Status":             {verb: "get", path: "/kontiki/v1/cluster"},
	"/kontiki.v1.Cluster/Members":            {verb: "get", path: "/kontiki/v1/cluster/members"},
	"/kontiki.v1.Cluster/RemoveMember":       {verb: "delete", path: "/kontiki/v1/cluster/members"},
	"/kontiki.v1.Cluster/TransferLeadership": {verb: "post", path: "/kontiki/v1/cluster/transfer"},
	"/kontiki.v1.Cluster/CreateToken":        {verb: "post", path: "/kontiki/v1/tokens"},
	"/kontiki.v1.Cluster/ListTokens":         {verb: "get", path: "/kontiki/v1/tokens"},
	"/kontiki.v1.Cluster/RevokeToken":        {verb: "delete", path: "/kontiki/v1/tokens"},
	"/kontiki.v1.Cluster/Snapshot":           {verb: "get", path: "/kontiki/v1/snapshot"},
}

// methodOf returns the rule for a request's path. Methods of Cluster without a rule are allowed only to users who may do
// everything.
func (s *Server) methodOf(path string) method {
	m, ok := rules[path]
	if !ok {
		service, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		if m, ok = rules["/"+service]; !ok {
			m.verb = "post"
		}
		if !ok && service == "kontiki.v1.Cluster" {
			m.path = "/kontiki/v1/cluster"
		}
	}
	unary, known := s.unaryMethods[path]
	m.longRunning = objects.LongRunning(m.verb, m.subresource) || (m.path != "" && known && !unary)
	return m
}

// equivalent returns the path of the equivalent REST request, or the call's own path if what it concerns is known only later.
func (m method) equivalent(path string) string {
	if m.path != "" {
		return m.path
	}
	return path
}
