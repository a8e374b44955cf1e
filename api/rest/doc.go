// Package rest is the Kubernetes HTTP front of the object service: paths, content negotiation, discovery, OpenAPI, watches as
// streams, and forwarding of logs, exec, attach and port-forward to the node's agent.
//
// It contains no rules about objects: those are the object service's, so that they apply to every front. Responses with stored
// objects are assembled from the versions' shared encodings: a list or a watch copies bytes and builds no object (except for tables
// and for selectors that need fields of the object).
package rest
