// Package rest is the Kubernetes HTTP front of the object service: paths, content negotiation, discovery, OpenAPI,
// watches as streams, and the hand-over of logs, exec, attach and port-forward to the node's agent.
//
// It holds no rules about objects: those are the object service's, so that every front obeys the same ones. Answers
// about stored objects are made of the versions' shared encodings; a list or a watch copies bytes and builds no object
// (except for tables and for selectors that need to look inside).
package rest
