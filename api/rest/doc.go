// Package rest is the Kubernetes HTTP front of the object service: paths, content negotiation, discovery, OpenAPI, watches as
// streams, and forwarding of logs, exec, attach and port-forward to the node's agent.
//
// It contains no rules about objects: those are the object service's, so that they apply to every front. Responses with stored
// objects are assembled from the versions' shared encodings: a list or a watch copies bytes and builds no object (except for tables
// and for selectors that need fields of the object).
//
// # Where what is
//
//   - a request's way: server.go, path.go, negotiate.go, body.go, flow.go (priority and fairness), record.go (audit), answer.go, bodywriter.go
//   - objects: verbs.go, write.go, list.go, watch.go, table.go, token.go, subresources.go, transact.go, deleted.go, journal.go
//   - documents: discovery.go, openapi.go, derived.go, health.go, customresources.go
//   - to nodes: agents.go, proxy.go
package rest
